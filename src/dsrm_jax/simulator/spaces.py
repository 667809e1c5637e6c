"""Spaces of actions and observations, with the `shape`, `dtype`, `sample` and `contains` of Gymnax."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Int, Shaped

from dsrm_jax.types import PyTree


@dataclass(frozen=True)
class Box:
    """Arrays of one shape and type, whole numbers or booleans, with entries from `low` to `high`, inclusive."""

    low: int
    high: int
    shape: tuple[int, ...] = ()
    dtype: DTypeLike = jnp.int32

    def sample(self, key: jax.Array) -> Shaped[Array, "..."]:
        """Draw every entry uniformly. The key is consumed."""
        if self.dtype == jnp.bool_:
            return jax.random.bernoulli(key, shape=self.shape)
        high = min(self.high, jnp.iinfo(self.dtype).max - 1)
        return jax.random.randint(key, self.shape, self.low, high + 1, self.dtype)

    def contains(self, x: Shaped[Array, "..."]) -> Bool[Array, ""]:
        """Return `()` bool: whether `x` has the shape and data type and lies in the range."""
        if jnp.shape(x) != self.shape or jnp.result_type(x) != self.dtype:
            return jnp.asarray(False)
        return jnp.all((x >= self.low) & (x <= self.high))


@dataclass(frozen=True)
class Reals:
    """Arrays of one shape of finite float32 numbers."""

    shape: tuple[int, ...] = ()
    dtype: DTypeLike = jnp.float32

    def sample(self, key: jax.Array) -> Shaped[Array, "..."]:
        """Draw every entry from the standard normal. The key is consumed."""
        return jax.random.normal(key, self.shape, self.dtype)

    def contains(self, x: Shaped[Array, "..."]) -> Bool[Array, ""]:
        """Return `()` bool: whether `x` has the shape and data type and is finite."""
        if jnp.shape(x) != self.shape or jnp.result_type(x) != self.dtype:
            return jnp.asarray(False)
        return jnp.all(jnp.isfinite(x))


@dataclass(frozen=True)
class Slates:
    """Ordered slates of K distinct catalogue positions out of J."""

    num_items: int
    slate_size: int
    dtype: DTypeLike = jnp.int32

    @property
    def shape(self) -> tuple[int, ...]:
        """`(K,)`."""
        return (self.slate_size,)

    def sample(self, key: jax.Array) -> Int[Array, "K"]:
        """Draw one of the J! / (J - K)! slates, in O(K^2) and not O(J). The key is consumed.

        All slates are equally likely, to within a factor of 1 + K J / 2^32.
        """
        pick_bits, order_bits = jax.random.bits(key, (2, self.slate_size))
        last = jnp.arange(self.num_items - self.slate_size, self.num_items, dtype=self.dtype)
        picks = (pick_bits % (last + 1).astype(jnp.uint32)).astype(self.dtype)
        # Floyd's algorithm: the i-th pick ranges over one more item than the one before it did; a pick that
        # repeats an earlier one becomes that newest item.
        slate = picks
        for i in range(1, self.slate_size):
            repeated = jnp.any(slate[:i] == picks[i])
            slate = slate.at[i].set(jnp.where(repeated, last[i], picks[i]))
        return slate[jnp.argsort(order_bits)]

    def contains(self, x: Int[Array, "K"]) -> Bool[Array, ""]:
        """Return `()` bool: whether `x` is an integer array of K distinct positions of the catalogue."""
        if jnp.shape(x) != self.shape or not jnp.issubdtype(jnp.result_type(x), jnp.integer):
            return jnp.asarray(False)
        repeats = jnp.sum(x[:, None] == x[None, :]) > self.slate_size
        return jnp.all((x >= 0) & (x < self.num_items)) & ~repeats


@dataclass(frozen=True)
class Product:
    """A pytree of spaces: elements have the same structure."""

    spaces: PyTree

    @property
    def shape(self) -> PyTree:
        """The shapes of the leaves, in the same structure."""
        return jax.tree.map(lambda space: space.shape, self.spaces)

    @property
    def dtype(self) -> PyTree:
        """The data types of the leaves, in the same structure."""
        return jax.tree.map(lambda space: space.dtype, self.spaces)

    def sample(self, key: jax.Array) -> PyTree:
        """Draw every leaf on its own. The key is consumed."""
        leaves, structure = jax.tree.flatten(self.spaces)
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(structure, [space.sample(k) for space, k in zip(leaves, keys, strict=True)])

    def contains(self, x: PyTree) -> Bool[Array, ""]:
        """Return `()` bool: whether `x` has the structure and each leaf lies in its space."""
        spaces, structure = jax.tree.flatten(self.spaces)
        leaves, other = jax.tree.flatten(x)
        if structure != other:  # type: ignore[operator]
            return jnp.asarray(False)
        inside = [space.contains(leaf) for space, leaf in zip(spaces, leaves, strict=True)]
        return jnp.all(jnp.stack(inside))
