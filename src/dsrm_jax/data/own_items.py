"""What an own log says of its items: categories and features, from its own columns or from a table of items."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from dsrm_jax.data.columns import ids
from dsrm_jax.data.tables import Where, require
from dsrm_jax.data.vocabulary import category_codes
from dsrm_jax.errors import InputError

BETWEEN = "|"  # stands between the categories of one item


class Items(NamedTuple):
    """What is known of items, in the order of a vocabulary."""

    categories: np.ndarray  # `(I, C)` bool
    category_names: tuple[str, ...]
    features: dict[str, np.ndarray]  # name to `(I,)` int32 codes, -1 where missing
    notes: tuple[str, ...]


def read_items(
    where: Where,
    frame: pl.DataFrame,
    item_column: str,
    category_column: str,
    features: Sequence[str],
    known: np.ndarray,
) -> Items:
    """Bring categories and features into the order of `(I,)` sorted raw item ids.

    A category column holds lists, or texts with ``|`` between the categories. An item may stand in several rows (a log): it has
    the categories of all of them, and of each feature the one value that is not missing.

    Raises:
        InputError: an item has two values of one feature, or an id is missing.
    """
    found = ids(where, frame[item_column])
    raw = found.raw if found.texts is None else found.texts.gather(found.raw).to_numpy()
    # by text, since the items' table may have ids of another kind than the log
    place = {str(item): number for number, item in enumerate(known.tolist())}
    index = np.array([place.get(str(item), -1) for item in np.unique(raw).tolist()], dtype=np.int64)
    index = index[np.unique(raw, return_inverse=True)[1]]
    rows = frame.select(pl.Series("item", index), *(_texts(frame[name]).alias(name) for name in features))
    columns = {name: _feature(where, rows.select("item", name), len(known)) for name in features}
    categories, names = np.zeros((len(known), 0), dtype=bool), tuple[str, ...]()
    if category_column:
        categories, names = _categories(index, frame[category_column], len(known))
        if not names:
            require(
                where,
                frame[category_column].cast(pl.String, strict=False),
                pl.Series([False] * len(frame)),
                "a category",
            )
    absent = len(known) - len(np.unique(index[index >= 0]))
    notes = [f"{absent:,} of {len(known):,} items are not in {where}: no categories or features"] if absent else []
    return Items(categories, names, columns, tuple(notes))


def _texts(values: pl.Series) -> pl.Series:
    if values.dtype.is_nested() or values.dtype in (pl.Object, pl.Binary):
        raise InputError(f"column {values.name!r}: its type is {values.dtype}; expected one value a row as a feature")
    texts = values.fill_nan(None) if values.dtype.is_float() else values
    texts = texts.cast(pl.String).str.strip_chars()
    return texts.set(texts == "", None)


def _feature(where: Where, rows: pl.DataFrame, num_items: int) -> np.ndarray:
    name = rows.columns[1]
    first = (
        rows.filter(pl.col("item") >= 0)
        .group_by("item", maintain_order=True)
        .agg(pl.col(name).drop_nulls().first().alias("value"))
    )
    value = np.full(num_items, None, dtype=object)
    value[first["item"].to_numpy()] = first["value"].to_list()
    index = rows["item"].to_numpy()
    same = pl.Series(name, np.where(index >= 0, value[index], None), dtype=pl.String)
    good = rows[name].is_null() | (rows["item"] < 0) | (rows[name] == same)
    require(where, rows[name], good, "the value that the item has in an earlier row")
    return category_codes(list(value))


def _categories(index: np.ndarray, values: pl.Series, num_items: int) -> tuple[np.ndarray, tuple[str, ...]]:
    lists = values if isinstance(values.dtype, pl.List) else values.cast(pl.String).str.split(BETWEEN)
    pairs = pl.DataFrame({"item": index, "category": lists.cast(pl.List(pl.String))}).explode("category")
    pairs = pairs.with_columns(pl.col("category").str.strip_chars())
    pairs = pairs.filter((pl.col("item") >= 0) & (pl.col("category").str.len_chars() > 0)).unique()
    names = pairs["category"].unique().sort()
    hot = np.zeros((num_items, len(names)), dtype=bool)
    hot[pairs["item"].to_numpy(), names.search_sorted(pairs["category"])] = True
    return hot, tuple(names.to_list())
