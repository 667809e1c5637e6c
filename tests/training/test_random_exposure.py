"""The random-exposure target: what users click among uniformly random items, whatever their log shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.config import Config
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World
from dsrm_jax.state.encoder import Embeddings, Encoder, EncoderParams, make_encoder
from dsrm_jax.state.perception import fit_perception_purifier
from dsrm_jax.training.prepare import seed_keys
from dsrm_jax.training.random_exposure import random_exposure_states
from dsrm_jax.training.serialise import merge

USERS, ITEMS, DIM, EVENTS = 300, 12, 3, 400
CLICKED_MEAN = Encoder(init=None, encode=lambda params, summary: summary[..., :DIM])


@pytest.fixture(scope="module")
def world():
    """Users who click a third of the items, their own; the log shows nothing but item 0. Position j is item j + 1."""
    rng = np.random.default_rng(0)
    likes = rng.permuted(np.tile(np.arange(ITEMS) < 4, (USERS, 1)), axis=1)
    rows = jnp.zeros(USERS, jnp.int32)
    return World(
        response=TableResponse(jnp.asarray(likes, jnp.float32)),
        starts=SessionStarts(jnp.arange(USERS), rows, rows > 0, jnp.arange(USERS + 1)),
        item=jnp.arange(1, ITEMS + 1),
        is_popular=jnp.arange(ITEMS) < 3,
        log_popularity=jnp.zeros(ITEMS),
        exposure=jnp.ones(ITEMS),
        clicked=jnp.ones(ITEMS),
    )


@pytest.fixture(scope="module")
def params():
    vectors = np.random.default_rng(1).normal(size=(ITEMS + 1, DIM))
    return EncoderParams(Embeddings(jnp.asarray(vectors, jnp.float32), jnp.zeros(ITEMS + 1)), {})


def test_it_is_the_mean_of_what_each_user_likes_of_the_catalogue(world, params):
    """Exact up to sampling: about 133 clicks fall uniformly on four items."""
    found = random_exposure_states(jax.random.key(0), CLICKED_MEAN, params, world, num_events=EVENTS)
    likes, vectors = np.asarray(world.response.probability), np.asarray(params.embeddings.vectors)[1:]
    expected = likes @ vectors / 4
    clicks = EVENTS / 3
    spread = np.sqrt((likes @ vectors**2 / 4 - expected**2) / clicks)
    error = (np.asarray(found) * (1 + 1 / clicks) - expected) / spread
    assert abs(error.mean()) < 4 / np.sqrt(error.size / 2)
    assert 0.9 < error.std() < 1.1


def test_stage_one_learns_it_instead_of_what_the_window_shows(world, params):
    """A constant target, which no window holds: the regression control's loss falls to where only a constant is left to learn."""
    config = merge(
        Config(),
        {
            "encoder": {"dim": DIM - 1},
            "environment": {"history_length": 4, "arrival_length": 1},
            "training": {"seeds": [1]},
            "purifier": {
                "kind": "regression",
                "target": "random_exposure",
                "iterations": 150,
                "batch_size": 32,
                "hidden": 8,
            },
        },
        "test",
    )
    target = jnp.broadcast_to(jnp.array([3.0, -2.0, 5.0]), (USERS, DIM))
    target += 0.01 * jax.random.normal(jax.random.key(3), target.shape)

    encoder = make_encoder(config.encoder).init(jax.random.key(2), params.embeddings)
    purifier, _ = fit_perception_purifier(seed_keys(config, 1), config, encoder, world.starts, target)
    np.testing.assert_allclose(purifier.target.mean[0], [3.0, -2.0, 5.0], atol=0.01)
