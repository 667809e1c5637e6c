"""Bring your own log: any file, frame or arrays with a row for each item shown to a user."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dsrm_jax.data.columns import Ids, feedback, flags, ids
from dsrm_jax.data.log import InteractionLog, Interactions, Table
from dsrm_jax.data.log_files import root_of
from dsrm_jax.data.own_items import Items, read_items
from dsrm_jax.data.parts import Rows, rows_of
from dsrm_jax.data.settings import DataConfig
from dsrm_jax.data.split import given_split, temporal_split
from dsrm_jax.data.times import times
from dsrm_jax.errors import InputError, unknown_name

MOST_NAMED = 12  # columns not read that are named


def load_own(
    source: str | os.PathLike[str] | Table,
    *,
    user_column: str = DataConfig.user_column,
    item_column: str = DataConfig.item_column,
    click_column: str = DataConfig.click_column,
    time_column: str = DataConfig.time_column,
    time_format: str = DataConfig.time_format,
    random_column: str = DataConfig.random_column,
    category_column: str = DataConfig.category_column,
    feature_columns: str = DataConfig.feature_columns,
    item_path: str = DataConfig.item_path,
    click_from: float = DataConfig.click_from,
    test_fraction: float = DataConfig.test_fraction,
    k_core: int = DataConfig.k_core,
    catalogue: str = DataConfig.catalogue,
) -> InteractionLog:
    """Read a log of shown items and feedback from the columns named.

    A row is one item shown to one user. Feedback is 0/1 (also true/false, yes/no) or any graded number that is not
    negative; `click_from` and above is a click. What times may be is said by `times.times`; without a time column the rows' order
    counts. Rows in memory give exactly the log that they give as a CSV file.

    `source` is a CSV file with a header line or a Parquet file, compressed or not; a folder of such files, whose ``key=value``
    folders are columns, or a pattern such as ``logs/*.csv``, read in the order of their names; a frame of Polars or pandas,
    anything with an Arrow stream (DuckDB, PyArrow), or a mapping of names to arrays. The keywords are those of `load_log`. Raw
    ids are int64 where every id of the column is a whole number, else strings.

    With a `random_column` the rows that it marks, shown at random, are held out and all others train, whatever `test_fraction`.
    What was understood and what was dropped is in the log's `notes`.

    Raises:
        InputError: the file is missing or unreadable, a column is not in it (with the nearest name that is), columns differ
            in length, a value is missing or of the wrong kind (with the line), or all or none of the training rows are clicks.
    """
    table = rows_of(source)
    columns = {"user_column": user_column, "item_column": item_column, "click_column": click_column}
    if time_column or "time" in table.names:
        columns["time_column"] = time_column or "time"
    if random_column:
        columns["random_column"] = random_column
    _check_columns(table, columns)
    read = _read(table, columns, click_from, time_format)
    log = _split(table, read, random_column, test_fraction=test_fraction, k_core=k_core, catalogue=catalogue)
    log = replace(log, user_ids=read.user.known(log.user_ids), item_ids=read.item.known(log.item_ids))
    items = _items(table, item_column, item_path, category_column, feature_columns, log.item_ids)
    notes = [*_files(table), *read.notes, *items.notes]
    if dropped := len(read.rows) - len(log.train) - len(log.test):
        notes.append(
            f"{dropped:,} of {len(read.rows):,} rows dropped: users and items of fewer than k_core={k_core} rows"
        )
    of_items = [] if item_path else [category_column, *map(str.strip, feature_columns.split(","))]
    if unread := [name for name in table.names if name not in {*columns.values(), *of_items}]:
        notes.append(f"columns not read: {', '.join(unread[:MOST_NAMED])}{', ...' if unread[MOST_NAMED:] else ''}")
    if random_column:
        notes.append(f"held out: the rows that {random_column} marks as shown at random")
    if log.test.click.all() or not log.test.click.any():
        notes.append(f"{_share(log.test.click)} of the held-out part is a click: nothing can be ranked there")
    name = table.where.name if isinstance(table.where, Path) else "rows in memory"
    return replace(
        log,
        name="log",
        source=f"{name}, click at {click_column} >= {click_from:g}",
        categories=items.categories,
        category_names=items.category_names,
        item_features=items.features,
        notes=tuple(notes),
    )


class _Read(NamedTuple):
    """A log as read."""

    rows: Interactions  # with raw ids, or positions in their texts
    user: Ids
    item: Ids
    random: np.ndarray | None  # `(N,)` bool, rows shown at random, where a column says so
    notes: list[str]


def _read(table: Rows, columns: Mapping[str, str], click_from: float, time_format: str) -> _Read:
    where, frame = table.read(tuple(columns.values()))
    column = {field: frame[name] for field, name in columns.items()}
    graded = feedback(where, column["click_column"])
    click = graded >= click_from
    if click.all() or not click.any():
        raise InputError(
            f"{where}: with data.click_from={click_from:g}, {_share(click)} is a click (column {columns['click_column']!r} runs "
            f"from {graded.min():g} to {graded.max():g}); a log needs rows with and without a click: choose data.click_from"
        )
    user, item = ids(where, column["user_column"]), ids(where, column["item_column"])
    notes = [f"users ({columns['user_column']}): {user.note}", f"items ({columns['item_column']}): {item.note}"]
    random = flags(where, column["random_column"]) if "random_column" in columns else None
    if "time_column" not in columns:
        rows = Interactions(user.raw, item.raw, click, np.arange(len(frame)), graded)
        return _Read(rows, user, item, random, [*notes, "times: none; the rows' order counts"])
    time, nanos, note = times(where, column["time_column"], time_format)
    notes.append(f"times ({columns['time_column']}): {note}")
    rows = Interactions(user.raw, item.raw, click, time, graded)
    if nanos is not None:  # rows of one millisecond stay in their order
        order = np.lexsort((nanos, time))
        rows, random = rows.where(order), None if random is None else random[order]
    return _Read(rows, user, item, random, notes)


def _split(
    table: Rows, read: _Read, random_column: str, *, test_fraction: float, k_core: int, catalogue: str
) -> InteractionLog:
    if read.random is None:
        log = temporal_split(read.rows, fraction=test_fraction, k=k_core, catalogue=catalogue)
    elif read.random.all() or not read.random.any():
        raise InputError(
            f"{table.where}: {_share(read.random)} is marked by data.random_column={random_column!r}; expected rows of both kinds"
        )
    else:
        log = given_split(read.rows.where(~read.random), read.rows.where(read.random), k=k_core, catalogue=catalogue)
    if log.train.click.all() or not log.train.click.any():
        latest = f"each user's latest {100 * test_fraction:g} %" if read.random is None else "the rows shown at random"
        raise InputError(
            f"{table.where}: {_share(log.train.click)} of the training part is a click, all others are in the held-out part "
            f"({latest}); nothing can be learnt so: check the times, or choose another data.test_fraction or data.click_from"
        )
    return log


def _check_columns(table: Rows, columns: Mapping[str, str]) -> None:
    where, found = table.where, table.names
    for field, name in columns.items():
        if not name:
            raise InputError(f"data.{field} is empty; expected one of {where}'s columns: {', '.join(found)}")
        if name not in found:
            numbers = all(other.strip("-.").isdigit() for other in found)
            hint = "; the first line holds numbers, expected a header line with the columns' names" if numbers else ""
            flag = f"--data.{field.replace('_', '-')}"
            raise InputError(f"{where}, data.{field} ({flag}): {unknown_name('column', name, found)}{hint}")
    if len(set(columns.values())) < len(columns):
        raise InputError(f"{where}: two of data.{', data.'.join(columns)} name one column; expected different ones")


def _share(click: np.ndarray) -> str:
    return "every row" if click.any() else "no row"


def _items(
    table: Rows, item_column: str, item_path: str, category_column: str, feature_columns: str, known: np.ndarray
) -> Items:
    features = [name.strip() for name in feature_columns.split(",") if name.strip()]
    if not category_column and not features:
        if item_path:
            raise InputError(
                f"data.item_path is {item_path!r}, but neither data.category_column nor data.feature_columns names a column of it"
            )
        return Items(np.zeros((len(known), 0), dtype=bool), (), {}, ())
    items = rows_of(Path(item_path).expanduser()) if item_path else table
    wanted = {"item_column": item_column} | ({"category_column": category_column} if category_column else {})
    wanted |= {f"feature_columns[{number}]": name for number, name in enumerate(features)}
    _check_columns(items, wanted)
    where, frame = items.read(tuple(wanted.values()))
    return read_items(where, frame, item_column, category_column, features, known)


def _files(table: Rows) -> list[str]:
    notes = []
    if len(table.files) > 1:
        first, last = (file.relative_to(root_of(Path(table.where))) for file in (table.files[0], table.files[-1]))
        notes.append(f"{len(table.files):,} files, {first} to {last}")
    if isinstance(table.where, Path) and table.where.is_dir():
        others = sorted(set(filter(Path.is_file, table.where.rglob("*"))) - set(table.files))
        notes += [f"{len(others):,} other files left out, such as {others[0].name}"] if others else []
    return notes
