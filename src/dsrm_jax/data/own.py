"""Bring your own log: any file, frame or arrays with a row for each item shown to a user."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from dsrm_jax.data.log import InteractionLog, Interactions, Table
from dsrm_jax.data.settings import DataConfig
from dsrm_jax.data.split import temporal_split
from dsrm_jax.data.tables import available_columns, read_text_columns, require
from dsrm_jax.errors import InputError, unknown_name


def load_own(
    source: str | os.PathLike[str] | Table,
    *,
    user_column: str = DataConfig.user_column,
    item_column: str = DataConfig.item_column,
    click_column: str = DataConfig.click_column,
    time_column: str = DataConfig.time_column,
    click_from: float = DataConfig.click_from,
    test_fraction: float = DataConfig.test_fraction,
    k_core: int = DataConfig.k_core,
    catalogue: str = DataConfig.catalogue,
) -> InteractionLog:
    """Read a log of shown items and feedback from the columns named.

    A row is one item shown to one user. Feedback is 0/1 (also true/false) or any graded number that is not
    negative; `click_from` and above is a click. Times are whole numbers (kept as they are), other
    numbers (kept as ranks) or dates and times (milliseconds since the epoch); without a time column the
    rows' order counts. Rows in memory give exactly the log that they give as a CSV file.

    `source` is a CSV file with a header line, a Parquet file, a Polars or pandas frame, or a mapping of names to arrays; the
    keywords are those of `load_log`. Raw ids are int64 where every id of the column is a whole number, else strings; there
    are no categories or features.

    Raises:
        InputError: the file is missing or unreadable, a column is not in it (with the nearest name that is), columns differ
            in length, a value is missing or of the wrong kind (with the line), or no row or every row would be a click.
    """
    where: Path | str
    if isinstance(source, (str, os.PathLike)):
        where = Path(source)
        found, read = available_columns(where), partial(read_text_columns, where)
    else:
        where, found, read = "the table", _names(source), partial(_as_texts, source)
    columns = {"user_column": user_column, "item_column": item_column, "click_column": click_column}
    if time_column or "time" in found:
        columns["time_column"] = time_column or "time"
    _check_columns(where, columns, found)
    table = read(tuple(columns.values()))
    feedback = _feedback(where, table[click_column])
    click = feedback >= click_from
    if click.all() or not click.any():
        share = "every row" if click.any() else "no row"
        raise InputError(
            f"{where}: with data.click_from={click_from:g}, {share} is a click (column "
            f"{click_column!r} runs from {feedback.min():g} to {feedback.max():g}); "
            "a log needs rows with and without a click"
        )
    time = _time(where, table[columns["time_column"]]) if "time_column" in columns else np.arange(len(table))
    user, item = _ids(where, table[user_column]), _ids(where, table[item_column])
    rows = Interactions(user, item, click, time, feedback)
    log = temporal_split(rows, fraction=test_fraction, k=k_core, catalogue=catalogue)
    name = where.name if isinstance(where, Path) else "rows in memory"
    return replace(log, name="log", source=f"{name}, click at {click_column} >= {click_from:g}")


def _check_columns(where: Path | str, columns: Mapping[str, str], found: tuple[str, ...]) -> None:
    if not found and isinstance(where, Path):
        raise InputError(f"{where}: file not found; expected a CSV or Parquet file in data.path")
    for field, name in columns.items():
        if not name:
            raise InputError(f"data.{field} is empty; expected one of {where}'s columns: {', '.join(found)}")
        if name not in found:
            raise InputError(f"{where}, data.{field}: {unknown_name('column', name, found)}")
    if len(set(columns.values())) < len(columns):
        raise InputError(f"{where}: two of data.{', data.'.join(columns)} name one column; expected different ones")


def _names(table: object) -> tuple[str, ...]:
    """Return the names of the columns of a frame or mapping."""
    names = table.keys() if isinstance(table, Mapping) else getattr(table, "columns", None)
    if names is None:
        raise InputError(
            f"cannot make a log of a {type(table).__name__}: expected a file, a frame, or a mapping of names to arrays"
        )
    return tuple(str(name) for name in names)


def _as_texts(table: Table, names: tuple[str, ...]) -> pl.DataFrame:
    """Return columns in memory as the texts that a CSV file would hold, missing values as null."""
    columns = {name: np.asarray(table[name]) for name in names}
    for name, values in columns.items():
        if values.ndim != 1:
            raise InputError(f"the table, column {name!r}: its shape is {values.shape}, expected one value a row")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(
            f"the table's columns differ in length: {', '.join(f'{name} {n}' for name, n in lengths.items())}"
        )
    if not max(lengths.values()):
        raise InputError("the table has no rows; expected at least one")
    return pl.DataFrame([_texts(name, values) for name, values in columns.items()])


def _texts(name: str, values: np.ndarray) -> pl.Series:
    if values.dtype.kind == "f":
        return pl.Series(name, values.astype(np.promote_types(values.dtype, np.float32))).fill_nan(None).cast(pl.String)
    if values.dtype.kind in "biuM":
        return pl.Series(name, values).cast(pl.String)
    nothing = ("NoneType", "NAType", "NaTType")
    texts = [None if type(v).__name__ in nothing or v != v else str(v) for v in values.tolist()]
    return pl.Series(name, texts, dtype=pl.String)


def _feedback(where: Path | str, texts: pl.Series) -> np.ndarray:
    """Return `(N,)` float32 that is finite and not negative."""
    texts = texts.str.strip_chars()
    values = texts.str.to_lowercase().replace({"true": "1", "false": "0"}).cast(pl.Float32, strict=False)
    require(where, texts, values.is_finite() & (values >= 0), "0, 1 or a finite number that is not negative")
    return values.to_numpy()


def _time(where: Path | str, texts: pl.Series) -> np.ndarray:
    """Return `(N,)` int64 in the order of the times."""
    whole = texts.cast(pl.Int64, strict=False)
    if whole.null_count() == 0:
        return whole.to_numpy()
    numbers = texts.cast(pl.Float64, strict=False)
    if numbers.null_count() < len(numbers):
        require(where, texts, numbers.is_finite(), "a finite number, as in the other rows")
        return numbers.rank("dense").cast(pl.Int64).to_numpy()
    try:
        moments = texts.str.to_datetime(time_unit="ms", strict=False)
    except pl.exceptions.PolarsError:
        moments = pl.Series(texts.name, [None] * len(texts), dtype=pl.Datetime("ms"))
    require(where, texts, moments.is_not_null(), "a number or a date and time such as 2020-07-05 12:30:00")
    return moments.cast(pl.Int64).to_numpy()


def _ids(where: Path | str, texts: pl.Series) -> np.ndarray:
    """Return `(N,)` int64 where every id is a whole number in plain form, else strings."""
    require(where, texts, texts.str.len_chars() > 0, "an id")
    whole = texts.cast(pl.Int64, strict=False)
    # "007" and "7" are different ids, so only texts that a number prints as are numbers.
    if (whole.cast(pl.String) == texts).fill_null(False).all():
        return whole.to_numpy()
    return texts.to_numpy().astype(str)
