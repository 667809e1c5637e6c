"""Blocks of rows give what the whole batch gives, whatever their number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export

from dsrm_jax.purify import blocks
from dsrm_jax.purify.blocks import in_blocks


def row_products(x, y):
    """A function of rows of two shapes, with a tree as its result; of NumPy's arrays and of JAX's."""
    return {"sum": x["a"].sum(-1) + y, "pair": (x["a"] * y[:, None], x["b"])}


@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 70), size=st.integers(1, 20))
def test_every_row_comes_back_once_and_in_its_place(count, size):
    generator = np.random.default_rng(count)
    # whole numbers, so that sums are exact in any order
    x = {"a": np.float32(generator.integers(-99, 99, (count, 3))), "b": np.arange(count)}
    y = np.float32(generator.integers(-99, 99, count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "ROWS", size)
        found = jax.jit(lambda x, y: in_blocks(row_products, x, y))(x, y)
    jax.tree.map(np.testing.assert_array_equal, found, row_products(x, y))


def test_a_batch_of_any_size_can_be_exported():
    (batch,) = export.symbolic_shape("batch")
    program = export.export(jax.jit(lambda x: in_blocks(lambda x: 2 * x, x)))(
        jax.ShapeDtypeStruct((batch, 3), jnp.float32)
    )
    np.testing.assert_array_equal(program.call(jnp.ones((200, 3))), 2.0)


@pytest.mark.parametrize(("platform", "loops"), [("cpu", True), ("cuda", False)])
def test_only_a_cpu_goes_block_by_block(platform, loops):
    def double(x):
        return 2 * x

    traced = jax.jit(lambda x: in_blocks(double, x)).trace(jnp.arange(1000.0))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("while" in text) == loops
