"""The random-exposure target: what users click among uniformly random items, whatever their log shows."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.config import Config, EnvironmentConfig
from dsrm_jax.config.serialise import merge
from dsrm_jax.purify.encoder import Embeddings, Encoder, EncoderParams, gather_evidence
from dsrm_jax.purify.exposure import silent_exposure
from dsrm_jax.purify.leverage import leverage_of
from dsrm_jax.purify.posterior import UserPosterior
from dsrm_jax.purify.stage_one import fit_purifiers
from dsrm_jax.purify.windows import Windows
from dsrm_jax.runs import prepare
from dsrm_jax.runs.pieces import encoder_of, purifier_of
from dsrm_jax.runs.prepare import seed_keys
from dsrm_jax.simulator.response import FactorResponse, TableResponse, slate_probability
from dsrm_jax.simulator.world import History, SessionStarts, World
from dsrm_jax.training import random_exposure
from dsrm_jax.training.random_exposure import random_exposure_states

USERS, ITEMS, DIM, EVENTS = 300, 12, 3, 400
ENVIRONMENT = EnvironmentConfig(history_length=EVENTS)
CLICKED_MEAN = Encoder(init=None, encode=lambda params, summary: summary[..., :DIM], state_dim=DIM)


def known(mode):
    """A posterior of which nothing but the mode is read."""
    leverage = jax.jit(leverage_of)(np.eye(DIM, dtype=np.float32))
    return UserPosterior(mode, np.ones(len(mode), np.float32), leverage, silent_exposure(DIM), jnp.float32(1))


def states(key, encoder, params, world, **options):
    """`random_exposure_states` as one program, traced with what is patched."""
    program = jax.jit(lambda key, params, world: random_exposure_states(key, encoder, params, world, **options))
    return program(key, params, world)


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
    found = states(jax.random.key(0), CLICKED_MEAN, params, world, history_length=EVENTS)
    likes, vectors = np.asarray(world.response.probability), np.asarray(params.embeddings.vectors)[1:]
    expected = likes @ vectors / 4
    clicks = EVENTS / 3
    spread = np.sqrt((likes @ vectors**2 / 4 - expected**2) / clicks)
    error = (np.asarray(found) * (1 + 1 / clicks) - expected) / spread
    assert abs(error.mean()) < 4 / np.sqrt(error.size / 2)
    assert 0.9 < error.std() < 1.1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stage_one_learns_it_instead_of_what_the_window_shows(world, params):
    """A constant target, which no window holds: the regression control answers with it, whatever the window."""
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

    encoder = encoder_of(config).init(jax.random.key(2), params.embeddings)
    module, regression = encoder_of(config), purifier_of(config)
    keys, posterior = seed_keys(config, 1), known(target)
    purifier, _ = fit_purifiers(keys, module, regression, encoder, Windows(world.starts, 4, 1), posterior)

    rng = np.random.default_rng(4)
    window = History(
        jnp.asarray(rng.integers(0, ITEMS + 1, (50, 4))), jnp.asarray(rng.random((50, 4)) < 0.5), jnp.full(50, 4)
    )
    evidence = gather_evidence(params.embeddings, window)
    found = regression.purify(
        jax.tree.map(lambda x: x[0], purifier), jax.random.key(5), module.encode(encoder, evidence.summary), evidence
    )
    np.testing.assert_allclose(found, np.tile([3.0, -2.0, 5.0], (50, 1)), atol=0.05)


@pytest.mark.parametrize(
    ("kind", "target"), [("masked", "full"), ("guided", "random_exposure"), ("masked", "random_exposure")]
)
def test_stage_one_is_given_the_target_that_the_settings_name(world, params, monkeypatch, kind, target):
    """Only kinds that learn from pairs read the setting."""
    monkeypatch.setattr(prepare, "encoder_of", lambda config: CLICKED_MEAN)
    config = merge(Config(), {"purifier": {"kind": kind, "target": target}}, "test")
    config = dataclasses.replace(config, environment=ENVIRONMENT)
    mode = jnp.float32(np.random.default_rng(6).normal(size=(USERS, DIM)))
    found = prepare._targets(config, params, known(mode), SimpleNamespace(train=world))
    if (kind, target) == ("masked", "random_exposure"):
        likes = np.asarray(world.response.probability)
        expected = likes @ np.asarray(params.embeddings.vectors)[1:] / 4
        assert np.corrcoef(np.ravel(found), np.ravel(expected))[0, 1] > 0.9
    else:
        np.testing.assert_array_equal(found, mode)


@pytest.mark.parametrize("history_length", [20, 600])
def test_clicks_are_drawn_as_sessions_draw_them_over_a_history_of_the_trained_length(
    world, params, monkeypatch, history_length
):
    """Nobody likes anything: one more sigmoid makes it a half, and an item's likeness to itself, 1/F, takes its share."""
    factors = np.zeros((USERS, 4)), np.full((ITEMS, 4), 1e-9), np.full(USERS, -50.0), np.zeros(ITEMS)
    response = FactorResponse(*map(jnp.float32, factors))

    def looked_at(response, user, slate, history, **options):
        assert history.item.shape == (history_length,), "what a fitted transformer is made for"
        return slate_probability(response, user, slate, history, **options)

    monkeypatch.setattr(random_exposure, "slate_probability", looked_at)
    rate = Encoder(init=None, encode=lambda params, summary: jnp.expm1(summary[..., -2:]), state_dim=2)
    found = states(
        jax.random.key(0),
        rate,
        params,
        world.replace(response=response),
        history_length=history_length,
        double_sigmoid=True,
        slate_correlation=0.8,
    )
    clicks, events = np.asarray(found).T
    np.testing.assert_allclose(events, min(512, history_length), rtol=1e-4)
    assert abs((clicks / events).mean() - (0.5 - 0.8 / 4)) < 4 * 0.5 / np.sqrt(USERS * history_length)
