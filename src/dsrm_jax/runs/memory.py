"""What one process keeps that several configurations share."""

from collections.abc import Callable, Hashable
from typing import TypeVar

from dsrm_jax.types import PyTree

Memory = dict[tuple[Hashable, ...], PyTree]
Made = TypeVar("Made")


MOST = 4  # of each kind: a log of millions of rows and its worlds take hundreds of megabytes


def once(memory: Memory, key: tuple[Hashable, ...], make: Callable[[], Made]) -> Made:
    """Return what the memory holds under a key, made and kept the first time.

    Of each kind, the key's first part, the `MOST` that were used last are kept: a process may meet any number of them.
    """
    memory[key] = found = memory.pop(key) if key in memory else make()
    for old in [other for other in memory if other[0] == key[0]][:-MOST]:
        del memory[old]
    return found
