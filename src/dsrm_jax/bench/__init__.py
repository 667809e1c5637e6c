"""How fast the program is: each part beside the time that its matrix products take alone, and how cost grows with size."""

from dsrm_jax.bench.measure import run
from dsrm_jax.bench.scaling import run_scaling
from dsrm_jax.bench.sizes import SIZES, Size

__all__ = ["SIZES", "Size", "run", "run_scaling"]
