"""Reading CSV and Parquet tables whose every defect becomes one clear sentence."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import polars as pl

from dsrm_jax.data.csv_layout import Layout, header, layout
from dsrm_jax.data.csv_text import LOST, line_of, read_texts, scan
from dsrm_jax.data.log_files import is_parquet, plain
from dsrm_jax.errors import InputError, first_line

# a Polars that does not know a column's type (as 1.30 does not know UUIDs) panics
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


@dataclass(frozen=True)
class Parts:
    """Tables read one after the other as one."""

    name: str
    files: tuple[Path, ...]
    rows: tuple[int, ...]  # of each file

    def __str__(self) -> str:
        return self.name


Where: TypeAlias = Path | str | Parts
"""Where a column stands: a file, several, or what rows in memory are called."""


def read_table(
    path: str | Path, columns: Mapping[str, type[pl.DataType]], *, nullable: Collection[str] = ()
) -> pl.DataFrame:
    """Read some columns of a table with the types they must have, in file order.

    Only the named columns are parsed, by all cores, straight to their final types. The file is a CSV file with a header line
    (`csv_layout.layout` says which), or a Parquet file, either compressed or not; the frame has at least one row and exactly
    `columns` (name to Polars type), in that order, of which those in `nullable` may have missing values.

    Raises:
        InputError: the file is missing, empty or malformed, a column is missing, or a value is missing or of another type.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: file not found; check the folder, or fetch the data set with `make data`")
    with plain(path) as file:
        frame = _read_parquet(path, file, columns) if is_parquet(file) else _read_csv(layout(file, path), dict(columns))
    if frame.is_empty():
        raise InputError(f"{path}: the file has a header but no rows; expected at least one")
    for name in columns:
        if name not in nullable and frame[name].null_count():
            bad = place(path, int(frame[name].is_null().arg_max() or 0))
            raise InputError(f"{bad}, column {name!r}: the value is missing; expected {_kind(columns[name])}")
    return frame


def read_columns(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Read columns of a CSV file as texts, of a Parquet file as the types that it has; raises as `read_table`."""
    with plain(path) as file:
        if not is_parquet(file):
            return _read_csv(layout(file, path), dict.fromkeys(columns, pl.String))
        try:
            return pl.scan_parquet(file, hive_partitioning=False).select(list(columns)).collect()
        except UNREADABLE as error:
            raise _no_parquet(path, error) from error


def read_text_columns(path: str | Path, columns: Collection[str]) -> pl.DataFrame:
    """Read columns as text, missing values as null: for codes whose type differs between releases; raises as `read_table`."""
    return read_table(path, dict.fromkeys(columns, pl.String), nullable=tuple(columns))


def available_columns(path: str | Path) -> tuple[str, ...]:
    """Return the names of a table's columns; empty where the file does not exist; `InputError` where it is empty or no table."""
    path = Path(path)
    if not path.is_file():
        return ()
    with plain(path, head=True) as file:
        if not is_parquet(file):
            return header(file, path)
        try:
            return tuple(pl.scan_parquet(file, hive_partitioning=False).collect_schema().names())
        except UNREADABLE as error:
            raise _no_parquet(path, error) from error


def place(where: Where, row: int) -> str:
    """Return file and line (of a CSV file) or row (of any other table, from 1) of the row of a number, from 0."""
    if isinstance(where, Parts):
        ends = np.cumsum(where.rows)
        part = int(np.searchsorted(ends, row, side="right"))
        return place(where.files[part], row - int(ends[part]) + where.rows[part])
    if isinstance(where, Path):
        with plain(where) as file:
            if not is_parquet(file):
                return f"{where}, line {line_of(layout(file, where), row)}"
    return f"{where}, row {row + 1}"


def require(where: Where, values: pl.Series, good: pl.Series, expected: str) -> None:
    """Raise for the first of a column's `values`, complete and in file order, that is not `good`, a Boolean of the same length.

    Raises:
        InputError: naming the file (or a table in memory, where `where` is a text), line, column, value and what was expected.
    """
    bad = ~good.fill_null(False)
    if bad.any():
        row = int(bad.arg_max() or 0)
        value = values[row]
        shown = repr(f"{value[:60]}..." if isinstance(value, str) and len(value) > 60 else value)
        wrong = "the value is missing" if value is None else f"{shown} is not allowed"
        raise InputError(f"{place(where, row)}, column {values.name!r}: {wrong}; expected {expected}")


def require_not_negative(path: Where, frame: pl.DataFrame, names: Sequence[str]) -> None:
    """Raise, as `require`, for the first negative, infinite or not-a-number value in the named columns."""
    for name in names:
        values = frame[name]
        good = (values >= 0) & values.is_finite() if values.dtype.is_float() else values >= 0
        require(path, values, good, "a finite number that is not negative")


def require_binary(path: Where, frame: pl.DataFrame, names: Sequence[str]) -> None:
    """Raise, as `require`, for the first value other than 0 or 1 in the named columns."""
    for name in names:
        require(path, frame[name], (frame[name] == 0) | (frame[name] == 1), "0 or 1")


def _read_csv(found: Layout, columns: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    """Read columns straight to their types; what cannot be read so as texts, of which the first that does not fit is named."""
    frame = _scanned(found, columns)
    if frame is None:
        as_text = dict.fromkeys(columns, pl.String)
        texts = _scanned(found, as_text) if columns != as_text else None
        texts = read_texts(found, tuple(columns)) if texts is None else texts
        frame = texts.select(pl.col(name).cast(kind, strict=False) for name, kind in columns.items())
        for name, kind in columns.items():
            _require_kind(found.name, texts[name], frame[name], kind)
    for name, kind in columns.items():
        if not found.utf8 and kind == pl.String:
            values = frame[name]
            expected = "UTF-8 text; convert the file, for example by iconv -f latin1 -t utf8"
            require(found.name, values, values.is_null() | ~values.str.contains(LOST, literal=True), expected)
    return frame


def _scanned(found: Layout, columns: Mapping[str, type[pl.DataType]]) -> pl.DataFrame | None:
    try:
        return scan(found, columns) if found.plain else None
    except pl.exceptions.PolarsError:
        return None


def _read_parquet(path: Path, file: Path, columns: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    try:
        table = pl.scan_parquet(file, hive_partitioning=False)
        schema = table.collect_schema()
    except UNREADABLE as error:
        raise _no_parquet(path, error) from error
    for name in columns:
        if name not in schema:
            known = ", ".join(schema.names()[:40]) or "(none)"
            raise InputError(f"{path}: column {name!r} is missing; its columns are {known}")
    casts = []
    for name, kind in columns.items():
        column = pl.col(name)
        if schema[name].is_float() and kind.is_integer():
            # By way of text, so that 2.0 becomes 2, and 2.5 is refused as in a CSV file instead of cut.
            whole = column.cast(pl.Int64, strict=False)
            column = pl.when(whole == column).then(whole.cast(pl.String)).otherwise(column.cast(pl.String))
        casts.append(column)
    try:
        raw = table.select(column.alias(name) for column, name in zip(casts, columns, strict=True)).collect()
        frame = raw.select(pl.col(name).cast(kind, strict=False) for name, kind in columns.items())
        texts = {name: raw[name].cast(pl.String) for name in columns if frame[name].null_count()}
    except UNREADABLE as error:
        raise InputError(f"{path}: not a readable table ({first_line(error)})") from error
    for name, values in texts.items():
        _require_kind(path, values, frame[name], columns[name])
    return frame


def _require_kind(path: Path, texts: pl.Series, values: pl.Series, kind: type[pl.DataType]) -> None:
    bad = values.is_null() & texts.is_not_null()
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise InputError(f"{place(path, row)}, column {texts.name!r}: {texts[row]!r} is not {_kind(kind)}")


def _kind(kind: type[pl.DataType]) -> str:
    if kind.is_integer():
        return "a whole number"
    return "a number" if kind.is_float() else "text"


def _no_parquet(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a readable Parquet file ({first_line(error)}); fetch it again, or update Polars")
