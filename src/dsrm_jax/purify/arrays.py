"""Names of what is said often of arrays."""

from typing import TypeAlias

from jaxtyping import Array, Float

Scalar: TypeAlias = float | Float[Array, ""]
"""A number, or an array of no dimensions that a sweep may trace."""
States: TypeAlias = Float[Array, "... D"]
"""States of users, of D dimensions."""
