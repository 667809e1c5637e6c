"""Every learner under the one contract: the loop, `vmap` over seeds and over the agent's floats, traced without compiling."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents.methods import METHODS
from dsrm_jax.config import AgentConfig, Config, EncoderConfig, EnvironmentConfig, PurifierConfig, TrainingConfig
from dsrm_jax.purify.encoder import Embeddings
from dsrm_jax.purify.perception import Perception
from dsrm_jax.runs.logging import tag_of
from dsrm_jax.runs.pieces import encoder_of, trainer_of
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World

USERS, ROWS, ITEMS, POINTS, SEEDS = 8, 20, 12, 3, 2
CONFIG = Config(
    environment=EnvironmentConfig(slate_size=2, max_len=6, history_length=6),
    encoder=EncoderConfig(dim=2),
    purifier=PurifierConfig(kind="identity"),
    training=TrainingConfig(num_users=16, rollout_length=4),
)


def world():
    rng = np.random.default_rng(1)
    return World(
        response=TableResponse(jnp.asarray(rng.random((USERS, ITEMS)), jnp.float32)),
        starts=SessionStarts(
            jnp.asarray(np.repeat(np.arange(USERS), ROWS), jnp.int32),
            jnp.asarray(rng.integers(0, ITEMS, USERS * ROWS), jnp.int32),
            jnp.asarray(rng.random(USERS * ROWS) < 0.5),
            jnp.arange(0, USERS * ROWS + 1, ROWS, dtype=jnp.int32),
        ),
        item=jnp.arange(ITEMS, dtype=jnp.int32),
        is_popular=jnp.arange(ITEMS) < 4,
        log_popularity=jnp.zeros(ITEMS),
        exposure=jnp.ones(ITEMS),
        clicked=jnp.ones(ITEMS),
    )


def perception():
    embeddings = Embeddings(jnp.zeros((ITEMS, 3)), jnp.zeros(ITEMS))
    return Perception(encoder_of(CONFIG).init(jax.random.key(0), embeddings), {})


@pytest.mark.parametrize(
    ("method", "mode"), [*((m, "discrete") for m, record in METHODS.items() if record.learns), ("bcq", "continuous")]
)
def test_a_method_keeps_its_state_and_can_be_swept_over_seeds_and_numbers(method, mode):
    """What `init` makes is what `iterate` takes and gives back, at float32, for all points of a sweep and seeds at once."""
    start, end, metrics = shapes(
        next(m for m, record in METHODS.items() if agent_in(record) == agent_in(METHODS[method])), mode
    )
    assert jax.tree.structure(start) == jax.tree.structure(end)
    for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(end), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
        assert before.dtype not in (jnp.float64, jnp.int64)
    assert {m.shape for m in metrics.values()} == {(POINTS, SEEDS)}


def test_scalars_stand_in_a_few_groups_with_the_papers_words():
    """The whole list of TensorBoard's tags: who renames one breaks somebody's dashboard."""
    learners = [m for m, record in METHODS.items() if record.learns]
    firsts = {next(m for m in learners if agent_in(METHODS[m]) == agent_in(METHODS[n])): None for n in learners}
    told = [set(shapes(m, "discrete")[2]) for m in firsts] + [set(shapes("bcq", "continuous")[2])]
    groups = {}
    for tag in {tag_of(name) for names in told for name in names}:
        group, _, name = tag.partition("/")
        groups.setdefault(group, set()).add(name)
    of_learning = (
        "accepted actor_loss case cost_explained critic_loss entropy excess explained homotopy imitation_loss imitation_nats "
        "kl lam loss margin nu penalised_reward policy_loss reward_explained shrink std target temperature value "
        "value_fairness value_loss value_utility"
    )
    assert groups == {
        "engagement": {"Len", "R_cum", "R_each", "sessions"},
        "fairness": {"AD", "AD_of_slates", "Fair", "p"},
        "manager": {"explained", "goal_deviation", "kl", "loss", "w_acc", "w_fair"},
        "worker": {"entropy", "explained", "kl", "loss"},
        "learning": set(of_learning.split()),
    }


def agent_in(record):
    """All that an agent is made of: methods that differ in the state alone have one agent."""
    return record.make, record.settings, dict(record.borrowed), record.networks


@cache
def shapes(method, mode):
    """State before and after an update and its metrics, traced once for all methods of one agent."""
    agent = AgentConfig(method=method, hidden=8)
    agent = dataclasses.replace(agent, bcq=dataclasses.replace(agent.bcq, mode=mode))
    agents = jax.tree.map(lambda x: jnp.full(POINTS, x, jnp.float32), agent)

    def init(agent, key):
        return trainer_of(dataclasses.replace(CONFIG, agent=agent)).init(key, world(), perception())

    def iterate(agent, state):
        return trainer_of(dataclasses.replace(CONFIG, agent=agent)).iterate(state, world(), perception())

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), SEEDS))
    over_both = jax.vmap(jax.vmap(init, in_axes=(None, 0)), in_axes=(0, None))
    start = jax.eval_shape(over_both, agents, keys)
    return start, *jax.eval_shape(jax.vmap(jax.vmap(iterate, in_axes=(None, 0))), agents, start)
