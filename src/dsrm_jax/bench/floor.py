"""The floor under a program's time: its matrix products, read off its jaxpr and run alone."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import numpy as np
from jax.extend import core


@dataclass(frozen=True)
class Product:
    """One `dot_general`, by its operands' shapes and dtypes, by what is contracted and how precisely."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    dimension_numbers: Any
    dtypes: tuple[str, str]
    precision: Any
    preferred_element_type: Any

    @property
    def operations(self) -> int:
        """Multiplications and additions of one execution."""
        (_, right_contract), (_, right_batch) = self.dimension_numbers
        free = [n for i, n in enumerate(self.right) if i not in (*right_contract, *right_batch)]
        return 2 * int(np.prod(self.left)) * int(np.prod(free, dtype=int))


def matrix_products(function: Callable[..., Any], *args: Any) -> Counter[Product]:
    """Count how often a function executes each matrix product.

    Bodies of `scan` count once per iteration; bodies of `while` count once (their number of iterations is not known) and
    so does every branch of a `cond`.

    Args:
        function: traceable by JAX.
        args: what to trace it with.

    Returns:
        Executions per distinct product.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: core.Jaxpr) -> Counter[Product]:
    counts: Counter[Product] = Counter()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left, right = (cast(jax.core.ShapedArray, v.aval) for v in equation.invars)
            how = [equation.params[n] for n in ("dimension_numbers", "precision", "preferred_element_type")]
            dtypes = str(left.dtype), str(right.dtype)
            counts[Product(left.shape, right.shape, how[0], dtypes, how[1], how[2])] += 1
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in core.jaxprs_in_params(equation.params):
            for product, count in _count(inner).items():
                counts[product] += times * count
    return counts


def compile_products(counts: Counter[Product]) -> Callable[[], Any]:
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

    def all_products(operands: Any) -> list[jax.Array]:
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


def median_seconds(call: Callable[[], Any], *, repeats: int, least: float = 0.2) -> float:
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
