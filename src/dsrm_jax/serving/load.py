"""Recommend from an exported policy; needs NumPy and JAX, and none of the code that trains.

Shapes: B users, H history length, I vocabulary items, J catalogue items, K slate size, k items asked for.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from dsrm_jax.errors import InputError, first_line
from dsrm_jax.parallel.devices import platform
from dsrm_jax.serving.artifact import MOST_SECONDS, check_program, read_artifact
from dsrm_jax.serving.histories import Event, Histories, check_histories, pack, positions_of
from dsrm_jax.types import Json

LARGEST_MASK = 1 << 26  # users times items looked at together
LARGEST_NUMBER = 2**31 - 1

__all__ = ["Event", "ExportedPolicy", "Recommendations", "argument_shapes", "load_policy"]


@dataclass(frozen=True, eq=False)
class Recommendations:
    """What a policy recommends, a user a row; `recommendations[user]` is the list of one, `np.asarray` gives `item`."""

    user: list[Hashable]
    """The caller's own ids, in order; positions in a list of histories."""
    item: np.ndarray
    """`(B, k)` raw item ids; only the first `count` of a row are meant."""
    score: Float[np.ndarray, "B k"] | None
    """How likely a click is, by the encoder from the purified state; None where scores were not asked for."""
    count: Int[np.ndarray, "B"]
    """How many of the k each user gets: fewer where too few items are left."""
    known: Int[np.ndarray, "B"]
    """Events of items that the policy knows."""
    unknown: dict[Hashable, int]
    """How many events name each item that the policy does not know."""

    @property
    def stranger(self) -> Bool[np.ndarray, "B"]:
        """Users without a known event: what they get is what any newcomer gets."""
        return self.known == 0

    @cached_property
    def _row(self) -> dict[Hashable, int]:
        return {user: row for row, user in enumerate(self.user)}

    def __getitem__(self, user: Hashable) -> list[int | str]:
        """Return the item ids of one user, best first within each group; KeyError where nobody asked for the user."""
        row = self._row[user]
        return self.item[row, : self.count[row]].tolist()

    def __len__(self) -> int:
        return len(self.user)

    def __iter__(self) -> Any:
        return iter(self.user)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.item, dtype=dtype) if copy or dtype else self.item


@dataclass(frozen=True, eq=False)
class ExportedPolicy:
    """A policy read from a file."""

    meta: Json
    """history_length, slate_size, platforms, and what else the exporter said: method, source, the whole configuration."""
    item_ids: np.ndarray
    """`(I,)` raw item ids, sorted; a vocabulary index is a position in it."""
    catalogue: Int[np.ndarray, "J"]
    """Vocabulary indices of the items that it recommends from."""
    program: Callable[..., Any]
    """`export.recommender`'s function, of any number of users."""
    process: int = field(default_factory=os.getpid)
    """The process that loaded it, which alone can ask it: JAX waits for ever in one that was forked from it."""

    @property
    def batch(self) -> int:
        """Users of one call of the program.

        All are answered in batches of one size, padded: the program is compiled once, and a user's answer is bit for bit the
        same whoever else is asked for. On a CPU 16 is also the fastest per user (a history of 256 events stays in its caches).
        """
        return max(1, min(16 if platform() == "cpu" else 1024, LARGEST_MASK // len(self.catalogue)))

    @cached_property
    def compiled(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        """The program for `batch` users, compiled for this machine when first used."""
        shapes = argument_shapes(self.batch, self.meta["history_length"], len(self.catalogue))
        return jax.jit(self.program).lower(*shapes).compile()

    def warm_up(self) -> None:
        """Compile the program and call it once, so that the first answer is as fast as any."""
        shapes = argument_shapes(self.batch, self.meta["history_length"], len(self.catalogue))
        jax.block_until_ready(self.compiled(*(np.zeros(x.shape, x.dtype) for x in shapes)))

    def recommend(
        self,
        histories: Histories,
        times: Sequence[int] | Mapping[Hashable, int] | None = None,
        unlogged: Sequence[int] | Mapping[Hashable, int] | None = None,
        *,
        k: int | None = None,
        exclude: str | Iterable[int | str] | None = "seen",
        allowed: Iterable[int | str] | None = None,
        scores: bool = False,
    ) -> Recommendations:
        """Recommend k items to each of some users.

        Args:
            histories: of each user, by the caller's own id or in a list, the events `(item, clicked)`, oldest first; more than
                `history_length` are cut at the front, and items that the policy does not know are counted and left out.
            times: steps that each user's session has taken already; 0 by default.
            unlogged: how many of each user's latest known events another policy showed than that of the training log, whose
                choices tell of the user: this policy, or an experiment, in earlier sessions too. By default, those of this
                session: `slate_size` times `times`.
            k: 1 to J; None: `slate_size`. More items than a slate holds come from further slates without those shown.
            exclude: `"seen"` leaves out every item of a user's history, a list of item ids leaves out those, None nothing.
            allowed: item ids that may be recommended; None: the catalogue's.
            scores: whether `score` is wanted.

        Raises:
            InputError: what is no history, raw ids of another kind than the policy's (text for numbers or numbers for text), not
                one number of each user, fewer than k items allowed.
        """
        users, events = check_histories(histories)
        size = self.meta["slate_size"]
        time = _numbers(times, users, "times", LARGEST_NUMBER // size)
        other = size * time if unlogged is None else _numbers(unlogged, users, "unlogged", LARGEST_NUMBER)
        k = size if k is None else k
        barred = self.barred(exclude, allowed, k)
        found = [(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32), np.zeros(0, np.int32))]
        known, unknown = list[int](), Counter[Hashable]()
        for first in range(0, len(users), self.block):
            rows = slice(first, first + self.block)
            packed = pack(events[rows], self.item_ids, history_length=self.meta["history_length"])
            excluded = np.tile(barred, (len(packed.length), 1))
            if isinstance(exclude, str):
                for row, seen in enumerate(packed.seen):
                    excluded[row, self.position[seen][self.position[seen] >= 0]] = True
            arrays = packed.item, packed.click, packed.length, time[rows], other[rows]
            found.append(self.answer(*arrays, excluded=excluded, k=k))
            known += map(len, packed.seen)
            unknown += packed.unknown
        position, score, count = (np.concatenate(x) for x in zip(*found, strict=True))
        shown = self.raw(position)
        return Recommendations(
            users, shown, score if scores else None, count, np.array(known, np.int64), dict(unknown.most_common())
        )

    @cached_property
    def position(self) -> Int[np.ndarray, "I"]:
        """Catalogue position of each vocabulary index, -1 outside the catalogue."""
        found = np.full(len(self.item_ids), -1, np.int32)
        found[self.catalogue] = np.arange(len(self.catalogue))
        return found

    @property
    def block(self) -> int:
        """Users whose masks are made together."""
        return self.batch * max(1, min(64, LARGEST_MASK // (self.batch * len(self.catalogue))))

    def raw(self, position: Int[np.ndarray, "B k"]) -> np.ndarray:
        """Return raw ids of catalogue positions; anything where there is none."""
        return self.item_ids[self.catalogue[position]]

    def barred(
        self, exclude: str | Iterable[int | str] | None, allowed: Iterable[int | str] | None, k: int
    ) -> Bool[np.ndarray, "J"]:
        """Return which catalogue items nobody may be recommended; arguments and errors are `recommend`'s."""
        barred = np.zeros(len(self.catalogue), bool)
        if isinstance(exclude, str):
            if exclude != "seen":
                raise InputError(f"exclude is {exclude!r}; expected 'seen', a list of item ids, or None")
        elif exclude is not None:
            barred = positions_of(exclude, self.item_ids, self.catalogue, "exclude")
        if allowed is not None:
            barred |= ~positions_of(allowed, self.item_ids, self.catalogue, "allowed")
        left = len(barred) - int(barred.sum())
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= left:
            raise InputError(
                f"k is {k!r}, and {left:,} of the policy's {len(barred):,} items may be recommended; expected a number from 1 to "
                f"{left:,}"
            )
        return barred

    def answer(
        self,
        item: Int[np.ndarray, "B H"],
        click: Bool[np.ndarray, "B H"],
        length: Int[np.ndarray, "B"],
        time: Int[np.ndarray, "B"],
        unlogged: Int[np.ndarray, "B"],
        *,
        excluded: Bool[np.ndarray, "B J"],
        k: int,
    ) -> tuple[Int[np.ndarray, "B k"], Float[np.ndarray, "B k"], Int[np.ndarray, "B"]]:
        """Return catalogue positions of k items for each of any number of users, their scores, and how many there are.

        Arrays are as `export.recommender` takes them. Slate after slate is asked for, what was shown excluded, until k are found
        or no item is left.

        Raises:
            InputError: the policy shows excluded items, or was loaded by another process than this.
        """
        if os.getpid() != self.process:
            raise InputError(
                f"this policy was loaded by process {self.process}, and JAX would wait for ever in process {os.getpid()}, which "
                "was forked from it: let each worker load the policy itself (gunicorn: without --preload)"
            )
        arrays = (item, click, length, time, unlogged, excluded)
        found = [
            self._answer_batch([x[i : i + self.batch] for x in arrays], k) for i in range(0, len(item), self.batch)
        ]
        shown, score, count = (np.concatenate(x) for x in zip(*found, strict=True))
        return shown, score, count

    def _answer_batch(self, arrays: list[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        size = len(arrays[0])
        padded = [np.concatenate([x, np.zeros((self.batch - size, *x.shape[1:]), x.dtype)]) for x in arrays]
        *seen, excluded = padded
        shown, score = np.zeros((self.batch, k), np.int32), np.zeros((self.batch, k), np.float32)
        count, left = np.zeros(self.batch, np.int32), len(self.catalogue) - excluded.sum(axis=1)
        while np.any((count < k) & (left > 0)):
            slate, probability = map(np.asarray, self.compiled(*seen, excluded))
            is_new = slate >= 0
            if np.any(is_new.sum(axis=1) < np.minimum(left, slate.shape[1])):
                raise InputError(
                    f"the exported method {self.meta.get('method', '')} shows items that it was told to leave out: let its act "
                    "honour view.excluded (dsrm_jax.greedy_slate takes it) and export it again, or ask with exclude=None and "
                    f"k up to {slate.shape[1]}"
                )
            row, slot = np.nonzero(is_new)
            excluded[row, slate[row, slot]] = True
            place = (count[:, None] + np.cumsum(is_new, axis=1) - 1)[row, slot]
            row, slot, place = row[place < k], slot[place < k], place[place < k]
            shown[row, place], score[row, place] = slate[row, slot], probability[row, slot]
            count = np.minimum(count + is_new.sum(axis=1), k).astype(np.int32)
            left = left - is_new.sum(axis=1)
        return shown[:size], score[:size], count[:size]


def argument_shapes(batch: Any, history_length: int, num_items: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Return the shapes of `export.recommender`'s arguments; the number of users may be symbolic."""
    number = jax.ShapeDtypeStruct((batch,), np.int32)
    return (
        jax.ShapeDtypeStruct((batch, history_length), np.int32),
        jax.ShapeDtypeStruct((batch, history_length), np.bool_),
        *(number, number, number),
        jax.ShapeDtypeStruct((batch, num_items), np.bool_),
    )


def _numbers(
    given: Sequence[int] | Mapping[Hashable, int] | None, users: Sequence[Hashable], name: str, most: int
) -> Int[np.ndarray, "B"]:
    """Return one number of each user; `InputError` where they are not, or not whole, negative or more than `most`."""
    if given is None:
        return np.zeros(len(users), np.int32)
    given = [given[user] for user in users if user in given] if isinstance(given, Mapping) else list(given)
    if len(given) != len(users):
        raise InputError(f"{len(given)} {name} for {len(users)} histories: give one of each user")
    whole = [isinstance(x, (int, np.integer)) and not isinstance(x, bool) and 0 <= x <= most for x in given]
    if not all(whole):
        raise InputError(f"{name} holds {given[whole.index(False)]!r}; expected whole numbers from 0 to {most:,}")
    return np.asarray(given, np.int32)


def load_policy(path: str | os.PathLike[str], *, warm_up: bool = True, sha256: str = "") -> ExportedPolicy:
    """Read a policy that `dsrm-jax export` wrote, compile it and call it once (`ExportedPolicy.warm_up`), unless told otherwise.

    The file may come from anyone: `serving/artifact.py` says what is checked and what a hostile one could still do. `sha256` is
    that of the whole file, where you know it from whom you trust.

    Raises:
        InputError: the file is missing, damaged, another one than `sha256` says, of a format or for platforms that do not fit, or
            holds a program that no export writes, or that takes more than `artifact.MOST_SECONDS` for its first call.
    """
    artifact = read_artifact(path, sha256=sha256)
    if platform() not in artifact.meta["platforms"]:
        known = ", ".join(artifact.meta["platforms"])
        raise InputError(f"{path} was exported for {known:.200}, and JAX runs on {platform()} here")
    policy = ExportedPolicy(artifact.meta, artifact.item_ids, artifact.catalogue, artifact.program.call)
    shapes = argument_shapes(policy.batch, policy.meta["history_length"], len(policy.catalogue))
    check_program(path, artifact, shapes, batch=policy.batch)
    if warm_up:
        _within(MOST_SECONDS, policy.warm_up, path)
    return policy


def _within(seconds: float, work: Callable[[], None], path: str | os.PathLike[str]) -> None:
    """Do work of a program that nobody vouches for, and give it up after some seconds: XLA cannot be stopped, but left."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise InputError(f"{path} has not answered its first question after {seconds:.0f} s, and is given up")
    if failed:
        reason = first_line(failed[0])
        raise InputError(f"{path} holds a program that cannot be run here ({reason}): export it again") from failed[0]
