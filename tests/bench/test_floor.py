"""The floor counts a program's matrix products."""

import jax
import jax.numpy as jnp

from dsrm_jax.bench.floor import matrix_products


def test_the_floor_counts_matrix_products_inside_scans():
    def program(x, w):
        def step(x, _):
            return jnp.tanh(x @ w), None

        return jax.lax.scan(step, x, length=7)[0]

    products = matrix_products(program, jnp.zeros((3, 5)), jnp.zeros((5, 5)))
    assert sum(count for count in products.values()) == 7
    assert {p.operations for p in products} == {2 * 3 * 5 * 5}
