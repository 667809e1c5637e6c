"""The front door: every seed's policy in its own sessions, one table's numbers for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents.agent import Agent
from dsrm_jax.evaluation.evaluate import evaluate
from dsrm_jax.evaluation.metrics import session_metrics, summarise
from dsrm_jax.evaluation.sessions import agent_rule, run_sessions
from dsrm_jax.purify.encoder import Embeddings, EncoderParams
from dsrm_jax.purify.perception import SEED_AXES, Perception
from dsrm_jax.purify.view import View
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.leave import Leave
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World

USERS, ITEMS = 5, 20
LEARNT = jnp.array([[0, 1, 2, 3], [0, 1, 10, 11]], jnp.int32)  # all popular; balanced


def make_world():
    rows = jnp.arange(USERS, dtype=jnp.int32)
    return World(
        response=TableResponse(jnp.full((USERS, ITEMS), 0.5)),
        starts=SessionStarts(rows, rows, rows > 0, jnp.arange(USERS + 1, dtype=jnp.int32)),
        item=jnp.arange(ITEMS, dtype=jnp.int32),
        is_popular=jnp.arange(ITEMS) < 8,
        log_popularity=jnp.zeros(ITEMS),
    )


def shows_its_state(state, key, view, catalogue, greedy=False):
    """With the purifier's parameter added, so that whose purifier is whose can be seen."""
    return jnp.broadcast_to(state, (view.state.shape[0], 4)) + view.state[:, :1].astype(jnp.int32), ()


def perceive(perception, key, observation):
    state = jnp.broadcast_to(perception.purifier, (*observation.time.shape, 1))
    return View(state=state, observed=state, time=observation.time)


AGENT = Agent(init=None, act=shows_its_state, update=None)
ENVIRONMENT = make_environment(slate_size=4, max_len=6, history_length=2)
ENCODER = EncoderParams(Embeddings(jnp.zeros((ITEMS, 2)), jnp.zeros(ITEMS)), ())
NUMBERS = {"num_sessions": 30, "num_users": 8}


def test_every_seed_is_evaluated_by_its_own_policy_and_key_and_purifier():
    world, keys = make_world(), jax.random.split(jax.random.key(0), 2)
    perception = Perception(ENCODER, jnp.array([[0.0], [1.0]]))
    found = evaluate(
        keys, ENVIRONMENT, AGENT, LEARNT, world, perception, perceive, perception_axes=SEED_AXES, **NUMBERS
    )
    assert [seed["broken"] for seed in found["seeds"]] == [1.0, 0.0]
    assert found["sessions"] == 60
    for i, key in enumerate(keys):
        own = Perception(ENCODER, perception.purifier[i])
        rule = agent_rule(AGENT, LEARNT[i], perceive, world, own)
        sessions = jax.device_get(run_sessions(key, rule, ENVIRONMENT, world, **NUMBERS))
        assert np.flatnonzero(sessions.item_count).tolist() == (LEARNT[i] + i).tolist()
        assert found["seeds"][i] == pytest.approx(session_metrics(sessions, slate_size=4))


def test_one_key_is_one_seed_and_an_own_leave_rule_has_no_closed_form_nor_an_own_reward_a_clicks_return():
    three_steps = Leave(start=lambda: jnp.zeros((), jnp.int32), step=lambda n, clicks, popular: (n + 1, n >= 2))
    environment = make_environment(
        slate_size=4,
        max_len=6,
        history_length=2,
        leave=three_steps,
        reward=lambda clicks, slate, world: 2.0 + 0 * slate[0],
    )
    perception = Perception(ENCODER, jnp.zeros(1))
    found = evaluate(jax.random.key(0), environment, AGENT, LEARNT[0], make_world(), perception, perceive, **NUMBERS)
    assert "closed_form" not in found
    assert found["length"]["mean"] == 3.0
    assert found["own_return"] == pytest.approx({"mean": 6.0, "low": 6.0, "high": 6.0})
    assert 0.3 < found["reward"]["mean"] < 0.7


def test_an_own_return_has_the_interval_of_a_mean():
    rule = agent_rule(AGENT, LEARNT[0], perceive, make_world(), Perception(ENCODER, jnp.zeros(1)))
    sessions = jax.device_get(run_sessions(jax.random.key(3), rule, ENVIRONMENT, make_world(), **NUMBERS))
    total = np.random.default_rng(0).random(30).astype(np.float32)
    found = summarise([sessions.replace(total=total)], slate_size=4, confidence=0.9)["own_return"]
    assert found["mean"] == pytest.approx(total.mean(), rel=1e-6)
    half = 1.6448536 * total.std(ddof=1) / np.sqrt(30)
    assert found["high"] - found["mean"] == pytest.approx(half, rel=1e-5)
