"""What one process keeps that several configurations share."""

from collections.abc import Callable, Hashable
from typing import TypeVar

from dsrm_jax.types import PyTree

Memory = dict[tuple[Hashable, ...], PyTree]
Made = TypeVar("Made")


def once(memory: Memory, key: tuple[Hashable, ...], make: Callable[[], Made]) -> Made:
    """Return what the memory holds under a key, made and kept the first time."""
    if key not in memory:
        memory[key] = make()
    found: Made = memory[key]
    return found
