"""Reading CSV and Parquet tables whose every defect becomes one clear sentence."""

import csv
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from dsrm_jax.errors import InputError

FIRST_LINE = 2  # the file's first line is the header


def read_table(
    path: str | Path, columns: Mapping[str, type[pl.DataType]], *, nullable: Collection[str] = ()
) -> pl.DataFrame:
    """Read some columns of a table with the types they must have, in file order.

    Only the named columns are parsed, by all cores, straight to their final types. The file is a CSV file with a header line, or
    a Parquet file (suffix `.parquet`); the frame has at least one row and exactly `columns` (name to Polars type), in that order,
    of which those in `nullable` may have missing values.

    Raises:
        InputError: the file is missing, empty or malformed, a column is missing, or a value is missing or of another type.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: file not found; check the folder, or fetch the data set with `make data`")
    found = _column_names(path)
    for name in columns:
        if name not in found:
            raise InputError(f"{path}: column {name!r} is missing; its columns are {', '.join(found[:40]) or '(none)'}")
    try:
        frame = _scan(path, columns).collect()
    except pl.exceptions.PolarsError as error:
        raise _explained(path, columns, error) from error
    if frame.is_empty():
        raise InputError(f"{path}: the file has a header but no rows; expected at least one")
    for name in columns:
        if name not in nullable and frame[name].null_count():
            line = _line(path, frame[name].is_null())
            raise InputError(f"{path}, {line}, column {name!r}: the value is missing; expected {_kind(columns[name])}")
    return frame


def read_text_columns(path: str | Path, columns: Collection[str]) -> pl.DataFrame:
    """Read columns as text, missing values as null: for codes whose type differs between releases; raises as `read_table`."""
    return read_table(path, dict.fromkeys(columns, pl.String), nullable=tuple(columns))


def available_columns(path: str | Path) -> tuple[str, ...]:
    """Return the names of a table's columns; empty where the file does not exist; `InputError` where it is empty or no table."""
    path = Path(path)
    return _column_names(path) if path.is_file() else ()


def require(path: str | Path, values: pl.Series, good: pl.Series, expected: str) -> None:
    """Raise for the first of a column's `values`, complete and in file order, that is not `good`, a Boolean of the same length.

    Raises:
        InputError: naming the file (or a table in memory, where `path` is a text), line, column, value and what was expected.
    """
    bad = ~good.fill_null(False)
    if bad.any():
        value = values.filter(bad)[0]
        line = _line(path, bad)
        raise InputError(f"{path}, {line}, column {values.name!r}: {value!r} is not allowed; expected {expected}")


def require_not_negative(path: str | Path, frame: pl.DataFrame, names: Sequence[str]) -> None:
    """Raise, as `require`, for the first negative, infinite or not-a-number value in the named columns."""
    for name in names:
        values = frame[name]
        good = (values >= 0) & values.is_finite() if values.dtype.is_float() else values >= 0
        require(path, values, good, "a finite number that is not negative")


def require_binary(path: str | Path, frame: pl.DataFrame, names: Sequence[str]) -> None:
    """Raise, as `require`, for the first value other than 0 or 1 in the named columns."""
    for name in names:
        require(path, frame[name], (frame[name] == 0) | (frame[name] == 1), "0 or 1")


def _column_names(path: Path) -> tuple[str, ...]:
    if path.suffix == ".parquet":
        try:
            return tuple(pl.scan_parquet(path).collect_schema().names())
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"{path}: not a readable Parquet file ({_first_line(error)}); fetch it again") from error
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = next(csv.reader(stream), None)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: its first line is no CSV header in UTF-8; expected column names") from error
    if not header:
        raise InputError(f"{path}: the file is empty; expected a header line and rows")
    return tuple(header)


def _scan(path: Path, columns: Mapping[str, type[pl.DataType]], *, as_text: bool = False) -> pl.LazyFrame:
    kinds = dict.fromkeys(columns, pl.String) if as_text else dict(columns)
    if path.suffix != ".parquet":
        # Without inference every other column is text that is never parsed.
        return pl.scan_csv(path, schema_overrides=kinds, infer_schema=False, low_memory=True).select(list(columns))
    table = pl.scan_parquet(path)
    schema = table.collect_schema()
    casts = []
    for name, kind in columns.items():
        column = pl.col(name)
        if schema[name].is_float() and kind.is_integer():
            # By way of text, so that 2.0 becomes 2, and 2.5 is refused as in a CSV file instead of cut.
            whole = column.cast(pl.Int64, strict=False)
            column = pl.when(whole == column).then(whole.cast(pl.String)).otherwise(column.cast(pl.String))
        casts.append(column.cast(kinds[name]).alias(name))
    return table.select(casts)


def _explained(path: Path, columns: Mapping[str, type[pl.DataType]], error: Exception) -> InputError:
    """Find the first value that cannot have its type; only after a failure, so it may be slow."""
    try:
        texts = _scan(path, columns, as_text=True).collect()
    except pl.exceptions.PolarsError:
        return _ragged(path) or InputError(f"{path}: not a readable table ({_first_line(error)})")
    for name, kind in columns.items():
        bad = texts[name].is_not_null() & texts[name].cast(kind, strict=False).is_null()
        if bad.any():
            value = texts[name].filter(bad)[0]
            return InputError(f"{path}, {_line(path, bad)}, column {name!r}: {value!r} is not {_kind(kind)}")
    return _ragged(path) or InputError(f"{path}: not a readable table ({_first_line(error)})")


def _ragged(path: Path) -> InputError | None:
    if path.suffix == ".parquet":
        return None
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream)
            width = len(next(rows))
            for row in rows:
                if len(row) > width:
                    return InputError(
                        f"{path}, line {rows.line_num}: {len(row)} fields; expected {width}, as the header"
                    )
    except (UnicodeDecodeError, csv.Error, StopIteration):
        return None
    return None


def _line(path: str | Path, bad: pl.Series) -> str:
    row = int(np.flatnonzero(bad.to_numpy())[0])
    in_lines = isinstance(path, Path) and path.suffix != ".parquet"
    return f"line {row + FIRST_LINE}" if in_lines else f"row {row + 1}"


def _kind(kind: type[pl.DataType]) -> str:
    if kind.is_integer():
        return "a whole number"
    return "a number" if kind.is_float() else "text"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
