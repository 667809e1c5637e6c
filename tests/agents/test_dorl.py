from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents import dorl
from dsrm_jax.agents.dorl import DORLConfig, DORLState, make_dorl, past_positions, penalised_rewards, reward_floor
from dsrm_jax.agents.log_entropy import fit_log_entropy, lowest_entropy
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import Catalogue, View

ITEMS = 3
CONFIG = DORLConfig(uncertainty_weight=0.5, entropy_weight=0.25, window=2)


@pytest.fixture
def catalogue():
    """Items 0, 1 and 2 are 5, 7 and 6 of the vocabulary."""
    zeros = jnp.zeros(ITEMS)
    position = jnp.full(9, -1).at[jnp.array([5, 7, 6])].set(jnp.arange(3))
    return Catalogue(jnp.zeros((ITEMS, 2)), zeros, zeros, zeros > 0, position=position)


@pytest.fixture(scope="module")
def table():
    """Only item 0 has a P_E(1) below 1, only the pair {0, 1} a P_E(2) below 1 (test_log_entropy has the log by hand)."""
    item = jnp.array([0, 1, 0, 1, 0, 2, 1, 0, 1], jnp.int32)
    return jax.jit(partial(fit_log_entropy, window=2))(item, jnp.array([0] * 6 + [1] * 3, jnp.int32))


@pytest.fixture
def agent(monkeypatch, table):
    """World models that give item i the mean .2 + .1 i and the largest variance .1 + .2 i."""
    monkeypatch.setattr(
        dorl, "predict_clicks", lambda models, state, item, catalogue: (0.2 + 0.1 * item, 0.1 + 0.2 * item)
    )
    return DORLState(None, None, table, jnp.array(0.3))


def view_of(recent):
    state = jnp.zeros((len(recent), 2))
    return View(state, state, jnp.zeros(len(recent), jnp.int32), recent=jnp.array(recent))


def rewards(agent, view, slate, catalogue):
    return jax.jit(partial(penalised_rewards, settings=CONFIG))(agent, view, slate, catalogue)


AFTER_0 = 0.75 * np.log2(4 / 3) + 0.25 * np.log2(4)
AFTER_01 = (2 * 0.4 * np.log2(5 / 2) + 0.2 * np.log2(5)) / np.log2(3)


def test_penalised_reward_by_hand(agent, catalogue):
    """The item shown ends the tuple: after item 1 (vocabulary 7), item 0 has P_E(1) of 0 and P_E(2) of {0, 1}."""
    found = rewards(agent, view_of([[-1, 7]]), jnp.array([[0, 2]]), catalogue)
    of_0 = 0.2 - 0.5 * 0.1 + 0.25 * (AFTER_0 + AFTER_01) - 0.3
    of_2 = 0.4 - 0.5 * 0.5 + 0.25 * 2 - 0.3
    np.testing.assert_allclose(found, [[of_0, of_2]], atol=1e-6)


def test_rewards_below_the_floor_are_zero(agent, catalogue):
    harsh = agent.replace(floor=jnp.array(0.6))
    found = np.asarray(rewards(harsh, view_of([[7]]), jnp.array([[0, 2]]), catalogue))
    assert found[0, 0] == 0
    assert found[0, 1] > 0


def test_recent_events_are_looked_up_by_vocabulary_index(catalogue):
    found = past_positions(view_of([[-1, 5, 8, 6]]), jnp.zeros((1, 2), jnp.int32), catalogue)
    np.testing.assert_array_equal(found, [[-1, 0, -1, 2]])


def test_the_floor_is_the_worst_case(agent, catalogue, table):
    logged = SimpleNamespace(transitions=SimpleNamespace(view=view_of([[5]] * 4)))
    floor = reward_floor(jax.random.key(0), None, table, logged, catalogue, settings=CONFIG)
    worst = min(0.2 + 0.1 * i - 0.5 * (0.1 + 0.2 * i) for i in range(ITEMS))
    np.testing.assert_allclose(floor, worst + 0.25 * lowest_entropy(table), atol=1e-6)


def test_it_needs_the_log(catalogue):
    with pytest.raises(InputError, match="training log"):
        make_dorl(slate_size=2).init(jax.random.key(0), catalogue)
