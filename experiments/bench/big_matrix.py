"""Write a seeded stand-in for the KuaiRec folder, full size by default, and measure how long it loads.

Schema, missing values and sizes are those of the official files (https://kuairec.com, version 2.0): `big_matrix.csv`
with 7.7 % exact duplicates, a 99.6 % full `small_matrix.csv` of users and videos of the big one with 3.9 % of
its times missing, `item_categories.csv`, `user_features.csv`, `item_daily_features.csv`. Its behaviour means
nothing.

    python experiments/bench/big_matrix.py --folder /tmp/kuairec
    python experiments/bench/big_matrix.py --measure /tmp/kuairec   # parse, cache, load again
"""

import argparse
import json
import resource
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

START = 1593878400  # 2020-07-05 in Beijing, seconds since 1970
BEIJING = 8 * 3600
SECONDS = 63 * 86400
CHUNK_ROWS = 1_000_000
DUPLICATE_SHARE = 0.077
SEEN_SHARE = 0.9962
MISSING_TIME_SHARE = 0.0389
NUM_TAGS = 31
COLUMNS = ("user_id", "video_id", "play_duration", "video_duration", "time", "date", "timestamp", "watch_ratio")


def watch_table(
    rng: np.random.Generator, user: np.ndarray, video: np.ndarray, seconds: np.ndarray, duration: np.ndarray
) -> pl.DataFrame:
    """Return rows in the official schema: `(N,)` users, videos, times in s, `(V,)` durations in ms."""
    play = np.rint(rng.lognormal(-0.4, 0.9, len(user)) * duration[video]).astype(np.int64)
    frame = pl.DataFrame({"user_id": user, "video_id": video, "play_duration": play, "video_duration": duration[video]})
    local = np.rint((seconds + BEIJING) * 1000).astype(np.int64)
    clock = pl.from_epoch(pl.Series(local), time_unit="ms")
    return frame.with_columns(
        time=clock.dt.strftime("%Y-%m-%d %H:%M:%S%.3f"),
        date=clock.dt.strftime("%Y%m%d").cast(pl.Int32),
        timestamp=pl.Series(seconds),
        watch_ratio=pl.Series(play / duration[video]),
    ).select(COLUMNS)


def big_rows(
    rng: np.random.Generator, num_rows: int, num_users: int, num_videos: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw users (sorted), videos and times (sorted within a user), every user and video at least once."""
    activity = rng.lognormal(0.0, 0.6, num_users)
    appeal = rng.lognormal(0.0, 1.2, num_videos)
    user = rng.choice(num_users, num_rows, p=activity / activity.sum()).astype(np.int32)
    video = rng.choice(num_videos, num_rows, p=appeal / appeal.sum()).astype(np.int32)
    user[:num_users] = np.arange(num_users)
    video[-num_videos:] = np.arange(num_videos)
    seconds = START + np.floor(rng.random(num_rows) * SECONDS * 1000) / 1000
    order = np.lexsort((seconds, user))
    return user[order], video[order], seconds[order]


def write_chunks(path: Path, frames: Iterator[pl.DataFrame]) -> None:
    """Append frames to a CSV file, the header once."""
    with path.open("wb") as stream:
        for number, frame in enumerate(frames):
            frame.write_csv(stream, include_header=number == 0)


def write_big_matrix(rng: np.random.Generator, path: Path, sizes: argparse.Namespace, duration: np.ndarray) -> None:
    """Write `big_matrix.csv`; each duplicate follows its original, as in the official file."""
    num_repeats = round(DUPLICATE_SHARE * sizes.rows)
    user, video, seconds = big_rows(rng, sizes.rows - num_repeats, sizes.users, sizes.videos)
    repeats = np.ones(len(user), dtype=np.int64)
    repeats[rng.choice(len(user), num_repeats, replace=False)] = 2

    def chunks() -> Iterator[pl.DataFrame]:
        for first in range(0, len(user), CHUNK_ROWS):
            part = slice(first, first + CHUNK_ROWS)
            frame = watch_table(rng, user[part], video[part], seconds[part], duration)
            frame = frame[np.repeat(np.arange(len(frame)), repeats[part])]
            yield frame.sample(fraction=1.0, shuffle=True, seed=first) if sizes.shuffle else frame

    write_chunks(path, chunks())


def write_small_matrix(rng: np.random.Generator, path: Path, sizes: argparse.Namespace, duration: np.ndarray) -> None:
    """Write `small_matrix.csv`: nearly all pairs of some users and videos, dates as floats."""
    users = np.sort(rng.choice(sizes.users, sizes.small_users, replace=False)).astype(np.int32)
    videos = np.sort(rng.choice(sizes.videos, sizes.small_videos, replace=False)).astype(np.int32)

    def chunks() -> Iterator[pl.DataFrame]:
        for user in users:
            video = rng.permutation(videos)[: rng.binomial(len(videos), SEEN_SHARE)]
            seconds = np.sort(START + np.floor(rng.random(len(video)) * SECONDS * 1000) / 1000)
            frame = watch_table(rng, np.full(len(video), user), video, seconds, duration)
            missing = pl.Series(rng.random(len(video)) < MISSING_TIME_SHARE)
            yield frame.with_columns(pl.col("date").cast(pl.Float64)).with_columns(
                pl.when(~missing).then(pl.col("time", "date", "timestamp"))
            )

    write_chunks(path, chunks())


def write_tables(rng: np.random.Generator, folder: Path, sizes: argparse.Namespace, duration: np.ndarray) -> None:
    """Write the item and user tables."""
    video = np.arange(sizes.videos)
    tags = [sorted(rng.choice(NUM_TAGS, rng.choice([1, 2, 3], p=[0.85, 0.12, 0.03]), replace=False)) for _ in video]
    lists = ["[" + ", ".join(str(tag) for tag in row) + "]" for row in tags]
    pl.DataFrame({"video_id": video, "feat": lists}).write_csv(folder / "item_categories.csv")
    levels = ["full_active", "high_active", "middle_active", "UNKNOWN"]
    user = np.arange(sizes.users)
    codes = {f"onehot_feat{number}": rng.integers(0, number + 2, sizes.users) for number in range(18)}
    pl.DataFrame(
        {"user_id": user, "user_active_degree": rng.choice(levels, sizes.users, p=[0.85, 0.1, 0.04, 0.01])}
        | {"is_lowactive_period": np.zeros_like(user), "is_live_streamer": (rng.random(len(user)) < 0.007) * 1}
        | {"is_video_author": (rng.random(len(user)) < 0.17) * 1}
        | {"follow_user_num_range": rng.choice(["0", "(0,10]", "(10,50]", "500+"], sizes.users)}
        | codes
    ).with_columns(pl.when(user > 74).then(pl.col("^onehot_feat1[2-7]$"))).write_csv(folder / "user_features.csv")
    days = 32
    item = np.repeat(video, days)
    pl.DataFrame(
        {
            "video_id": item,
            "date": np.tile(20200705 + np.arange(days) % 27, sizes.videos),
            "author_id": np.repeat(rng.integers(0, 8369, sizes.videos), days),
            "video_type": np.repeat(rng.choice(["NORMAL", "AD"], sizes.videos, p=[0.97, 0.03]), days),
            "upload_type": np.repeat(rng.choice(["ShortImport", "Web", "Kmovie"], sizes.videos), days),
            "visible_status": np.repeat("public", len(item)),
            "video_duration": np.repeat(duration, days),
            "music_id": np.repeat(rng.integers(10**9, 4 * 10**9, sizes.videos), days),
            "video_tag_id": np.repeat(rng.integers(0, 2000, sizes.videos), days),
            "show_cnt": rng.integers(0, 10**6, len(item)),
        }
    ).write_csv(folder / "item_daily_features.csv")


def generate(folder: Path, sizes: argparse.Namespace) -> None:
    """Write all files of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sizes.seed)
    duration = np.maximum(3067, rng.lognormal(9.2, 0.45, sizes.videos)).astype(np.int64)
    write_big_matrix(rng, folder / "big_matrix.csv", sizes, duration)
    write_small_matrix(rng, folder / "small_matrix.csv", sizes, duration)
    write_tables(rng, folder, sizes, duration)


def measure(folder: Path) -> dict[str, float | int | str]:
    """Load the folder as `load_log` does, from its cache if there is one; return seconds and peak memory."""
    from dsrm_jax.data.sources import load_log

    wall, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log = load_log("kuairec", path=folder)
    return {
        "source": log.source,
        "train_rows": len(log.train),
        "test_rows": len(log.test),
        "wall_s": round(time.perf_counter() - wall, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    """Generate a folder, or measure one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder to write")
    parser.add_argument("--measure", type=Path, help="folder to load and time; run twice: parse, then cache")
    parser.add_argument("--rows", type=int, default=12_530_806)
    parser.add_argument("--users", type=int, default=7_176)
    parser.add_argument("--videos", type=int, default=10_728)
    parser.add_argument("--small-users", type=int, default=1_411)
    parser.add_argument("--small-videos", type=int, default=3_327)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shuffle", action="store_true", help="shuffle blocks of a million rows (worst case)")
    arguments = parser.parse_args()
    if arguments.folder:
        generate(arguments.folder, arguments)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
    if not arguments.folder and not arguments.measure:
        parser.error("give --folder or --measure")


if __name__ == "__main__":
    main()
