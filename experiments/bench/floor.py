"""The floor under a program's time: its matrix products run alone."""

import time
from collections import Counter
from collections.abc import Callable, Sequence

import jax
import numpy as np

from experiments.bench.products import Product


def compile_products(counts: Counter[Product]) -> Callable[[], object]:
    """Compile one program that executes the counted products, and nothing else worth naming.

    Every execution depends on the one before through a single element of the smaller operand, so that XLA can neither
    drop nor hoist any.

    Args:
        counts: from `matrix_products`.

    Returns:
        A function of no arguments that runs the program once and waits for it.
    """
    key = jax.random.key(0)
    operands = []
    for product in counts:
        key, left_key, right_key = jax.random.split(key, 3)
        operands.append(
            (
                jax.random.normal(left_key, product.left, product.dtypes[0]),
                jax.random.normal(right_key, product.right, product.dtypes[1]),
            )
        )

    def all_products(operands: Sequence[tuple[jax.Array, jax.Array]]) -> list[jax.Array]:
        return [
            repeat(product, times, left, right)
            for (product, times), (left, right) in zip(counts.items(), operands, strict=True)
        ]

    program = jax.jit(all_products).lower(operands).compile()
    return lambda: jax.block_until_ready(program(operands))


def repeat(product: Product, times: int, left: jax.Array, right: jax.Array) -> jax.Array:
    """Execute a product several times, each after the one before."""
    small_is_left = left.size <= right.size

    def once(small: jax.Array, _: None) -> tuple[jax.Array, None]:
        pair = (small, right) if small_is_left else (left, small)
        result = jax.lax.dot_general(
            *pair,
            product.dimension_numbers,
            precision=product.precision,
            preferred_element_type=product.preferred_element_type,
        )
        # Without the barrier XLA would compute just the element that is looked at.
        element = jax.lax.optimization_barrier(result).ravel()[0]
        return small.at[(0,) * small.ndim].add((1e-30 * element).astype(small.dtype)), None

    return jax.lax.scan(once, left if small_is_left else right, length=times)[0]


def median_seconds(call: Callable[[], object], *, repeats: int, least: float = 0.2) -> float:
    """Return the median over repeats of the wall seconds that a call takes, after one call to warm up.

    Args:
        call: runs to completion before it returns.
        repeats: timings, at least 1.
        least: seconds that a timing lasts at least, by calling several times.
    """
    call()
    started = time.perf_counter()
    call()
    once = time.perf_counter() - started
    calls = max(1, round(least / max(once, 1e-7)))
    timings = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(calls):
            call()
        timings.append((time.perf_counter() - started) / calls)
    return float(np.median(timings))
