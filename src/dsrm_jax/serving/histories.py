"""Histories and lists of items as callers have them, by their own ids; what they become is arrays that a policy takes.

Shapes: B users, H history length, I vocabulary items, J catalogue items.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from dsrm_jax.errors import InputError

Event: TypeAlias = tuple[int | str, bool]
"""Raw item id, whether it was clicked."""
Histories: TypeAlias = Mapping[Hashable, Sequence[Event]] | Sequence[Sequence[Event]]
CALL = "recommend({'cust-00001': [('item-7', True), ('item-9', False)], ...})"


@dataclass
class Packed:
    """Histories as arrays, the last H known events right-aligned, oldest first."""

    item: Int[np.ndarray, "B H"]  # int32 vocabulary indices, 0 where there is no event
    click: Bool[np.ndarray, "B H"]
    length: Int[np.ndarray, "B"]  # int32, events held
    # of each user, the vocabulary indices of all known events, also those before the last H
    seen: list[Int[np.ndarray, "..."]]
    # how many events name each item that the policy does not know
    unknown: Counter[Hashable] = field(default_factory=Counter)


def pack(histories: Sequence[Sequence[Event]], item_ids: np.ndarray, *, history_length: int) -> Packed:
    """Return histories as arrays; `item_ids` are `(I,)` raw ids, sorted.

    Raises:
        InputError: what is no history, or raw ids of another kind than the policy's.
    """
    count = len(histories)
    item, click = np.zeros((count, history_length), np.int32), np.zeros((count, history_length), bool)
    found = Packed(item, click, np.zeros(count, np.int32), [])
    for row, history in enumerate(histories):
        raw = _raw_ids([event[0] for event in history], item_ids, f"history {row}")
        index = np.minimum(np.searchsorted(item_ids, raw), len(item_ids) - 1)
        known = item_ids[index] == raw
        found.seen.append(index[known])
        found.unknown.update(raw[~known].tolist())
        last = np.flatnonzero(known)[-history_length:]
        if len(last):
            found.length[row] = len(last)
            item[row, -len(last) :] = index[last]
            click[row, -len(last) :] = [bool(history[i][1]) for i in last]
    return found


def check_histories(histories: Histories) -> tuple[list[Hashable], list[Sequence[Event]]]:
    """Return users (the callers' ids, or positions in a list) and their histories.

    Raises:
        InputError: anything else than a mapping or list of histories, or than pairs (item, clicked) in one; with the right call.
    """
    if isinstance(histories, str) or not isinstance(histories, (Mapping, Sequence)):
        raise InputError(f"histories are {histories!r:.60}; expected one of each user: {CALL}")
    users: list[Hashable] = list(histories) if isinstance(histories, Mapping) else list(range(len(histories)))
    found = list(histories.values() if isinstance(histories, Mapping) else histories)
    for user, history in zip(users, found, strict=True):
        if isinstance(history, (str, bytes)) or not isinstance(history, (Sequence, np.ndarray)):
            raise InputError(
                f"the history of user {user!r} is {history!r:.60}; expected that user's events, pairs (item, clicked): {CALL}"
            )
        for event in history:
            if not (isinstance(event, (tuple, list, np.ndarray)) and len(event) == 2):
                raise InputError(
                    f"the history of user {user!r} holds {event!r:.60}; expected pairs (item, clicked): {CALL}"
                )
            if event[1] not in (0, 1):
                raise InputError(
                    f"the history of user {user!r} says {event[1]!r:.60} of item {event[0]!r:.60}; expected whether it was "
                    f"clicked, True or False: {CALL}"
                )
    return users, found


def positions_of(ids: Iterable[int | str], known: np.ndarray, catalogue: np.ndarray, what: str) -> np.ndarray:
    """Return which of `(J,)` catalogue items, indices into `(I,)` sorted raw ids, are named by raw ids; others name nothing.

    Raises:
        InputError: no list of ids, or ids of another kind than the policy's; `what` they are is for the message.
    """
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise InputError(f"{what} is {ids!r:.60}; expected a list of item ids")
    return np.isin(known[catalogue], _raw_ids(list(ids), known, what))


def _raw_ids(ids: list[int | str], known: np.ndarray, what: str) -> np.ndarray:
    """Return raw ids as an array of the policy's kind."""
    kinds, raw = "US" if known.dtype.kind in "US" else "biuf", np.asarray(ids) if ids else known[:0]
    # a list of both kinds becomes an array of texts: the odd one is named
    texts = [isinstance(i, (str, bytes)) for i in ids] if raw.dtype.kind not in "biuf" else []
    odd = next((i for i, text in zip(ids, texts, strict=False) if text != (kinds == "US")), None)
    if raw.ndim != 1 or raw.dtype.kind not in kinds or odd is not None:
        given = ids[0] if odd is None else odd
        raise InputError(
            f"{what} holds item ids such as {given!r}, and the policy knows ids such as {known[0].item()!r}"
        )
    return raw
