"""Coat shopping (Schnabel et al. 2016): ratings that users chose to give, and ratings of items drawn at random for them."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from dsrm_jax.data.log import InteractionLog, Interactions
from dsrm_jax.data.settings import DataConfig
from dsrm_jax.data.sources import locate
from dsrm_jax.data.split import given_split
from dsrm_jax.errors import InputError

TRAIN, TEST, ITEMS = "train.ascii", "test.ascii", "item_features.ascii"
STARS = range(6)  # 0: not rated


def load_coat(
    folder: str | os.PathLike[str],
    *,
    like_threshold: float = DataConfig.like_threshold,
    catalogue: str = DataConfig.catalogue,
) -> InteractionLog:
    """Read Coat, or any data in its layout: training rows missing not at random, held-out rows missing at random.

    `train.ascii` and `test.ascii` are matrices of users times items of 0 to 5 stars, 0 where there is no rating; in the original
    each of 290 users chose 24 of 300 coats to rate, and rated 16 that were drawn for them. A rating of `like_threshold` stars or
    more is a click. The layout has no times: a user's rows stand in the order of the items. The columns of `item_features.ascii`,
    a 0/1 matrix of items times features, are the categories, where the file is there. The keywords are those of `load_log`.

    Raises:
        InputError: a matrix is absent, is not of whole stars, does not fit the other (file, and line where there is one), or
            has no rating.
    """
    found = locate(os.fspath(folder), (TRAIN,))
    if found is None:
        raise InputError(f"{folder} holds no {TRAIN}, nor does a folder in it: put Coat's files there by hand")
    train, test = (_matrix(found / name, STARS) for name in (TRAIN, TEST))
    if train.shape != test.shape:
        raise InputError(
            f"{found / TEST} holds {test.shape} ratings and {TRAIN} {train.shape}: expected the same users and items"
        )
    for name, ratings in ((TRAIN, train), (TEST, test)):
        if not ratings.any():
            raise InputError(f"{found / name} holds no rating above 0: expected 1 to 5 where a user rated an item")
    rows = (_rows(ratings, like_threshold) for ratings in (train, test))
    log = replace(
        given_split(*rows, catalogue=catalogue), name="coat", source="Coat, chosen ratings against random ones"
    )
    path = next((file for file in (found / ITEMS, found / "user_item_features" / ITEMS) if file.is_file()), None)
    if path is None:
        return log
    features = _matrix(path, range(2))
    if len(features) != train.shape[1]:
        raise InputError(f"{path} has {len(features)} lines: expected one for each of {train.shape[1]} items")
    names = tuple(f"feature_{i}" for i in range(features.shape[1]))
    return replace(log, categories=features[log.item_ids] == 1, category_names=names)


def _matrix(path: Path, values: range) -> np.ndarray:
    """Read a table of whole numbers, separated by blanks, a line each row."""
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a text of numbers ({error}): check data.path") from error
    allowed = {str(value): value for value in values} | {f"{value}.0": value for value in values}
    table: list[list[int]] = []
    for number, words in ((i, line.split()) for i, line in enumerate(lines, 1)):
        wrong = [word for word in words if word not in allowed]
        if wrong or (words and table and len(words) != len(table[0])):
            what = f"holds {wrong[0]!r}" if wrong else f"holds {len(words)} numbers and the first {len(table[0])}"
            raise InputError(
                f"{path}, line {number} {what}: expected as many numbers on each line, from {values[0]} to {values[-1]}"
            )
        if words:
            table.append([allowed[word] for word in words])
    if not table:
        raise InputError(f"{path} is empty: expected a line of numbers for each row of the matrix")
    return np.array(table, np.int32)


def _rows(ratings: np.ndarray, like_threshold: float) -> Interactions:
    user, item = np.nonzero(ratings)
    stars = ratings[user, item].astype(np.float32)
    return Interactions(user, item, stars >= like_threshold, np.arange(len(user)), stars)
