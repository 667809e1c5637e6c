"""The rows of an own log, wherever they are: one file, many, folders named ``key=value``, a frame, arrays, an Arrow stream."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from dsrm_jax.data.log import Table
from dsrm_jax.data.log_files import files_of, partition_of, root_of
from dsrm_jax.data.tables import UNREADABLE, Parts, Where, available_columns, read_columns
from dsrm_jax.errors import InputError

ROWS = "the table"  # what rows in memory are called


@dataclass(frozen=True)
class Rows:
    """A table that can be read."""

    where: Path | str  # for messages
    names: tuple[str, ...]  # of its columns
    files: tuple[Path, ...] = ()
    inside: tuple[tuple[str, ...], ...] = ()  # the columns of each file
    memory: object = None

    def read(self, names: Sequence[str]) -> tuple[Where, pl.DataFrame]:
        """Read columns, each of one type, in the files' order; where they stand comes with them.

        Raises:
            InputError: as `tables.read_table`; no row; columns in memory that differ in length or are no columns.
        """
        where: Where = self.where
        if not self.files:
            frame = _from_memory(self.memory, names)
        else:
            root = root_of(Path(self.where))
            frames = [from_file(*each, root, names) for each in zip(self.files, self.inside, strict=True)]
            frame = pl.concat(alike(frames))
            rows = tuple(len(frame) for frame in frames)
            where = self.files[0] if len(self.files) == 1 else Parts(str(self.where), self.files, rows)
        if frame.is_empty():
            raise InputError(f"{self.where} has no rows; expected at least one")
        return where, frame


def rows_of(source: str | os.PathLike[str] | Table) -> Rows:
    """Return what can be read of a file, a folder of files, a pattern of names, a frame, an Arrow stream or a mapping of arrays.

    Raises:
        InputError: there is no such file, one cannot be read, or the object is nothing of the kind.
    """
    if isinstance(source, (str, os.PathLike)):
        path, files = Path(source), tuple(files_of(source))
        inside, root = tuple(map(available_columns, files)), root_of(path)
        found = [n for file, own in zip(files, inside, strict=True) for n in (*own, *partition_of(file, root))]
        return Rows(path, tuple(dict.fromkeys(found)), files, inside)
    memory: object = source
    if isinstance(source, pl.LazyFrame):
        return Rows(ROWS, tuple(source.collect_schema().names()), memory=source)
    if hasattr(source, "__arrow_c_stream__") and not isinstance(source, Mapping) and not _is_pandas(source):
        try:
            memory = pl.DataFrame(source)  # type: ignore[arg-type]  # of any library
        except (*UNREADABLE, TypeError, ValueError) as error:
            raise InputError(f"cannot read the Arrow stream of a {type(source).__name__} ({error})") from error
    names: Iterable[object] | None = memory.keys() if isinstance(memory, Mapping) else getattr(memory, "columns", None)
    if names is None:
        raise InputError(
            f"cannot make a log of a {type(source).__name__}: expected a file, a frame, or a mapping of names to arrays"
        )
    return Rows(ROWS, tuple(str(name) for name in names), memory=memory)


def _is_pandas(table: object) -> bool:
    """Return whether it is a pandas frame, whose Arrow stream needs a further package while its columns need none."""
    return type(table).__module__.partition(".")[0] == "pandas"


def from_file(file: Path, inside: Sequence[str], root: Path, names: Sequence[str]) -> pl.DataFrame:
    """Read columns of one file of a table, those that its folders' names give among them; raises as `tables.read_table`."""
    given = {name: value for name, value in partition_of(file, root).items() if name in names and name not in inside}
    wanted = [name for name in names if name not in given]
    if not wanted:
        raise InputError(
            f"{file}: every column that is read stands in the folders' names; expected rows with an item each"
        )
    frame = read_columns(file, wanted)
    return frame.with_columns(pl.lit(value, pl.String).alias(name) for name, value in given.items()).select(names)


def alike(frames: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """Bring each column to one type: integers to the widest, types that differ otherwise to text."""
    casts = []
    for name in frames[0].columns:
        kinds = {frame[name].dtype for frame in frames}
        if len(kinds) > 1:
            casts.append(pl.col(name).cast(pl.Int64 if all(kind.is_integer() for kind in kinds) else pl.String))
    return [frame.with_columns(casts) for frame in frames]


def _from_memory(table: object, names: Sequence[str]) -> pl.DataFrame:
    if isinstance(table, (pl.DataFrame, pl.LazyFrame)):
        return table.select(names).lazy().collect()
    columns = {name: np.asarray(table[name]) for name in names}  # type: ignore[index]
    for name, values in columns.items():
        if values.ndim != 1:
            raise InputError(f"{ROWS}, column {name!r}: its shape is {values.shape}, expected one value a row")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(
            f"{ROWS}'s columns differ in length: {', '.join(f'{name} {n}' for name, n in lengths.items())}"
        )
    return pl.DataFrame([_series(name, values) for name, values in columns.items()])


def _series(name: str, values: np.ndarray) -> pl.Series:
    if values.dtype.kind == "f":
        return pl.Series(name, values.astype(np.promote_types(values.dtype, np.float32))).fill_nan(None)
    if values.dtype.kind in "biuM":
        return pl.Series(name, values)
    nothing = ("NoneType", "NAType", "NaTType")
    held = [None if type(v).__name__ in nothing or v != v else v for v in values.tolist()]
    if any(isinstance(v, bytes) for v in held):
        return pl.Series(name, [v.encode() if isinstance(v, str) else v for v in held], dtype=pl.Binary)
    return pl.Series(name, [None if v is None else str(v) for v in held], dtype=pl.String)
