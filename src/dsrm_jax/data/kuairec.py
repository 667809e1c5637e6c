"""KuaiRec v2.0: the big matrix trains, the almost full small matrix tests."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from dsrm_jax.data.log import InteractionLog, Interactions, ObservedMatrix
from dsrm_jax.data.settings import DataConfig
from dsrm_jax.data.sources import locate
from dsrm_jax.data.split import given_split
from dsrm_jax.data.tables import available_columns, read_table, read_text_columns, require, require_not_negative
from dsrm_jax.data.vocabulary import align_features, multi_hot
from dsrm_jax.errors import InputError

FILES = ("big_matrix.csv", "small_matrix.csv")
SHORT_VIDEO_MS = 7000  # valid play: the whole of a video up to this length, longer than this of any other
MIN_OBSERVED_SHARE = 0.9  # of the small matrix, below which it is no fully observed block
USER_FEATURES = (
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{number}" for number in range(18)),
)
ITEM_FEATURES = ("author_id", "video_type", "upload_type", "visible_status", "music_id", "video_tag_id")


def load_kuairec(
    folder: str | Path,
    *,
    click: str = DataConfig.click,
    click_threshold: float = DataConfig.click_threshold,
    k_core: int = DataConfig.k_core,
    catalogue: str = DataConfig.catalogue,
    drop_duplicates: bool = False,
) -> InteractionLog:
    """Read KuaiRec: `big_matrix.csv` trains, `small_matrix.csv` is held out and gives the observed matrix.

    A click is a valid play or a watch ratio from `click_threshold` on (KuaiRec has no click of its own);
    `feedback` is the watch ratio. Rows of the small matrix without a time (3.9 % of the official file) come one
    millisecond after their user's last timed row. `test_matrix` is the mean click of each (user, item) pair, 0 or 1
    for a pair seen once; pairs that were never seen (0.4 % of the official file) get their item's mean over the
    other users; it is absent with `catalogue="train"`, whose items the small matrix does not cover.

    Exact duplicate rows (965,819 of big_matrix's 12,530,806) are kept by default: the paper's Table 1 counts them, so that row
    counts, popularity and click rates stay comparable with it. User and item features are read where their files exist.

    `folder` holds the CSV files, or is one above (an unpacked archive, with or without `data/`); the keywords are those of
    `load_log`, and `drop_duplicates` drops rows that equal an earlier one in every column that is read. In full the log has
    7,176 users and 10,728 items in training, 1,411 users and 3,327 items held out.

    Raises:
        InputError: a file or column is missing, or a value is missing, malformed, negative or not finite.
    """
    root = locate(folder, FILES) or Path(folder)
    threshold = None if click == "valid_play" else click_threshold
    train, test = (_read_matrix(root / name, threshold, drop_duplicates=drop_duplicates) for name in FILES)
    log = given_split(train, test, k=k_core, catalogue=catalogue)
    del train, test
    matrix, unseen = _observed(log) if catalogue == "test" else (None, 0.0)
    source = "KuaiRec, big_matrix (train) and small_matrix (test"
    if matrix is not None:
        source += f"; {100 * unseen:.2g} % of its pairs unseen, filled with their item's mean click"
    path = root / "item_categories.csv"
    categories, names = read_tags(path, "feat", r"\[\s*({})?\]", "a list of tag numbers such as [27, 9]", log.item_ids)
    if path.is_file() and not names:
        raise InputError(f"{path}: no video has a tag; expected lists such as [27, 9] in column 'feat'")
    daily = root / "item_daily_features.csv"
    return replace(
        log,
        name="kuairec",
        source=source + ")",
        categories=categories,
        category_names=names,
        user_features=read_features(root / "user_features.csv", "user_id", USER_FEATURES, log.user_ids),
        item_features=read_features(daily, "video_id", ITEM_FEATURES, log.item_ids),
        test_matrix=matrix,
    )


def valid_play(play_ms: np.ndarray, duration_ms: np.ndarray) -> np.ndarray:
    """Return which plays, `(N,)` milliseconds of `(N,)` milliseconds, are clicks by KuaiRand's own rule, `(N,)` bool.

    It is all of a video up to 7 s, and more than 7 s of any other.
    """
    return np.where(duration_ms <= SHORT_VIDEO_MS, play_ms >= duration_ms, play_ms > SHORT_VIDEO_MS)


def read_features(path: Path, id_column: str, names: tuple[str, ...], known: np.ndarray) -> dict[str, np.ndarray]:
    """Read the categorical columns of a feature table that may be absent, as codes in a vocabulary's order.

    Where an id has several rows (one a day), each column takes its first value that is not missing. `names` that the file
    lacks are left out, `known` are the `(V,)` sorted raw ids of the log, and the result has name to `(V,)` int32 codes, -1
    where missing; it is empty where the file is absent.

    Raises:
        InputError: the table is malformed or has no id column.
    """
    present = available_columns(path)
    if not present:
        return {}
    wanted = [name for name in names if name in present]
    ids = read_table(path, {id_column: pl.Int64})
    # The id is read twice, as a number and with the texts, only to keep the two frames' rows in step.
    table = read_text_columns(path, wanted).with_columns(ids[id_column]) if wanted else ids
    table = table.group_by(id_column, maintain_order=True).agg(pl.col(wanted).drop_nulls().first())
    return align_features(table[id_column].to_numpy(), {name: table[name].to_list() for name in wanted}, known)


def _read_matrix(path: Path, threshold: float | None, *, drop_duplicates: bool) -> Interactions:
    """Read a matrix whose clicks are valid plays, or, given a threshold, watch ratios from it on."""
    columns: dict[str, type[pl.DataType]] = {"user_id": pl.Int32, "video_id": pl.Int32}
    if threshold is None or drop_duplicates:
        columns |= {"play_duration": pl.Int32, "video_duration": pl.Int32}
    columns |= {"timestamp": pl.Float64, "watch_ratio": pl.Float64}
    frame = read_table(path, columns, nullable=("timestamp",))
    require_not_negative(path, frame, [name for name in columns if name != "timestamp"])
    if drop_duplicates:
        frame = frame.unique(maintain_order=True, keep="first")
    timestamp = frame["timestamp"].fill_null(float("nan"))
    require(path, timestamp, timestamp.is_nan() | timestamp.is_finite(), "seconds since 1970 or nothing")
    watch_ratio = frame["watch_ratio"].to_numpy()
    if threshold is None:
        click = valid_play(frame["play_duration"].to_numpy(), frame["video_duration"].to_numpy())
    else:
        click = watch_ratio >= threshold
    user = frame["user_id"].to_numpy()
    return Interactions(
        user=user,
        item=frame["video_id"].to_numpy(),
        click=click,
        time=_milliseconds(user, timestamp.to_numpy()),
        feedback=watch_ratio.astype(np.float32),
    )


def _milliseconds(user: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Return int64 milliseconds; rows without a time come just after their user's last timed row."""
    timed = ~np.isnan(seconds)
    time = np.zeros(len(seconds), dtype=np.int64)
    time[timed] = np.rint(seconds[timed] * 1000.0)
    if not timed.all():
        users, row_user = np.unique(user, return_inverse=True)
        last = np.full(len(users), -1, dtype=np.int64)
        np.maximum.at(last, row_user[timed], time[timed])
        time[~timed] = last[row_user[~timed]] + 1
    return time


def _observed(log: InteractionLog) -> tuple[ObservedMatrix | None, float]:
    """Return the held-out users' mean click on each catalogue item and the share of pairs never seen."""
    test = log.test
    users, row = np.unique(test.user, return_inverse=True)
    column = np.searchsorted(log.catalogue, test.item)
    num_users, num_items = len(users), len(log.catalogue)
    if len(test) < MIN_OBSERVED_SHARE * num_users * num_items:
        return None, 1.0
    pair = row.astype(np.int64) * num_items + column
    rows = np.bincount(pair, minlength=num_users * num_items).reshape(num_users, num_items)
    clicks = np.bincount(pair, weights=test.click, minlength=num_users * num_items).reshape(num_users, num_items)
    seen = rows > 0
    value = np.divide(clicks, rows, where=seen, out=np.zeros_like(clicks))
    item_mean = value.sum(axis=0) / seen.sum(axis=0)
    unseen = 1.0 - seen.mean()
    if unseen > 1.0 - MIN_OBSERVED_SHARE:
        return None, float(unseen)
    value = np.where(seen, value, item_mean[None, :]).astype(np.float32)
    return ObservedMatrix(user=users.astype(np.int32), value=value), float(unseen)


def read_tags(
    path: Path, column: str, form: str, expected: str, item_ids: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a column of tag numbers, such as "[27, 9]" or "12,65", of a video table that may be absent.

    In `form`, the regular expression of a value, ``{}`` stands for one or more numbers with commas between; `expected` says it
    in words. The result is `(I, C)` bool, and the C tags' names; C is 0 where the file is absent.

    Raises:
        InputError: a value of another form.
    """
    if not path.is_file():
        return np.zeros((len(item_ids), 0), dtype=bool), ()
    frame = read_table(path, {"video_id": pl.Int64, column: pl.String}, nullable=(column,))
    good = frame[column].str.contains(r"^\s*" + form.replace("{}", r"\d+\s*(,\s*\d+\s*)*") + r"\s*$")
    require(path, frame[column], good | frame[column].is_null(), expected)
    tags = [[int(tag) for tag in re.findall(r"\d+", text or "")] for text in frame[column].to_list()]
    return multi_hot(frame["video_id"].to_numpy(), tags, item_ids)
