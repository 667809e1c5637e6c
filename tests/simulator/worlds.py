"""A small world for tests of mechanisms: even positions are popular, users have few and many rows."""

import jax
import jax.numpy as jnp
import numpy as np

from dsrm_jax.simulator.mechanism import with_mechanisms
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World

NUM_ITEMS, NUM_USERS = 40, 6
ROWS = (3, 0, 1, 17, 9, 4)


def make_world(response, num_items=NUM_ITEMS, rows=ROWS, **more):
    """Return a world whose rows show items of the catalogue, at random."""
    rng = np.random.default_rng(2)
    user = np.repeat(np.arange(len(rows)), rows).astype(np.int32)
    item = 500 + 3 * np.arange(num_items)
    return World(
        response=response,
        starts=SessionStarts(
            user=jnp.asarray(user),
            item=jnp.asarray(rng.choice(item, len(user)), jnp.int32),
            click=jnp.asarray(rng.random(len(user)) < 0.5),
            first=jnp.asarray(np.concatenate([[0], np.cumsum(rows)]), jnp.int32),
        ),
        item=jnp.asarray(item, jnp.int32),
        is_popular=jnp.asarray(np.arange(num_items) % 2 == 0),
        log_popularity=jnp.asarray(rng.standard_normal(num_items), jnp.float32),
        **more,
    )


def remembering_world(mechanisms, chance=None, num_items=NUM_ITEMS, rows=ROWS, **more):
    """Return such a world with the mechanisms' traits; every click has one chance, or is looked up in a random table."""
    table = np.random.default_rng(3).random((len(rows), num_items)) if chance is None else None
    table = np.full((len(rows), num_items), chance) if table is None else table
    world = make_world(TableResponse(jnp.asarray(table, jnp.float32)), num_items, rows, **more)
    return with_mechanisms(jax.random.key(1), world, mechanisms)
