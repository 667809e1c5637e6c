"""What leaves the data room: an `InteractionLog`, keyed by raw ids throughout."""

import zlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

POPULAR_SHARE = 0.2


class Table(Protocol):
    """A frame, or a mapping of names to arrays: whatever gives a column by its name."""

    def __getitem__(self, name: str, /) -> object:
        """Return a column, from which NumPy can make an array."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """Rows of a log: as read, with raw ids in any order; in an `InteractionLog` by user, then time, then original order."""

    user: np.ndarray  # `(N,)` int32, index into `InteractionLog.user_ids`, non-decreasing; as read: the raw ids
    item: np.ndarray  # `(N,)` int32, index into `InteractionLog.item_ids`; as read: the raw ids
    click: np.ndarray  # `(N,)` bool, the response that counts as engagement
    time: np.ndarray  # `(N,)` int64, milliseconds since the epoch, or the row's rank where the source has no clock
    feedback: np.ndarray  # `(N,)` float32, the source's own graded signal (watch ratio, rating, or the click itself)

    def __len__(self) -> int:
        return len(self.user)

    def where(self, mask: np.ndarray) -> "Interactions":
        """Return the rows of a `(N,)` bool mask (or integer index), in order."""
        return Interactions(self.user[mask], self.item[mask], self.click[mask], self.time[mask], self.feedback[mask])

    def user_start(self, num_users: int) -> np.ndarray:
        """Return `(num_users + 1,)` int64 offsets: rows of user u are `start[u]:start[u + 1]`."""
        counts = np.bincount(self.user, minlength=num_users)
        return np.concatenate([[0], np.cumsum(counts)])


@dataclass(frozen=True, eq=False)
class ObservedMatrix:
    """A fully observed block of user-item responses (KuaiRec's small matrix)."""

    user: np.ndarray  # `(M,)` int32, index into `InteractionLog.user_ids`
    # `(M, J)` float32 in [0, 1], the click probability of each user for each catalogue item, in the order of
    # `InteractionLog.catalogue`
    value: np.ndarray


@dataclass(frozen=True, eq=False)
class InteractionLog:
    """A log split into training and held-out rows over one vocabulary of users and items."""

    name: str  # short name, `"kuairec"`
    source: str  # one phrase for tables and first lines, such as `"synthetic kuairec world, seed 0"`
    user_ids: np.ndarray  # `(U,)` raw user ids, sorted, unique
    # `(I,)` raw item ids, sorted, unique: the training vocabulary and the catalogue's items together
    item_ids: np.ndarray
    train: Interactions  # rows that encoders, purifiers and training simulators may see
    test: Interactions  # held-out rows, for the test simulator alone
    catalogue: np.ndarray  # `(J,)` int32, sorted indices into `item_ids` of the items that a policy recommends from
    categories: np.ndarray  # `(I, C)` bool, multi-hot; C may be 0
    category_names: tuple[str, ...] = ()  # C names
    user_features: dict[str, np.ndarray] = field(default_factory=dict)  # name to `(U,)` int32 codes, -1 where missing
    item_features: dict[str, np.ndarray] = field(default_factory=dict)  # name to `(I,)` int32 codes, -1 where missing
    train_matrix: ObservedMatrix | None = None  # fully observed training users, where the source has them
    test_matrix: ObservedMatrix | None = None  # fully observed held-out users, where the source has them
    notes: tuple[str, ...] = ()  # what was understood and what was dropped when an own log was read, a phrase each
    # the truth behind a synthetic log (`synthetic.Truth`), for simulators and evaluation only
    synthetic: object | None = None

    @property
    def num_users(self) -> int:
        """U, the users of both splits together."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """I, the items of the whole vocabulary."""
        return len(self.item_ids)

    @cached_property
    def exposure(self) -> np.ndarray:
        """`(I,)` int64: how often the TRAINING log shows each item."""
        return np.bincount(self.train.item, minlength=self.num_items)

    @cached_property
    def digest(self) -> str:
        """Eight hexadecimal digits of both splits' rows: what a checkpoint was trained on, wherever the files lie."""
        checksum = 0
        for rows in (self.train, self.test):
            for column in (rows.user, rows.item, rows.click):
                checksum = zlib.crc32(np.ascontiguousarray(column).data.cast("B"), checksum)
        return f"{checksum:08x}"

    @cached_property
    def is_popular(self) -> np.ndarray:
        """`(J,)` bool: the popular group of the catalogue (see `popular_group`)."""
        return popular_group(self.exposure[self.catalogue])


def popular_group(exposure: np.ndarray) -> np.ndarray:
    """Mark the top 20 % of items by exposure, ties to the smaller index (raw ids are sorted, so to the smaller id).

    Given `(J,)` counts in the training log, `round(0.2 J)` entries of `(J,)` bool, and at least one, are true.
    """
    num_popular = max(1, round(POPULAR_SHARE * len(exposure)))
    order = np.argsort(-exposure, kind="stable")
    mask = np.zeros(len(exposure), dtype=bool)
    mask[order[:num_popular]] = True
    return mask
