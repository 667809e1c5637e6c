"""The bench counts work correctly and says what it did."""

import jax
import jax.numpy as jnp
import pytest

from dsrm_jax import bench
from dsrm_jax.bench.floor import matrix_products
from dsrm_jax.errors import InputError


def test_the_floor_counts_matrix_products_inside_scans():
    def program(x, w):
        def step(x, _):
            return jnp.tanh(x @ w), None

        return jax.lax.scan(step, x, length=7)[0]

    products = matrix_products(program, jnp.zeros((3, 5)), jnp.zeros((5, 5)))
    assert sum(count for count in products.values()) == 7
    assert {p.operations for p in products} == {2 * 3 * 5 * 5}


@pytest.mark.parametrize(("size", "repeats", "word"), [("papr", 1, "paper"), ("tiny", 0, "repeats")])
def test_bad_arguments_are_refused(size, repeats, word):
    with pytest.raises(InputError, match=word):
        bench.run(size, repeats=repeats)
