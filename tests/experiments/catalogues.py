"""A small catalogue for tests of what a manager's goal does to slates."""

import jax.numpy as jnp
import numpy as np

from dsrm_jax.purify.view import Catalogue

ITEMS = 30


def drawn_catalogue(rng: np.random.Generator, *, dim: int, context_size: int = 0) -> Catalogue:
    """Return items with normal vectors and biases, the first half of them popular."""
    return Catalogue(
        jnp.asarray(rng.normal(size=(ITEMS, dim)), jnp.float32),
        jnp.asarray(rng.normal(size=ITEMS), jnp.float32),
        jnp.zeros(ITEMS),
        jnp.arange(ITEMS) < ITEMS // 2,
        context_size=context_size,
    )
