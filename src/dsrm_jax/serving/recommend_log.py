"""Recommend to every user of a log, in bounded memory, into one file that is written whole or not at all."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from dsrm_jax.errors import InputError
from dsrm_jax.files import clear_orphans, sync_folder
from dsrm_jax.serving.load import ExportedPolicy
from dsrm_jax.serving.log_histories import Block, Found, LogFile, Progress, blocks, listed, texts_of

SUFFIXES = (".parquet", ".csv", ".jsonl")


@dataclass
class Recommended:
    """What was recommended to whom."""

    found: Found
    users: int = 0
    strangers: int = 0  # users without a known event
    short: int = 0  # users with fewer than k items, since no more are left to recommend


def recommend_log(
    policy: ExportedPolicy,
    log: LogFile,
    out: Path,
    *,
    k: int,
    users: Path | None = None,
    exclude: str | Path | None = "seen",
    allowed: Path | None = None,
    scores: bool = False,
    report: Progress = lambda phase, done, total: None,
) -> Recommended:
    """Recommend k items to each user of a log, or of a list.

    Args:
        policy: from `load_policy`.
        log: the users' events; only of these a policy knows.
        out: file to write, by its ending Parquet or CSV (a row an item: `user_id`, `rank`, `item_id`, `score`, `known_events`,
            `stranger`) or JSON lines (a line a user, with lists of items and scores).
        k: items a user.
        users: file of the users to recommend to; None: all of the log.
        exclude: `"seen"`: items of a user's own events, a file: the items in it, None: nothing.
        allowed: file of the items that may be recommended; None: all of the policy's.
        scores: whether to write the chances of a click.
        report: called with what is being done, and how far.

    Raises:
        InputError: files that cannot be read or written, or what `ExportedPolicy.recommend` refuses. Nothing is written then.
    """
    check_out(out)
    items = exclude if exclude is None or isinstance(exclude, str) else _items(exclude, log.item_column, policy)
    barred = policy.barred(items, None if allowed is None else _items(allowed, log.item_column, policy), k)
    told, lists = Recommended(Found()), out.suffix.lower() == ".jsonl"
    cut = partial(blocks, users=users, size=policy.block, found=told.found, report=report)
    with written(out) as write:
        for block in cut(log, policy.item_ids):
            known = np.diff(block.start)
            excluded = _excluded(policy, block, barred, seen=exclude == "seen")
            shown, score, count = policy.answer(*_arrays(policy, block), excluded=excluded, k=k)
            told.users += len(known)
            told.strangers += int((known == 0).sum())
            told.short += int((count < k).sum())
            user = block.user.cast(pl.Int64) if told.found.whole else block.user
            of_users = pl.DataFrame({"user_id": user, "known_events": known, "stranger": known == 0})
            there = np.arange(k) < count[:, None]
            row, rank = np.nonzero(there)
            of_items = {"row": row, "rank": rank + 1, "item_id": policy.raw(shown[there]), "score": score[there]}
            frame = (_lists if lists else _rows)(of_users, pl.DataFrame(of_items))
            write(frame if scores else frame.drop("scores" if lists else "score"))
    return told


def check_out(out: Path) -> None:
    """Refuse a file of another kind, or that could not be written, before the work."""
    if out.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out {out}: its ending is {out.suffix!r}; expected one of {', '.join(SUFFIXES)}")
    folder = out.absolute().parent
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"--out {out}: cannot be written; name a file in a folder of yours that exists")


def _items(path: Path, column: str, policy: ExportedPolicy) -> list[int | str]:
    """Return the raw ids of the items in a file that the policy knows."""
    with tempfile.TemporaryDirectory(prefix="dsrm-jax-") as folder:
        found = listed(path, column, Path(folder) / "items")
        texts, _ = texts_of(found.where, found.column(column))
    known = pl.Series(policy.item_ids.astype(str)).is_in(texts.unique().implode()).to_numpy()
    return policy.item_ids[known].tolist()


def _excluded(policy: ExportedPolicy, block: Block, barred: np.ndarray, *, seen: bool) -> np.ndarray:
    """Return what each user of a block may not be recommended."""
    excluded = np.tile(barred, (len(block.user), 1))
    if seen:
        row, position = np.repeat(np.arange(len(block.user)), np.diff(block.start)), policy.position[block.item]
        excluded[row[position >= 0], position[position >= 0]] = True
    return excluded


def _arrays(policy: ExportedPolicy, block: Block) -> tuple[np.ndarray, ...]:
    """Return a block's histories as `ExportedPolicy.answer` takes them: the last H events of each, right-aligned."""
    count, history, known = len(block.user), policy.meta["history_length"], np.diff(block.start)
    row = np.repeat(np.arange(count), known)
    column = history - block.start[1:][row] + np.arange(len(row))  # the last event stands in the last column
    held = column >= 0
    item, click = np.zeros((count, history), np.int32), np.zeros((count, history), bool)
    item[row[held], column[held]], click[row[held], column[held]] = block.item[held], block.click[held]
    nothing = np.zeros(count, np.int32)
    return item, click, np.minimum(known, history).astype(np.int32), nothing, nothing


def _rows(users: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Return a row an item."""
    whole = pl.concat([users[items["row"]], items.drop("row")], how="horizontal")
    return whole.select("user_id", "rank", "item_id", "score", "known_events", "stranger")


def _lists(users: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Return a row a user, with lists of items and scores."""
    lists = items.group_by("row", maintain_order=True).agg(item_ids="item_id", scores="score")
    numbered = users.with_columns(row=pl.int_range(pl.len()))
    whole = numbered.join(lists, on="row", how="left", maintain_order="left")
    return whole.select("user_id", pl.col("item_ids", "scores").fill_null([]), "known_events", "stranger")


@contextmanager
def written(out: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Give a function that adds a frame to a new file, which takes the place of an old one where all goes well.

    Raises:
        InputError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    temporary, kind = out.with_name(f".{out.name}.{os.getpid()}.tmp"), out.suffix.lower()
    clear_orphans(out.absolute().parent, out.name)
    with tempfile.TemporaryDirectory(prefix="dsrm-jax-") as folder:
        count = 0

        def write(frame: pl.DataFrame) -> None:
            nonlocal count
            if kind == ".parquet":
                frame.write_parquet(Path(folder) / f"{count:09}.parquet", compression="lz4")
            else:
                with temporary.open("ab") as stream:
                    frame.write_ndjson(stream) if kind == ".jsonl" else frame.write_csv(
                        stream, include_header=not count
                    )
            count += 1

        try:
            yield write
            if kind == ".parquet":
                pl.scan_parquet(sorted(Path(folder).glob("*.parquet"))).sink_parquet(temporary)
            os.replace(temporary, out)
            sync_folder(out.absolute().parent)
        except (OSError, pl.exceptions.ComputeError) as error:
            raise InputError(f"cannot write {out}: {error}; what was there is untouched") from error
        finally:
            temporary.unlink(missing_ok=True)
