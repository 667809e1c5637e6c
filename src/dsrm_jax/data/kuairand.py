"""KuaiRand-Pure: the standard logs train, the random-exposure log tests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from dsrm_jax.data.kuairec import USER_FEATURES, read_features, read_tags
from dsrm_jax.data.log import InteractionLog, Interactions
from dsrm_jax.data.settings import DataConfig
from dsrm_jax.data.sources import locate
from dsrm_jax.data.split import given_split, temporal_split
from dsrm_jax.data.tables import read_table, require_binary, require_not_negative

STANDARD_LOGS = ("log_standard_4_08_to_4_21_pure.csv", "log_standard_4_22_to_5_08_pure.csv")
RANDOM_LOG = "log_random_4_22_to_5_08_pure.csv"
FILES = (*STANDARD_LOGS, RANDOM_LOG)
ITEM_FEATURES = ("author_id", "video_type", "upload_type", "visible_status", "music_id", "music_type")
MILLISECONDS = ("time_ms", "play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time")
LOG_NAMES = (
    "user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow", "is_comment", "is_forward",
    "is_hate", "long_view", "play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time", "is_profile_enter",
    "is_rand", "tab",
)  # fmt: skip
LOG_COLUMNS: dict[str, type[pl.DataType]] = {name: pl.Int64 if name in MILLISECONDS else pl.Int32 for name in LOG_NAMES}


def load_kuairand(
    folder: str | Path,
    *,
    test_fraction: float = DataConfig.test_fraction,
    k_core: int = DataConfig.k_core,
    catalogue: str = DataConfig.catalogue,
    drop_duplicates: bool = True,
) -> InteractionLog:
    """Read KuaiRand-Pure: both standard logs as training rows, the random-exposure log as held-out rows.

    Without the random log the held-out rows are each user's latest `test_fraction` of the standard
    logs, and `source` says so. A click is the log's own `is_click`; `feedback` is the watch ratio, play time
    over duration (a video of no known duration: 1 if it played at all, else 0).

    Rows that equal an earlier one in all 19 columns are dropped by default: equal to the millisecond, they are one impression
    written twice, and rarely clicked (of the sample's 2,750 about 14 %, against 45 % of all other rows), so that they bend click
    rates. The official row counts (Table 1: 1,436,609 and 1,186,059) include them; `drop_duplicates=False` keeps them.

    `folder` holds the CSV files, or is one above (an unpacked archive, with or without `data/`); the keywords are those of
    `load_log`. Videos of the feature table that no row shows are in no vocabulary.

    Raises:
        InputError: a standard log or a column is missing, or a value is missing, malformed or out of range.
    """
    root = locate(folder, FILES) or Path(folder)
    standard, dropped = _read_logs([root / name for name in STANDARD_LOGS], drop_duplicates)
    random_log = root / RANDOM_LOG
    if random_log.is_file():
        held_out, dropped_test = _read_logs([random_log], drop_duplicates)
        dropped += dropped_test
        log = given_split(standard, held_out, k=k_core, catalogue=catalogue)
        source = "KuaiRand-Pure, standard logs (train) and random-exposure log (test)"
    else:
        log = temporal_split(standard, fraction=test_fraction, k=k_core, catalogue=catalogue)
        share = f"{100 * test_fraction:g} %"
        source = (
            f"KuaiRand-Pure, standard logs; {RANDOM_LOG} is absent, "
            f"so the test split is the latest {share} of each user's rows"
        )
    if dropped:
        source += f"; {dropped:,} exact duplicate rows dropped"
    videos = root / "video_features_basic_pure.csv"
    categories, names = read_tags(videos, "tag", "({})?", "tag numbers such as 12,65, or nothing", log.item_ids)
    users = root / "user_features_pure.csv"
    return replace(
        log,
        name="kuairand",
        source=source,
        categories=categories,
        category_names=names,
        user_features=read_features(users, "user_id", USER_FEATURES, log.user_ids),
        item_features=read_features(videos, "video_id", ITEM_FEATURES, log.item_ids),
    )


def _read_logs(paths: list[Path], drop_duplicates: bool) -> tuple[Interactions, int]:
    """Read logs one after another; also return how many duplicate rows were dropped."""
    needed = ("user_id", "video_id", "time_ms", "is_click", "play_time_ms", "duration_ms")
    columns = LOG_COLUMNS if drop_duplicates else {name: LOG_COLUMNS[name] for name in needed}
    frames = []
    for path in paths:
        frame = read_table(path, columns)
        require_not_negative(path, frame, ["user_id", "video_id", "time_ms", "play_time_ms", "duration_ms"])
        require_binary(path, frame, ["is_click"])
        frames.append(frame)
    table = pl.concat(frames)
    num_rows = len(table)
    if drop_duplicates:
        table = table.unique(maintain_order=True, keep="first")
    play, duration = table["play_time_ms"].to_numpy(), table["duration_ms"].to_numpy()
    rows = Interactions(
        user=table["user_id"].to_numpy(),
        item=table["video_id"].to_numpy(),
        click=table["is_click"].to_numpy() == 1,
        time=table["time_ms"].to_numpy(),
        feedback=np.where(duration > 0, play / np.maximum(duration, 1), play > 0).astype(np.float32),
    )
    return rows, num_rows - len(table)
