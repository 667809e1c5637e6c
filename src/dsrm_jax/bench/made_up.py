"""Worlds of given sizes with random contents, so that other systems can be measured beside this one at equal work.

Nothing here is learnt and no number but the sizes means anything.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsrm_jax.config import Config
from dsrm_jax.simulator.build import Worlds
from dsrm_jax.simulator.response import Response, TableResponse
from dsrm_jax.simulator.transformer import Features, TransformerResponse, UserResponseModel
from dsrm_jax.simulator.world import SessionStarts, World
from dsrm_jax.state.encoder import Embeddings, make_encoder
from dsrm_jax.state.perception import Perception
from dsrm_jax.training.prepare import Prepared

ROWS = 60  # log rows of each user


def table_world(config: Config, say: Callable[[str], None]) -> Prepared:
    """Return 1,411 users and 3,327 items with a table of answers: EasyRL4Rec's KuaiRec."""
    users, items = 1411, 3327
    rng = np.random.default_rng(0)
    response = TableResponse(jnp.asarray(rng.random((users, items)), jnp.float32))
    return _prepared(config, response, users, items, "a random table of 1,411 users and 3,327 items")


def transformer_world(config: Config, say: Callable[[str], None]) -> Prepared:
    """Return 1,000 users and 5,637 items who answer by an untrained transformer over 100 events: KuaiSim's."""
    users, items, history = 1000, 5637, config.environment.history_length
    model = UserResponseModel(num_users=users, num_items=items, history_length=history)
    features = Features(user=(), item=())
    index = jnp.zeros((1,), jnp.int32)
    arguments = (index, jnp.zeros((1, history), jnp.int32), jnp.zeros((1, history, 1)), index, features)
    params = jax.jit(model.init)(jax.random.key(0), *arguments)["params"]
    rng = np.random.default_rng(0)

    def random(rows: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(rows, model.dim)), jnp.float32)

    response = TransformerResponse(
        params=params, user=random(users), item=random(items), token=random(items + 1), model=model
    )
    return _prepared(config, response, users, items, "an untrained transformer, 1,000 users and 5,637 items")


def _prepared(config: Config, response: Response, users: int, items: int, source: str) -> Prepared:
    rng = np.random.default_rng(1)
    dim = config.encoder.dim
    popularity = rng.normal(size=items)
    world = World(
        response=response,
        starts=SessionStarts(
            user=jnp.asarray(np.repeat(np.arange(users), ROWS), jnp.int32),
            item=jnp.asarray(rng.integers(0, items, users * ROWS), jnp.int32),
            click=jnp.asarray(rng.random(users * ROWS) < 0.5),
            first=jnp.arange(0, users * ROWS + 1, ROWS, dtype=jnp.int32),
        ),
        item=jnp.arange(items, dtype=jnp.int32),
        is_popular=jnp.asarray(popularity >= np.quantile(popularity, 0.8)),
        log_popularity=jnp.asarray(popularity, jnp.float32),
        exposure=jnp.ones(items),
        clicked=jnp.ones(items),
    )
    vectors = np.concatenate([rng.normal(size=(items, dim)), np.ones((items, 1))], axis=1)
    embeddings = Embeddings(
        jnp.asarray(vectors, jnp.float32), jnp.asarray(rng.normal(size=items), jnp.float32)
    )
    encoder = make_encoder(config.encoder).init(jax.random.key(0), embeddings)
    everyone: Any = np.arange(users)
    worlds = Worlds(train=world, test=world, train_users=everyone, test_users=everyone, report={})
    return Prepared(worlds, Perception(encoder, {}), {"source": source})
