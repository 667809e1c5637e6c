"""Names for what a type cannot say: pytrees whose structure another piece decides, and JSON objects."""

from typing import Any, TypeAlias

PyTree: TypeAlias = Any
"""A pytree of arrays; the piece that it belongs to decides its structure."""
Json: TypeAlias = dict[str, Any]
"""A JSON object: plain values, lists and objects."""
