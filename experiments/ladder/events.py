"""Users who are held out of a log, their first events, and what they clicked afterwards of what they were shown.

Shapes: R rows, U users, N held-out users, H events of a history, M later events.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from dsrm_jax.data.log import InteractionLog
from dsrm_jax.simulator.world import History, SessionStarts

MOST_LATER = 50  # later events of a user that are looked at


class Rows(NamedTuple):
    """Rows by user, each user's in order."""

    item: Int[np.ndarray, "R"]
    click: Bool[np.ndarray, "R"]
    first: Int[np.ndarray, "U+1"]  # rows of user u are `first[u]:first[u + 1]`


class Histories(NamedTuple):
    """Histories on the host."""

    item: Int[np.ndarray, "N H"]  # right-aligned
    click: Bool[np.ndarray, "N H"]
    length: Int[np.ndarray, "N"]

    def rows(self, chosen: Int[np.ndarray, "B"]) -> History:
        """Return some of them on the device."""
        return History(*(jnp.asarray(x[chosen]) for x in self))


class Later(NamedTuple):
    """Histories of held-out users, and the events that follow."""

    user: Int[np.ndarray, "N"]  # of the log
    history: Histories
    item: Int[np.ndarray, "N M"]
    click: Bool[np.ndarray, "N M"]
    shown: Bool[np.ndarray, "N M"]  # which of them there are


def rows_of(log: InteractionLog) -> Rows:
    """Return the training rows, then the held-out rows where these only go on with them.

    They do where no user's held-out row is earlier than their last training row: a split by time, or one by users. Elsewhere
    (random exposure in the same days) the training rows stand alone.
    """
    last = np.full(log.num_users, np.iinfo(np.int64).min)
    np.maximum.at(last, log.train.user, log.train.time)
    splits = [log.train]
    if np.all(log.test.time >= last[log.test.user]):
        splits.append(log.test)
    user, item, click = (np.concatenate([getattr(x, name) for x in splits]) for name in ("user", "item", "click"))
    order = np.argsort(user, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=log.num_users))])
    return Rows(item[order], np.asarray(click, bool)[order], first)


def part_of_user(num_users: int, parts: int, *, seed: int) -> Int[np.ndarray, "U"]:
    """Deal users into parts of one size, but for one."""
    return np.random.default_rng(seed).permutation(num_users) % parts


def learners(log: InteractionLog, held_out: Bool[np.ndarray, "U"]) -> SessionStarts:
    """Return the training rows of the users who are not held out and have any, renumbered 0, 1, ... in their order."""
    kept = ~held_out[log.train.user]
    _, user = np.unique(log.train.user[kept], return_inverse=True)
    first = np.concatenate([[0], np.cumsum(np.bincount(user))]).astype(np.int32)
    item, click = log.train.item[kept].astype(np.int32), np.asarray(log.train.click[kept], bool)
    return SessionStarts(jnp.asarray(user, jnp.int32), jnp.asarray(item), jnp.asarray(click), jnp.asarray(first))


def shuffled(starts: SessionStarts, *, seed: int) -> SessionStarts:
    """Return the rows dealt to users at random: none tells of its user any more, and items stay as they are."""
    order = np.random.default_rng(seed).permutation(starts.item.shape[0])
    return SessionStarts(starts.user, starts.item[order], starts.click[order], starts.first)


def later_of(rows: Rows, users: Int[np.ndarray, "N"], events: int, *, slots: int) -> Later:
    """Return users' first `events` events as histories of so many slots, and what follows of those who have more."""
    count = np.diff(rows.first)[users]
    users, count = users[count > events], count[count > events]
    start = rows.first[users][:, None]
    before = start + np.arange(events)
    item, click = np.zeros((len(users), slots), np.int32), np.zeros((len(users), slots), bool)
    item[:, slots - events :], click[:, slots - events :] = rows.item[before], rows.click[before]
    after = events + np.arange(MOST_LATER)
    shown = after < count[:, None]
    after = start + np.where(shown, after, 0)
    length = np.full(len(users), events, np.int32)
    return Later(users, Histories(item, click, length), rows.item[after], rows.click[after] & shown, shown)


def joined(parts: list[Later]) -> Later:
    """Put the users of several parts together."""
    history = Histories(*(np.concatenate(x) for x in zip(*(part.history for part in parts), strict=True)))
    user, item, click, shown = (
        np.concatenate([getattr(x, n) for x in parts]) for n in ("user", "item", "click", "shown")
    )
    return Later(user, history, item, click, shown)


def popularity_of(starts: SessionStarts, num_items: int) -> Float[np.ndarray, "I"]:
    """Return how often the learners' rows show each item."""
    return np.bincount(np.asarray(starts.item), minlength=num_items).astype(np.float64)
