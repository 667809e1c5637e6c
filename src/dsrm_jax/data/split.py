"""Rows as read, and how they are cleaned, split and put in order."""

import numpy as np

from dsrm_jax.data.log import InteractionLog, Interactions
from dsrm_jax.data.vocabulary import to_index, vocabulary
from dsrm_jax.errors import InputError


def index_rows(rows: Interactions, user_ids: np.ndarray, item_ids: np.ndarray) -> Interactions:
    """Replace raw ids by indices into sorted ids `(U,)` and `(I,)`, and sort by user, then time, then original order.

    Raises:
        InputError: a row has an id outside the vocabularies.
    """
    user = to_index(rows.user, user_ids, what="user id")
    item = to_index(rows.item, item_ids, what="item id")
    time = rows.time.astype(np.int64, copy=False)
    indexed = Interactions(user, item, rows.click, time, rows.feedback)
    step = np.diff(user)
    in_order = np.all((step > 0) | ((step == 0) & (time[1:] >= time[:-1])))
    return indexed if in_order else indexed.where(np.lexsort((time, user)))


def k_core(user: np.ndarray, item: np.ndarray, k: int) -> np.ndarray:
    """Find the rows of the largest sub-log in which every user and every item has at least k rows.

    `user` and `item` are `(N,)` int32 indices; a k of 0 or 1 keeps all rows. The result is `(N,)` bool, all false where there is
    no such sub-log.

    Raises:
        InputError: k is negative.
    """
    if k < 0:
        raise InputError(f"k_core is {k}; expected 0 (keep all rows) or a positive number of rows")
    keep = np.ones(len(user), dtype=bool)
    num_users, num_items = int(user.max(initial=0)) + 1, int(item.max(initial=0)) + 1
    while k > 1:
        user_rows = np.bincount(user[keep], minlength=num_users)
        item_rows = np.bincount(item[keep], minlength=num_items)
        weak = (user_rows[user] < k) | (item_rows[item] < k)
        if not (keep & weak).any():
            break
        keep &= ~weak
    return keep


def latest_fraction(user: np.ndarray, fraction: float) -> np.ndarray:
    """Mark each user's latest rows, as the held-out split of a source that has none.

    A user of n rows gives round(fraction n) of them, halves up, and always keeps at least one for training. `user` is `(N,)`
    int32, non-decreasing, each user's rows in time order, the result `(N,)` bool, true for held-out rows.

    Raises:
        InputError: the fraction is not between 0 and 1, or holds no row out.
    """
    if not 0.0 < fraction < 1.0:
        raise InputError(f"test_fraction is {fraction}; expected a number between 0 and 1, both excluded")
    if len(user) == 0:
        return np.zeros(0, dtype=bool)
    counts = np.bincount(user)
    held = np.minimum(np.floor(fraction * counts + 0.5).astype(np.int64), np.maximum(counts - 1, 0))
    if held.sum() == 0:
        raise InputError(
            f"test_fraction={fraction} holds out no row: no user has enough of the {len(user)} rows; raise it"
        )
    end = np.cumsum(counts)
    return np.arange(len(user)) >= (end - held)[user]


def given_split(train: Interactions, test: Interactions, *, k: int = 0, catalogue: str = "test") -> InteractionLog:
    """Return the log of a source's own training and test rows over one vocabulary, still without a name.

    Rows have raw ids, in any order. Of the training rows the k-core is kept (k = 0: all), and held-out rows of users or items
    that it drops are dropped too; `catalogue` is that of `DataConfig`.

    Raises:
        InputError: the k-core leaves no row in one of the splits.
    """
    if k > 1:
        train = _core(train, k)
        test = test.where(np.isin(test.user, vocabulary(train.user)) & np.isin(test.item, vocabulary(train.item)))
        if len(test) == 0:
            raise InputError(f"k_core={k} leaves no held-out row; lower it")
    user_ids = vocabulary(train.user, test.user)
    item_ids = vocabulary(train.item, test.item)
    return _catalogued(
        user_ids, item_ids, index_rows(train, user_ids, item_ids), index_rows(test, user_ids, item_ids), catalogue
    )


def temporal_split(rows: Interactions, *, fraction: float, k: int = 0, catalogue: str = "test") -> InteractionLog:
    """Return the log that holds out each user's latest rows (see `latest_fraction`), still without a name.

    Rows have raw ids, in any order; their k-core is taken before the split (k = 0: all); `catalogue` is that of `DataConfig`.

    Raises:
        InputError: the k-core leaves no row, or the fraction is out of range or holds no row out.
    """
    rows = _core(rows, k)
    user_ids, item_ids = vocabulary(rows.user), vocabulary(rows.item)
    ordered = index_rows(rows, user_ids, item_ids)
    held_out = latest_fraction(ordered.user, fraction)
    return _catalogued(user_ids, item_ids, ordered.where(~held_out), ordered.where(held_out), catalogue)


def _core(rows: Interactions, k: int) -> Interactions:
    if k in (0, 1):
        return rows
    user = to_index(rows.user, vocabulary(rows.user))
    item = to_index(rows.item, vocabulary(rows.item))
    rows = rows.where(k_core(user, item, k))
    if len(rows) == 0:
        raise InputError(f"k_core={k} leaves no row: no group of users and items has that many rows each; lower it")
    return rows


def _catalogued(
    user_ids: np.ndarray, item_ids: np.ndarray, train: Interactions, test: Interactions, catalogue: str
) -> InteractionLog:
    shown = test.item if catalogue == "test" else train.item
    items = np.flatnonzero(np.bincount(shown, minlength=len(item_ids))).astype(np.int32)
    no_categories = np.zeros((len(item_ids), 0), dtype=bool)
    return InteractionLog("", "", user_ids, item_ids, train, test, items, no_categories)
