"""The floor counts a program's matrix products."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.floor import repeat
from experiments.bench.products import matrix_products, work_of


def test_the_floor_counts_matrix_products_inside_scans():
    def program(x, w):
        def step(x, _):
            return jnp.tanh(x @ w), None

        return jax.lax.scan(step, x, length=7)[0]

    products = matrix_products(work_of(program, jnp.zeros((3, 5)), jnp.zeros((5, 5))))
    assert sum(count for count in products.values()) == 7
    assert {p.operations for p in products} == {2 * 3 * 5 * 5}


def test_a_counted_product_is_run_again_as_it_was():
    """Precision, both operands' types and the sum's type decide what a product costs."""

    def program(x, w):
        full = jnp.dot(x, w, precision=jax.lax.Precision.HIGHEST)
        mixed = jax.lax.dot(x.astype(jnp.bfloat16), w, preferred_element_type=jnp.float32)
        return full, x @ w, mixed

    products = matrix_products(work_of(program, jnp.zeros((3, 5)), jnp.zeros((5, 5))))
    assert len(products) == 3
    for product in products:
        operands = (jnp.zeros(*of) for of in zip((product.left, product.right), product.dtypes, strict=True))
        again = matrix_products(work_of(lambda x, w, product=product: repeat(product, 4, x, w), *operands))
        assert again == Counter({product: 4})


def test_a_branch_that_the_program_settles_counts_where_it_is_taken():
    """A scan that multiplies in 2 of its 6 iterations, inside a jitted function inside another scan of 3."""
    renew = np.array([True, False, False, True, False, False])

    @jax.jit
    def inner(x, w, taken):
        def step(x, taken):
            return jax.lax.cond(taken, lambda x: x @ w, jnp.tanh, x), None

        return jax.lax.scan(step, x, taken)[0]

    def program(x, w):
        taken = jnp.asarray(renew) & (jnp.arange(6) < 5)
        return jax.lax.scan(lambda x, _: (inner(x, w, taken), None), x, length=3)[0]

    products = matrix_products(work_of(program, jnp.zeros((3, 5)), jnp.zeros((5, 5))))
    assert list(products.values()) == [3 * 2]


def test_of_a_branch_that_the_data_settle_the_cheapest_counts():
    def program(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, lambda x: x @ w, x)

    products = matrix_products(work_of(program, jnp.zeros((3, 5)), jnp.zeros((5, 5))))
    assert list(products.values()) == [1]
