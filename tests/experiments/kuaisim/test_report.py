"""The lab's last-ten report against its definition, user by user."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.config import Config, EnvironmentConfig, TrainingConfig
from dsrm_jax.purify.perception import Perception
from dsrm_jax.runs.pieces import environment_of
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World
from experiments.kuaisim import report as kuaisim
from experiments.kuaisim.report import Trace, last_ten, record_trace


def make_trace(rewards, ended, popular_share=0.5):
    """Sum rewards and count steps since the slot's last leaver."""
    rewards, ended = np.asarray(rewards, float), np.asarray(ended, bool)
    length, total = np.zeros(rewards.shape, int), np.zeros(rewards.shape)
    for slot in range(rewards.shape[1]):
        start = 0
        for t in range(len(rewards)):
            length[t, slot] = t + 1 - start
            total[t, slot] = rewards[start : t + 1, slot].sum()
            start = t + 1 if ended[t, slot] else start
    return Trace(ended, length, total, rewards, np.broadcast_to(popular_share, rewards.shape))


def test_a_trace_worked_by_hand():
    """Two slots. Lengths: 0, none left -> 0, slot 0 after 2, none -> 2, both: 2 and 4, none -> 4."""
    rewards = [[0.5, 0.0], [1.0, 0.5], [0.0, 1.0], [0.5, 0.5], [1.0, 1.0]]
    ended = [[0, 0], [1, 0], [0, 0], [1, 1], [0, 0]]
    found = last_ten(make_trace(rewards, ended, popular_share=0.8))
    assert found["length"] == pytest.approx(np.mean([0, 0, 2, 2, 2, 4, 4]))
    assert found["return"] == pytest.approx(np.mean([0.0, 1.5, (0.5 + 2.0) / 2]))
    assert found["reward"] == pytest.approx(0.6)
    assert found["ad"] == pytest.approx(0.6)
    last = last_ten(make_trace(rewards, ended), entries=2)
    assert last == pytest.approx({"length": 4.0, "return": (1.5 + 1.25) / 2, "reward": 0.75, "ad": 0.0})


def test_the_balance_is_the_batchs_not_the_slates():
    share = np.array([[1.0, 0.0], [1.0, 0.5]])
    found = last_ten(make_trace(np.zeros((2, 2)), np.zeros((2, 2)), share))
    assert found["ad"] == pytest.approx((0.0 + 0.5) / 2)
    assert (found["length"], found["return"]) == (0.0, 0.0)


def world_of(probability):
    """Three users and four items, half of them popular."""
    rows = jnp.arange(3, dtype=jnp.int32)
    return World(
        response=TableResponse(probability),
        starts=SessionStarts(rows, rows, rows > 0, jnp.arange(4, dtype=jnp.int32)),
        item=jnp.arange(4, dtype=jnp.int32),
        is_popular=jnp.arange(4) % 2 == 0,
        log_popularity=jnp.zeros(4),
    )


@pytest.fixture(scope="module")
def record():
    """`probability -> Trace` of 3 slots over 60 steps, every slate balanced."""
    config = Config(environment=EnvironmentConfig(slate_size=2, max_len=19, history_length=2))
    program = jax.jit(
        partial(
            record_trace,
            act=lambda key, env, _: (jnp.broadcast_to(jnp.arange(2, dtype=jnp.int32), (*env.user.shape, 2)), ()),
            environment=environment_of(config),
            num_steps=60,
            num_users=3,
        )
    )

    def run(probability):
        world = world_of(jnp.full((3, 4), probability))
        return jax.device_get(program(jax.random.key(0), world=world))

    return run


@pytest.mark.parametrize(("probability", "length"), [(0.0, 10), (1.0, 19)])
def test_a_recorded_trace_restarts_sessions_and_reports_their_length(record, probability, length):
    """Slots move together where responses are certain."""
    trace = record(probability)
    np.testing.assert_array_equal(trace.ended, np.repeat(np.arange(1, 61)[:, None] % length == 0, 3, axis=1))
    np.testing.assert_array_equal(trace.length[:, 0], np.arange(60) % length + 1)
    expected = {"length": length, "reward": probability, "ad": 0.0}
    # 6 ends of 10 steps or 3 of 19: the zero that the list starts with is still among the last ten
    expected["return"] = np.mean([0.0, *[probability * length] * (60 // length)])
    assert last_ten(trace) == pytest.approx(expected)


def test_the_labs_report_explores_in_the_world_it_is_given_seed_by_seed(monkeypatch):
    """Exploring, the first seed shows what nobody likes and the second what everybody does; greedy it is the other way round."""
    config = Config(
        environment=EnvironmentConfig(slate_size=2, max_len=19, history_length=2),
        training=TrainingConfig(seeds=(1, 2), num_users=3),
    )

    def rule_of(config, method, state, world, perception):
        assert method == config.agent.method

        def rule(key, env, observation):
            shown = jnp.where(state != config.evaluation.greedy, jnp.array([0, 1]), jnp.array([2, 3]))
            return jnp.broadcast_to(shown.astype(jnp.int32), (3, 2)), ()

        return rule

    monkeypatch.setattr(kuaisim, "rule_of", rule_of)
    world = world_of(jnp.array([[0.0, 0.0, 1.0, 1.0]] * 3))
    found = kuaisim.lab_report(config, jnp.array([True, False]), world, Perception({}, jnp.zeros(2)))
    assert found["reward"] == [0.0, 1.0]
    assert found["length"] == [10.0, 19.0]
