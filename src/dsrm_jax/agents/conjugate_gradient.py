"""Conjugate gradients: solve A x = b for a positive definite A that is known only through its products."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Matvec = Callable[[Float[Array, "N"]], Float[Array, "N"]]
Carry = tuple[
    jax.Array, jax.Array, jax.Array, jax.Array, jax.Array
]  # solution, residual, direction, the residual's square, products so far


def conjugate_gradient(
    matvec: Matvec, b: Float[Array, "N"], *, iterations: int = 10, tolerance: float | Float[Array, ""] = 1e-6
) -> Float[Array, "N"]:
    """Solve A x = b (Hestenes and Stiefel 1952).

    b is brought to a largest entry of 1 first, so that neither tiny nor huge right-hand sides leave float32's range when squared.

    Args:
        matvec: v -> A v, A symmetric and positive definite; products with a pytree go through `ravel_pytree`.
        b: finite; zeros give zeros, without a product.
        iterations: products with A at most; N of them are exact but for rounding.
        tolerance: stop once |b - A x| <= tolerance |b|, non-negative.

    Returns:
        x; where A turns out to be singular along a search direction, the solution so far.
    """
    largest = jnp.max(jnp.abs(b))
    scale = jnp.where(largest > 0, largest, 1.0)
    start = b / scale
    square = start @ start
    enough = jnp.square(tolerance) * square

    def unfinished(carry: Carry) -> jax.Array:
        _, _, _, square, count = carry
        return (count < iterations) & (square > enough)

    def advance(carry: Carry) -> Carry:
        x, residual, direction, square, count = carry
        product = matvec(direction)
        curvature = direction @ product
        curved = curvature > 0
        step = jnp.where(curved, square / jnp.where(curved, curvature, 1.0), 0.0)
        residual = residual - step * product
        following = residual @ residual
        # `square` is above `enough`, hence above zero
        turned = residual + (following / square) * direction
        return x + step * direction, residual, turned, following, jnp.where(curved, count + 1, iterations)

    carry = (jnp.zeros_like(start), start, start, square, jnp.zeros((), jnp.int32))
    return scale * jax.lax.while_loop(unfinished, advance, carry)[0]
