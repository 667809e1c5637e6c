"""MovieLens 100K and 1M: ratings become clicks, genres become categories."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from dsrm_jax.data.log import InteractionLog, Interactions
from dsrm_jax.data.settings import DataConfig
from dsrm_jax.data.sources import locate
from dsrm_jax.data.split import temporal_split
from dsrm_jax.data.vocabulary import align_features, to_index
from dsrm_jax.errors import InputError

GENRES = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
AGE_STARTS = (18, 25, 35, 45, 50, 56)


class Layout(NamedTuple):
    """Where one published form of MovieLens keeps what we read: in files of ratings, of items and of users."""

    files: tuple[str, str, str]
    separators: tuple[str, str, str]  # of columns
    columns: tuple[int, int, int]  # how many
    headers: tuple[str, ...]  # first lines that name the columns, separated here by spaces; empty: no header lines
    encoding: str
    genre_column: int  # of the items file; -1: the last 19 columns are 0/1 flags, "unknown" first
    genre_separator: str
    user_columns: tuple[int, int, int]  # of gender, age and occupation


OFFICIAL_100K = Layout(
    files=("u.data", "u.item", "u.user"),
    separators=("\t", "|", "|"),
    columns=(4, 24, 5),
    headers=(),
    encoding="latin-1",
    genre_column=-1,
    genre_separator="",
    user_columns=(2, 1, 3),
)
RECBOLE_100K = Layout(
    files=("ml-100k.inter", "ml-100k.item", "ml-100k.user"),
    separators=("\t", "\t", "\t"),
    columns=(4, 4, 5),
    headers=(
        "user_id:token item_id:token rating:float timestamp:float",
        "item_id:token movie_title:token_seq release_year:token class:token_seq",
        "user_id:token age:token gender:token occupation:token zip_code:token",
    ),
    encoding="utf-8",
    genre_column=3,
    genre_separator=" ",
    user_columns=(2, 1, 3),
)
OFFICIAL_1M = Layout(
    files=("ratings.dat", "movies.dat", "users.dat"),
    separators=("::", "::", "::"),
    columns=(4, 3, 5),
    headers=(),
    encoding="latin-1",
    genre_column=2,
    genre_separator="|",
    user_columns=(1, 2, 3),
)
LAYOUTS = {"100k": (OFFICIAL_100K, RECBOLE_100K), "1m": (OFFICIAL_1M,)}


def load_movielens(
    folder: str | os.PathLike[str],
    size: Literal["100k", "1m"],
    *,
    like_threshold: float = DataConfig.like_threshold,
    test_fraction: float = DataConfig.test_fraction,
    k_core: int = DataConfig.k_core,
    catalogue: str = DataConfig.catalogue,
) -> InteractionLog:
    """Read MovieLens from its official files (100K also from RecBole's), in a folder or one level below.

    A rating of `like_threshold` stars or more is a click; `feedback` is the rating, 1 to 5, and `time` its timestamp.

    The keywords are those of `load_log`. Raw ids are MovieLens's integers; categories are the 18 genres (100K: also "unknown");
    user features are gender (0 F, 1 M), age (0..6, ML-1M's seven groups) and occupation (ML-1M's code, or alphabetical).

    Raises:
        InputError: no such files, or a line that is not what its layout says, with the file and line.
    """
    layouts = {layout.files[0]: layout for layout in LAYOUTS[size]}
    found = locate(Path(folder), tuple(layouts))
    if found is None:
        raise InputError(
            f"{folder} holds no {' or '.join(layouts)}, nor does a folder in it: expected MovieLens "
            f"{size.upper()}; get it with `make data ENV=ml-{size}`, or unpack the official archive there"
        )
    layout = next(layout for name, layout in layouts.items() if (found / name).is_file())
    rating_file, item_file, user_file = (found / name for name in layout.files)
    item_raw, genres = _read_genres(item_file, layout)
    user_raw, user_columns = _read_users(user_file, layout)
    rows = _read_ratings(rating_file, layout, item_raw, user_raw, like_threshold)
    log = temporal_split(rows, fraction=test_fraction, k=k_core, catalogue=catalogue)
    names = (*GENRES, "unknown") if size == "100k" else GENRES
    return replace(
        log,
        name=f"ml-{size}",
        source=f"MovieLens {size.upper()}, click at {like_threshold:g} stars or more",
        categories=genres[to_index(log.item_ids, item_raw), : len(names)],
        category_names=names,
        user_features=align_features(user_raw, user_columns, log.user_ids),
    )


class _Table(NamedTuple):
    """A file's lines as lists of texts, and what a message needs to name one of them."""

    path: Path
    first_line: int
    lines: pl.Series


def _read_ratings(
    path: Path, layout: Layout, items: np.ndarray, users: np.ndarray, like_threshold: float
) -> Interactions:
    table = _read_table(path, layout, 0)
    user = _whole_numbers(table, 0, "user id")
    item = _whole_numbers(table, 1, "item id")
    rating = _column(table, 2).cast(pl.Float32, strict=False)
    _require(table, rating.is_between(1.0, 5.0), "a rating of 1 to 5 stars")
    time = _whole_numbers(table, 3, "time in seconds")
    for ids, known, name in ((user, users, layout.files[2]), (item, items, layout.files[1])):
        _require(table, pl.Series(np.isin(ids, known)), f"ids that {name} lists")
    feedback = rating.to_numpy()
    return Interactions(user, item, feedback >= like_threshold, time * 1000, feedback)


def _read_genres(path: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Return sorted raw item ids and their `(N, 19)` bool genres, "unknown" last."""
    table = _read_table(path, layout, 1)
    ids = _whole_numbers(table, 0, "item id")
    if layout.genre_column < 0:
        flags = [_column(table, layout.columns[1] - 19 + number) for number in range(19)]
        for flag in flags:
            _require(table, flag.is_in(["0", "1"]), "19 genre flags of 0 or 1")
        genres = np.stack([flag.to_numpy() == "1" for flag in (*flags[1:], flags[0])], axis=1)
    else:
        texts = _column(table, layout.genre_column).str.split(layout.genre_separator)
        known = [*GENRES, "unknown"]
        good = texts.list.eval(pl.element().is_in(known)).list.all()
        _require(table, good, f"genres out of {', '.join(GENRES)}")
        genres = np.stack([texts.list.contains(name).to_numpy() for name in known], axis=1)
    order = _distinct(table, ids, "item id")
    return ids[order], genres[order]


def _read_users(path: Path, layout: Layout) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Return sorted raw user ids and their gender, age group and occupation as texts."""
    table = _read_table(path, layout, 2)
    ids = _whole_numbers(table, 0, "user id")
    gender, age, occupation = (_column(table, column) for column in layout.user_columns)
    _require(table, gender.is_in(["F", "M"]), "a gender of F or M")
    years = age.cast(pl.Int64, strict=False)
    _require(table, years >= 0, "an age in years")
    group = np.searchsorted(AGE_STARTS, years.to_numpy(), side="right")
    order = _distinct(table, ids, "user id")
    columns = {"gender": gender.to_numpy(), "age": group.astype(str), "occupation": occupation.to_numpy()}
    return ids[order], {name: values[order].tolist() for name, values in columns.items()}


def _read_table(path: Path, layout: Layout, file: int) -> _Table:
    """Read a file's lines as lists of texts, each of the number of columns that the layout has."""
    if not path.is_file():
        raise InputError(f"{path}: file not found; expected it beside {layout.files[0]}: fetch the data set again")
    try:
        text = path.read_bytes().decode(layout.encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not {layout.encoding} text ({error.reason}): fetch the data set again") from error
    # Latin-1 titles may hold characters that `splitlines` takes for line ends.
    rows = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    if layout.headers:
        header = rows.pop(0)
        if header.split(layout.separators[file]) != layout.headers[file].split():
            raise InputError(f"{path}, line 1: {header[:80]!r}; expected the columns {layout.headers[file]}")
    if not any(rows):
        raise InputError(f"{path}: the file has no rows; expected at least one")
    lines = pl.Series(rows, dtype=pl.String).str.split(layout.separators[file])
    columns = layout.columns[file]
    table = _Table(path, 1 + bool(layout.headers), lines)
    _require(table, lines.list.len() == columns, f"{columns} columns")
    return table


def _column(table: _Table, column: int) -> pl.Series:
    return table.lines.list.get(column)


def _whole_numbers(table: _Table, column: int, what: str) -> np.ndarray:
    values = _column(table, column).cast(pl.Int64, strict=False)
    _require(table, values >= 0, f"a whole number as {what} in column {column + 1}")
    return values.to_numpy()


def _distinct(table: _Table, ids: np.ndarray, what: str) -> np.ndarray:
    """Return the order that sorts the ids, after checking that none occurs twice."""
    _require(table, pl.Series(ids).is_first_distinct(), f"each {what} once")
    return np.argsort(ids)


def _require(table: _Table, good: pl.Series, expected: str) -> None:
    bad = np.flatnonzero(~good.fill_null(False).to_numpy())
    if len(bad):
        row = int(bad[0])
        shown = "|".join(table.lines[row])[:80]
        raise InputError(f"{table.path}, line {row + table.first_line}: {shown!r}; expected {expected}")
