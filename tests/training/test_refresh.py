"""Refresh rounds: histories come from the training world's own users and policy, and Stage I goes on where it stood."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents.yardsticks import make_quota_greedy_purified
from dsrm_jax.config import Config, EncoderConfig, EnvironmentConfig, PurifierConfig
from dsrm_jax.purify.encoder import Embeddings, EncoderParams
from dsrm_jax.purify.exposure import silent_exposure
from dsrm_jax.purify.leverage import leverage_of
from dsrm_jax.purify.perception import Perception
from dsrm_jax.purify.posterior import UserPosterior
from dsrm_jax.purify.stage_one import fit_purifiers
from dsrm_jax.purify.windows import Windows
from dsrm_jax.runs.pieces import encoder_of, environment_of, purifier_of
from dsrm_jax.simulator.response import FactorResponse
from dsrm_jax.simulator.world import SessionStarts, World
from dsrm_jax.training import refresh
from dsrm_jax.training.refresh import Collectors, collect_histories, refresh_perception

USERS, ITEMS, DIM, ROWS, H = 6, 20, 2, 15, 12
D = DIM + 1
CONFIG = Config(
    environment=EnvironmentConfig(history_length=H, max_len=6),
    encoder=EncoderConfig(dim=DIM),
    purifier=PurifierConfig(kind="masked", diffusion_steps=2, hidden=8, iterations=20, batch_size=16, refresh_rounds=1),
)
GENERATOR = np.random.default_rng(0)
KNOWN = UserPosterior(
    jnp.ones((USERS, D)), jnp.full(USERS, float(ROWS)), leverage_of(0.3 * jnp.eye(D)), silent_exposure(D), jnp.ones(())
)
VECTORS = jnp.float32(np.c_[GENERATOR.normal(size=(ITEMS, DIM)), np.ones(ITEMS)])


def collectors(config):
    agent = make_quota_greedy_purified(slate_size=config.environment.slate_size)
    return Collectors(environment_of(config), agent, encoder_of(config), purifier_of(config))


@pytest.fixture(scope="module")
def world():
    """Users whose log shows items 0..9 only, in a catalogue of items 10..19."""
    rows = USERS * ROWS
    return World(
        response=FactorResponse(
            user=jnp.float32(GENERATOR.normal(size=(USERS, DIM))),
            item=VECTORS[10:, :DIM],
            user_bias=jnp.zeros(USERS),
            item_bias=jnp.zeros(10),
        ),
        starts=SessionStarts(
            jnp.repeat(jnp.arange(USERS, dtype=jnp.int32), ROWS),
            jnp.asarray(GENERATOR.integers(0, 10, rows), jnp.int32),
            jnp.asarray(GENERATOR.uniform(size=rows) < 0.5),
            jnp.arange(0, rows + 1, ROWS, dtype=jnp.int32),
        ),
        item=jnp.arange(10, 20, dtype=jnp.int32),
        is_popular=jnp.arange(10) < 4,
        log_popularity=jnp.zeros(10),
        exposure=jnp.ones(10),
        clicked=jnp.ones(10),
    )


@pytest.fixture(scope="module")
def perception(world):
    encoder = encoder_of(CONFIG).init(jax.random.key(0), Embeddings(VECTORS, jnp.zeros(ITEMS)))
    keys = jax.random.split(jax.random.key(1), 2)
    modules = encoder_of(CONFIG), purifier_of(CONFIG)
    purifier, _ = fit_purifiers(keys, *modules, encoder, Windows(world.starts, H, 50), KNOWN)
    return Perception(EncoderParams(encoder.embeddings, encoder.network), purifier)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_histories_hold_what_the_policy_showed_the_training_worlds_users(world, perception):
    one = Perception(perception.encoder, jax.tree.map(lambda x: x[0], perception.purifier))
    found = jax.jit(lambda key: collect_histories(key, collectors(CONFIG), world, one))(jax.random.key(2))
    rows = refresh.NUM_USERS * refresh.NUM_STEPS
    assert found.history.item.shape == (rows, H)
    shown = np.asarray(found.history.item)
    present = np.arange(H) >= H - np.asarray(found.history.length)[:, None]
    from_sessions = (shown >= 10) & present
    assert 0.3 < from_sessions[present].mean() < 1.0
    # slates are greedy: of the ten items some are never the best of their group for anybody
    counts = np.bincount(shown[from_sessions], minlength=20)[10:]
    assert counts[:4].sum() == pytest.approx(counts[4:].sum(), rel=0.05)
    # a history is kept with the user who made it: click rates of session events are the users' own
    response = jax.tree.map(np.asarray, world.response)
    chance = 1 / (1 + np.exp(-(response.user @ response.item.T)))
    user = np.broadcast_to(np.asarray(found.user)[:, None], shown.shape)[from_sessions]
    item, click = shown[from_sessions] - 10, np.asarray(found.history.click)[from_sessions]
    own = np.mean(np.abs(click - chance[user, item]))
    shuffled = np.mean(np.abs(click - chance[(user + 1) % USERS, item]))
    assert own < 0.9 * shuffled


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rounds_move_kinds_that_learn_from_pairs_and_nothing_else(world, perception):
    keys = jax.random.split(jax.random.key(3), 2)
    purifier, losses = refresh_perception(keys, collectors(CONFIG), perception, world, KNOWN)
    assert losses.shape == (2, CONFIG.purifier.iterations)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), purifier, perception.purifier)
    assert max(jax.tree.leaves(moved.network)) > 1e-3
    assert max(jax.tree.leaves((moved.state, moved.condition, moved.target))) == 0
    for kind in ("guided", "paper", "identity"):
        config = replace(CONFIG, purifier=replace(CONFIG.purifier, kind=kind))
        same, losses = refresh_perception(keys, collectors(config), perception, world, KNOWN)
        assert same is perception.purifier
        assert losses is None
