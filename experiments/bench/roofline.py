"""What the machine could do at most, measured beside the parts: a roofline (Williams, Waterman, Patterson 2009).

Whatever a part computes, it executes its arithmetic, writes its results and draws its random bits. None of it can go faster than
the machine does that one thing alone: arithmetic in a matrix product of the best size, bytes in a stream, bits in one long draw.
The slowest of the three bounds the part. Integers, and what is read, looked up, compared or kept in memory meanwhile, are left
out, so that most distances from the limit are too large; too small they are where XLA finds arithmetic that it need not do.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp

from dsrm_jax.types import Json, PyTree
from experiments.bench.floor import median_seconds

SIDES = (1024, 2048, 4096)  # of square float32 matrices
STREAMED = 1 << 26  # float32 numbers, 268 MB: more than caches hold
DRAWN = 1 << 23  # numbers of 32 random bits
OPERATIONS, BYTES, BITS = "flops", "bytes", "bits"


@dataclass(frozen=True)
class Machine:
    """What it does at most in a second."""

    operations: float  # multiplications and additions of float32, in one matrix product
    bytes: float  # to and from memory
    random_bits: float  # of JAX's default generator


def measure_machine(*, repeats: int, scale: float = 1.0) -> Machine:
    """Measure one device with all cores that XLA gives it; the best shape counts.

    `scale` shrinks the arrays, for tests.
    """
    sides = [max(int(scale * side), 8) for side in SIDES]
    multiply = jax.jit(lambda x: x @ x)
    rates = [2 * side**3 / _seconds(multiply, jnp.ones((side, side)), repeats=repeats) for side in sides]
    numbers, drawn = max(int(scale * STREAMED), 1024), max(int(scale * DRAWN), 1024)
    triad = jax.jit(lambda x, y: x + 2.0 * y)
    streaming = _seconds(triad, jnp.zeros(numbers), jnp.ones(numbers), repeats=repeats)
    bits = jax.jit(lambda key: jax.random.bits(key, (drawn,), jnp.uint32))
    drawing = _seconds(bits, jax.random.key(0), repeats=repeats)
    return Machine(max(rates), 3 * 4 * numbers / streaming, 32 * drawn / drawing)


def limit_of(work: Mapping[str, float], machine: Machine) -> Json:
    """Return `milliseconds` that some work takes at least, and what of it `binds`.

    `work` counts `OPERATIONS`, `BYTES` and `BITS`.
    """
    most = dict(zip((OPERATIONS, BYTES, BITS), asdict(machine).values(), strict=True))
    times = {name: 1e3 * work[name] / most[name] for name in most}
    binds = max(times, key=lambda name: times[name])
    return {"milliseconds": times[binds], "binds": binds}


def bytes_of(*trees: PyTree) -> int:
    """Return the bytes of all arrays, or of their shapes; typed keys by their words."""
    return sum(_bytes(x) for x in jax.tree.leaves(trees))


def _bytes(x: PyTree) -> int:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.eval_shape(jax.random.key_data, x)
    return int(x.size * x.dtype.itemsize)


def _seconds(function: jax.stages.Wrapped, *args: PyTree, repeats: int) -> float:
    return median_seconds(lambda: jax.block_until_ready(function(*args)), repeats=repeats)
