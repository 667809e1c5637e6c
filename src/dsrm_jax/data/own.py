"""Bring your own log: any CSV or Parquet file with a row for each item shown to a user."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from dsrm_jax.data.log import InteractionLog
from dsrm_jax.data.split import RawRows, temporal_split
from dsrm_jax.data.tables import available_columns, read_text_columns, require
from dsrm_jax.errors import InputError, unknown_name

if TYPE_CHECKING:
    from dsrm_jax.data.settings import DataConfig


def load_own(path: str | os.PathLike[str], config: "DataConfig") -> InteractionLog:
    """Read a log of shown items and feedback whose columns the configuration names.

    A row is one item shown to one user. Feedback is 0/1 (also true/false) or any graded number that is not
    negative; `config.click_from` and above is a click. Times are whole numbers (kept as they are), other
    numbers (kept as ranks) or dates and times (milliseconds since the epoch); without a time column the
    file's order counts. Each user's latest `config.test_fraction` of rows are held out.

    Args:
        path: a CSV file with a header line, or a Parquet file.
        config: user_column, item_column, click_column, time_column, click_from, k_core, test_fraction and
            catalogue are used.

    Returns:
        The log. Raw ids are int64 where every id of the column is a whole number, else strings; there are no
        categories or features.

    Raises:
        InputError: the file is missing or unreadable, a column is not in it (with the nearest name that is),
            a value is missing or of the wrong kind (with the line), or no row or every row would be a click.
    """
    path = Path(path)
    fields = ("user_column", "item_column", "click_column", "time_column")
    columns = {field: name for field in fields if (name := getattr(config, field))}
    _check_columns(path, columns)
    table = read_text_columns(path, tuple(columns.values()))
    feedback = _feedback(path, table[columns["click_column"]])
    click = feedback >= config.click_from
    if click.all() or not click.any():
        share = "every row" if click.any() else "no row"
        raise InputError(
            f"{path}: with data.click_from={config.click_from:g}, {share} is a click (column "
            f"{config.click_column!r} runs from {feedback.min():g} to {feedback.max():g}); "
            "a log needs rows with and without a click"
        )
    time = _time(path, table[columns["time_column"]]) if "time_column" in columns else np.arange(len(table))
    user, item = (_ids(path, table[columns[field]]) for field in ("user_column", "item_column"))
    rows = RawRows(user, item, click, time, feedback)
    split = temporal_split(rows, fraction=config.test_fraction, k=config.k_core, catalogue=config.catalogue)
    return InteractionLog(
        name="log",
        source=f"{path.name}, click at {config.click_column} >= {config.click_from:g}",
        user_ids=split.user_ids,
        item_ids=split.item_ids,
        train=split.train,
        test=split.test,
        catalogue=split.catalogue,
        categories=np.zeros((len(split.item_ids), 0), dtype=bool),
    )


def _check_columns(path: Path, columns: dict[str, str]) -> None:
    found = available_columns(path)
    if not found:
        raise InputError(f"{path}: file not found; expected a CSV or Parquet file in data.path")
    for field in ("user_column", "item_column", "click_column"):
        if field not in columns:
            raise InputError(f"data.{field} is empty; expected one of {path}'s columns: {', '.join(found)}")
    for field, name in columns.items():
        if name not in found:
            raise InputError(f"{path}, data.{field}: {unknown_name('column', name, found)}")
    if len(set(columns.values())) < len(columns):
        raise InputError(
            f"{path}: two of data.{', data.'.join(columns)} name one column; expected different ones"
        )


def _feedback(path: Path, texts: pl.Series) -> np.ndarray:
    """Return `(N,)` float32 that is finite and not negative."""
    texts = texts.str.strip_chars()
    values = texts.str.to_lowercase().replace({"true": "1", "false": "0"}).cast(pl.Float32, strict=False)
    require(path, texts, values.is_finite() & (values >= 0), "0, 1 or a finite number that is not negative")
    return values.to_numpy()


def _time(path: Path, texts: pl.Series) -> np.ndarray:
    """Return `(N,)` int64 in the order of the times."""
    whole = texts.cast(pl.Int64, strict=False)
    if whole.null_count() == 0:
        return whole.to_numpy()
    numbers = texts.cast(pl.Float64, strict=False)
    if numbers.null_count() < len(numbers):
        require(path, texts, numbers.is_finite(), "a finite number, as in the other rows")
        return numbers.rank("dense").cast(pl.Int64).to_numpy()
    try:
        moments = texts.str.to_datetime(time_unit="ms", strict=False)
    except pl.exceptions.PolarsError:
        moments = pl.Series(texts.name, [None] * len(texts), dtype=pl.Datetime("ms"))
    require(path, texts, moments.is_not_null(), "a number or a date and time such as 2020-07-05 12:30:00")
    return moments.cast(pl.Int64).to_numpy()


def _ids(path: Path, texts: pl.Series) -> np.ndarray:
    """Return `(N,)` int64 where every id is a whole number in plain form, else strings."""
    require(path, texts, texts.str.len_chars() > 0, "an id")
    whole = texts.cast(pl.Int64, strict=False)
    # "007" and "7" are different ids, so only texts that a number prints as are numbers.
    if (whole.cast(pl.String) == texts).fill_null(False).all():
        return whole.to_numpy()
    return texts.to_numpy().astype(str)
