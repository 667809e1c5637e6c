"""Users' histories from a log of any length, block by block, in memory that grows neither with its rows nor with its users.

The log's columns are copied to disk as texts. Piece by piece its rows are translated and dealt by a hash of the user into parts
of about a million rows, also on disk. Part by part, rows are sorted and histories cut from them. A user lies in one part whole.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from dsrm_jax.data.columns import feedback, ids
from dsrm_jax.data.parts import alike, rows_of
from dsrm_jax.data.settings import DataConfig
from dsrm_jax.data.spool import Spool, spool
from dsrm_jax.data.tables import Where
from dsrm_jax.data.times import times
from dsrm_jax.errors import InputError

PART = 1 << 20  # rows of a part, about
MOST_NAMED = 1000  # unknown items counted one by one

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""`(phase, done, total)`, in rows."""


@dataclass(frozen=True)
class LogFile:
    """A file of events, a folder or a pattern of files, and which columns are what (as of env=log)."""

    path: Path
    user_column: str = DataConfig.user_column
    item_column: str = DataConfig.item_column
    click_column: str = DataConfig.click_column
    time_column: str = DataConfig.time_column
    time_format: str = DataConfig.time_format
    click_from: float = DataConfig.click_from

    def columns(self) -> list[str]:
        """Return the names of user, item, click and, where there is one, time; `InputError` where two are one."""
        names = [self.user_column, self.item_column, self.click_column]
        if self.time_column or "time" in rows_of(self.path).names:
            names.append(self.time_column or "time")
        if len(set(names)) < len(names):
            raise InputError(f"{self.path}: two of the columns {', '.join(names)} are one; expected different ones")
        return names


@dataclass
class Found:
    """What was found in a log so far."""

    events: int = 0
    unknown_events: int = 0  # of items that the policy does not know
    unknown: Counter[str] = field(default_factory=Counter)  # events of the first `MOST_NAMED` of those items
    whole: bool = True  # every user id is a whole number


@dataclass(frozen=True)
class Block:
    """Some users and their events of known items, user by user, oldest first."""

    user: pl.Series  # raw ids, as texts
    start: Int[np.ndarray, "B+1"]  # events of user b are `start[b]:start[b + 1]`
    item: Int[np.ndarray, "N"]  # vocabulary indices
    click: Bool[np.ndarray, "N"]


def blocks(
    log: LogFile, item_ids: np.ndarray, *, users: Path | None, size: int, found: Found, report: Progress
) -> Iterator[Block]:
    """Yield the histories of a log's users, or of those in a list, at most `size` at a time; each user once.

    Of the policy only the `(I,)` raw ids of its items are needed. `users` is a file of user ids (`listed`); one without an event
    has an empty history. `found` is filled while the log is read, which is over when the first block comes.

    Raises:
        InputError: files that cannot be read, or values that are no ids, clicks or times, with the line.
    """
    with tempfile.TemporaryDirectory(prefix="dsrm-jax-") as name:
        folder = Path(name)
        report("copying the log", 0, 1)
        events = spool(log.path, log.columns(), folder / "log")
        asked = None if users is None else listed(users, log.user_column, folder / "users")
        report("copying the log", 1, 1)
        total, done = events.rows + (0 if asked is None else asked.rows), 0
        parts = -(-total // PART)
        known = pl.Series(item_ids.astype(str)), pl.int_range(len(item_ids), dtype=pl.Int32, eager=True)
        for number, piece in enumerate(events.pieces()):
            _deal(_translated(piece, log, events, known, found), folder / f"events-{number:06}", parts)
            report("reading the log", done := done + len(piece), total)
        for number, piece in enumerate(asked.pieces() if asked else ()):
            user = _texts(asked or events, piece.to_series(), found)
            nothing = {"item": pl.lit(None, pl.Int32), "click": pl.lit(None, pl.Boolean), "asked": pl.lit(True)}
            _deal(user.alias("user").to_frame().with_columns(**nothing), folder / f"users-{number:06}", parts)
            report("reading the log", done := done + len(piece), total)
        done = 0
        for part in range(parts):
            files = sorted(folder.glob(f"*-*/{part}.parquet"))
            if files:
                rows = pl.concat(_of_one_type([pl.read_parquet(file) for file in files]), how="diagonal")
                count = len(rows)
                rows = rows if asked is None else rows.filter(pl.col("asked").any().over("user"))
                for block, share in _cut(rows, size, events, log.time_format):
                    yield block
                    report("recommending", done + round(share * count), total)
                done += count
        report("recommending", total, total)


def listed(path: Path, column: str, folder: Path) -> Spool:
    """Spool a list of ids: the column of a table (`spool`), or the lines of a ``.txt`` file without a header that names it.

    Raises:
        InputError: as `spool`; there is no id.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines() if path.suffix.lower() == ".txt" else [column]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}") from error
    if lines and column in lines[0]:
        return spool(path, [column], folder)
    texts = [line for line in map(str.strip, lines) if line]
    if not texts:
        raise InputError(f"{path}: the file is empty; expected an id a line")
    folder.mkdir()
    pl.DataFrame({column: texts}).write_parquet(folder / "lines.parquet")
    return Spool(str(path), (column,), (folder / "lines.parquet",), (len(texts),))


def texts_of(where: Where, values: pl.Series) -> tuple[pl.Series, bool]:
    """Return ids as texts, and whether every one is a whole number; raises as `columns.ids`."""
    found = ids(where, values)
    if found.texts is None:
        return pl.Series(found.raw).cast(pl.String), True
    return found.texts.gather(found.raw), False


def _checked(source: Spool, piece: pl.Series, read: Callable[[Where, pl.Series], T]) -> T:
    """Return what a piece of a column is; where it is nothing that it may be, the whole column is looked at, for the line."""
    try:
        return read(source.where, piece)
    except InputError:
        read(source.where, source.column(piece.name))
        raise


def _texts(source: Spool, user: pl.Series, found: Found) -> pl.Series:
    texts, whole = _checked(source, user, texts_of)
    found.whole &= whole
    return texts


def _translated(
    piece: pl.DataFrame, log: LogFile, source: Spool, known: tuple[pl.Series, pl.Series], found: Found
) -> pl.DataFrame:
    """Return events with the items' vocabulary indices, -1 where the policy does not know one."""
    user, item, clicked, *time = piece.get_columns()
    texts, _ = _checked(source, item, texts_of)
    click = _checked(source, clicked, feedback) >= log.click_from
    index = texts.replace_strict(*known, default=-1, return_dtype=pl.Int32)
    strange = texts.filter(index < 0)
    found.events, found.unknown_events = found.events + len(piece), found.unknown_events + len(strange)
    for name, count in strange.value_counts(sort=True).iter_rows():
        if name in found.unknown or len(found.unknown) < MOST_NAMED:
            found.unknown[name] += count
    rows = {"user": _texts(source, user, found), "item": index, "click": click, "asked": False}
    return pl.DataFrame(rows | ({"time": time[0]} if time else {}))


def _deal(rows: pl.DataFrame, folder: Path, parts: int) -> None:
    """Write rows to the parts of their users."""
    folder.mkdir()
    dealt = rows.with_columns(part=pl.col("user").hash() % parts)
    for (part,), own in dealt.partition_by("part", as_dict=True, include_key=False).items():
        own.write_parquet(folder / f"{part}.parquet", compression="lz4")


def _of_one_type(frames: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """Bring the times of different files to one type."""
    timed = [frame for frame in frames if "time" in frame.columns]
    return [*(alike(timed) if timed else ()), *(frame for frame in frames if "time" not in frame.columns)]


def _cut(rows: pl.DataFrame, size: int, source: Spool, time_format: str) -> Iterator[tuple[Block, float]]:
    """Cut the rows of a part, in the files' order, into blocks of users; with the share of them that came by then."""
    user = rows["user"].unique().sort()
    code = (rows["user"].rank("dense") - 1).to_numpy()
    event = np.flatnonzero(rows["item"].fill_null(-1).to_numpy() >= 0)
    code, item, click = code[event], rows["item"].to_numpy()[event], rows["click"].to_numpy()[event]
    order = np.argsort(code, kind="stable")
    if "time" in rows.columns and len(event):
        time = rows["time"].gather(event).alias(source.columns[-1])
        value, nanos, _ = _checked(source, time, partial(times, time_format=time_format))
        order = np.lexsort((value, code) if nanos is None else (nanos, value, code))
    code, item, click = code[order], item[order].astype(np.int32), click[order].astype(bool)
    for first in range(0, len(user), size):
        last = min(first + size, len(user))
        start = np.searchsorted(code, np.arange(first, last + 1))
        held = slice(start[0], start[-1])
        yield Block(user[first:last], start - start[0], item[held], click[held]), last / len(user)
