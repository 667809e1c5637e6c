"""What one process keeps that several configurations share."""

from collections.abc import Callable
from typing import Any

Memory = dict[tuple[Any, ...], Any]


def once(memory: Memory, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """Return what the memory holds under a key, made and kept the first time."""
    if key not in memory:
        memory[key] = make()
    return memory[key]
