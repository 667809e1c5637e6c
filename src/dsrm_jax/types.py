"""Names for what a type cannot say: pytrees whose structure another piece decides, JSON objects, who is told of progress."""

from collections.abc import Callable
from typing import Any, TypeAlias

PyTree: TypeAlias = Any
"""A pytree of arrays; the piece that it belongs to decides its structure."""
Json: TypeAlias = dict[str, Any]
"""A JSON object: plain values, lists and objects."""
Say: TypeAlias = Callable[[str], None]
"""Told what is being done, a line each."""
