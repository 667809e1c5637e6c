"""States to be saved, for tests of checkpoints and the processes that they start."""

from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
from flax import struct

PRINT = "f" * 64


@struct.dataclass
class Inner:
    weights: jax.Array
    count: jax.Array


@struct.dataclass
class Outer:
    inner: Inner
    key: jax.Array
    pair: tuple[jax.Array, None]
    name: str = struct.field(pytree_node=False, default="static")


def small(value: int) -> Outer:
    """A state whose every leaf depends on `value`."""
    return Outer(
        inner=Inner(weights=jnp.arange(6, dtype=jnp.float32) + value, count=jnp.int32(value)),
        key=jax.random.split(jax.random.key(value), 2),
        pair=(jnp.full((3,), value % 2 == 1), None),
    )


def odd() -> dict:
    """Every kind of leaf that a run may hold, with values that a careless round trip would change."""
    nan = np.array([0x7FC00001, 0xFFC00000, 0x80000000, 0x00000001], np.uint32).view(np.float32)
    params = {"kernel": jnp.asarray(nan), "bias": jnp.zeros((0, 3))}
    return {
        "state": small(3),
        "optimiser": optax.adam(1e-3).init(params),
        "nan_payloads": jnp.asarray(nan),
        "bfloat16": jnp.array([1.5, -0.0, jnp.inf], jnp.bfloat16),
        "float16": jnp.array([65504.0, 6e-8], jnp.float16),
        "float8": np.array([1, 2], ml_dtypes.float8_e4m3fn),
        "int8": jnp.array([-128, 127], jnp.int8),
        "uint32": jnp.array([2**32 - 1], jnp.uint32),
        "bool": jnp.bool_(True),
        "scalar": jnp.float32(0.1),
        "float64": np.array([0.1, np.nan]),
        "int64": np.int64(-(2**62)),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "python": [7, 0.1, True],
        "rbg": jax.random.key(5, impl="rbg"),
        "key": jax.random.key(6),
        "empty_keys": jax.random.split(jax.random.key(0), 4)[:0],
    }


def bits(leaf) -> tuple:
    """What must not change: type, dtype, shape, bytes."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = np.asarray(jax.random.key_data(leaf))
        return str(leaf.dtype), leaf.shape, data.tobytes()
    array = np.asarray(leaf)
    return ((jax.Array if isinstance(leaf, jax.Array) else type(leaf)), array.dtype, array.shape, array.tobytes())


def assert_same(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        assert bits(a) == bits(b), jax.tree_util.keystr(path)


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())
