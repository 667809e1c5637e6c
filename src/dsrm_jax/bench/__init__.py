"""How fast the program is: each part beside the time that its matrix products take alone."""

from dsrm_jax.bench.measure import SIZES, Size, run

__all__ = ["SIZES", "Size", "run"]
