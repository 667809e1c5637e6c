"""How fast the program is: each part beside the time that its matrix products take alone, and how cost grows with size."""

from experiments.bench.measure import run
from experiments.bench.scaling import run_scaling
from experiments.bench.sizes import SIZES, Size

__all__ = ["SIZES", "Size", "run", "run_scaling"]
