"""Probe environments: worlds so small that the best policy is known by search, one thing to learn in each."""

import dataclasses
from functools import cache, partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.config import AgentConfig, Config, EncoderConfig, EnvironmentConfig, PurifierConfig, TrainingConfig
from dsrm_jax.purify.encoder import Embeddings, EncoderParams, make_catalogue
from dsrm_jax.purify.perception import Perception
from dsrm_jax.runs.pieces import agent_of, encoder_of, perceive_of, trainer_of
from dsrm_jax.simulator.environment import Observation
from dsrm_jax.simulator.history import history_before
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World

USERS, ROWS, ITEMS, DIM = 8, 8, 12, 3
KIND = np.arange(USERS) // 4
CONFIG = Config(
    environment=EnvironmentConfig(slate_size=2, max_len=4, history_length=16, ad_penalty=0),
    encoder=EncoderConfig(dim=DIM),
    purifier=PurifierConfig(kind="identity"),
    agent=AgentConfig(
        slate_mode="penalty",
        hidden=16,
        sharpness=3.0,
        learning_rate=1e-2,
        worker_discount=0.0,
        entropy_weight=0.0,
        epochs=4,
        minibatches=2,
    ),
    training=TrainingConfig(num_users=16, rollout_length=8),
)


def make_world(liked):
    """User u clicks the items `liked[u]` with .9 and all others with .1; item 8 or 9 in the log gives the kind away."""
    probability = np.full((USERS, ITEMS), 0.1, np.float32)
    probability[np.arange(USERS)[:, None], liked] = 0.9
    return world_of(probability)


def world_of(probability):
    user = np.repeat(np.arange(USERS), ROWS)
    return World(
        response=TableResponse(jnp.asarray(probability)),
        starts=SessionStarts(
            jnp.asarray(user, jnp.int32),
            jnp.asarray(8 + KIND[user], jnp.int32),
            jnp.ones(len(user), bool),
            jnp.arange(0, len(user) + 1, ROWS, dtype=jnp.int32),
        ),
        item=jnp.arange(ITEMS),
        is_popular=jnp.arange(ITEMS) < 4,
        log_popularity=jnp.asarray(np.random.default_rng(1).normal(size=ITEMS), jnp.float32),
    )


@pytest.fixture(scope="module")
def perception():
    """An encoder that misleads: items 0, 1, 4 and 5 look dull, and clicks on one kind point to the other's items."""
    vectors = 0.5 * np.random.default_rng(2).normal(size=(ITEMS, DIM + 1))
    vectors[:, 0] = [1.5, -1.5, 0, 0, 1.5, -1.5, 0, 0, 1.5, -1.5, 0, 0]
    vectors[:, -1] = 1.0
    bias = np.where(np.isin(np.arange(ITEMS), [0, 1, 4, 5]), -1.0, 0.5)
    embeddings = Embeddings(jnp.asarray(vectors, jnp.float32), jnp.asarray(bias, jnp.float32))
    shapes = jax.eval_shape(encoder_of(CONFIG).init, jax.random.key(0), embeddings).network
    network = jax.tree.map(lambda x: -jnp.eye(*x.shape) if len(x.shape) == 2 else jnp.zeros(x.shape), shapes)
    return Perception(EncoderParams(embeddings, network), {})


# Compiling is what costs here, not running.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@cache
def programs(config):
    """`init` and 30 updates; one compilation serves every world of the same shape."""
    trainer = trainer_of(config)
    return quick_jit(trainer.init), quick_jit(partial(trainer.train, num_updates=30))


@quick_jit
def greedy_slates(agent, world, perception):
    """The states at every row of the log, and what the policy's mode shows there."""
    history = jax.vmap(lambda row: history_before(world.starts, row, length=16))(jnp.arange(USERS * ROWS))
    none = jnp.zeros(USERS * ROWS, jnp.int32)
    observation = Observation(history, none, none)
    view = perceive_of(CONFIG)(perception, jax.random.key(0), observation)
    catalogue = make_catalogue(perception.encoder.embeddings, world)
    method = agent_of(CONFIG)
    return view.state, method.act(agent, jax.random.key(0), view, catalogue, True)[0]


def worker_value(agent, world, perception):
    """Mean click of the greedy slates at every row of the log, and the most that any policy of the state can have."""
    states, slate = greedy_slates(agent, world, perception)
    probability = np.asarray(world.response.probability)[np.asarray(world.starts.user)]
    value = np.take_along_axis(probability, np.asarray(slate), axis=1).mean()
    _, group = np.unique(np.asarray(states).round(4), axis=0, return_inverse=True)
    best = []
    for index in group.reshape(-1):
        clicks = probability[group.reshape(-1) == index].mean(0)
        best.append(max(clicks[list(slate)].mean() for slate in combinations(range(ITEMS), 2)))
    return value, np.mean(best)


@pytest.mark.parametrize(
    "liked",
    [
        pytest.param(np.tile([0, 4], (USERS, 1)), id="all like the same items"),
        pytest.param(np.array([[0, 4], [1, 5]])[KIND], id="two kinds, told apart by their state"),
    ],
)
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_worker_learns_what_each_state_likes(perception, liked):
    world = make_world(liked)
    init, train = programs(CONFIG)
    state = init(jax.random.key(0), world, perception)
    before, best = worker_value(state.agent, world, perception)
    assert before < 0.25 * best
    state, _ = train(state, world, perception)
    reached, _ = worker_value(state.agent, world, perception)
    assert reached > 0.95 * best


QUOTA = dataclasses.replace(
    CONFIG,
    environment=dataclasses.replace(CONFIG.environment, slate_size=4, max_len=8, ad_penalty=1, ad_bound=0.3),
    agent=dataclasses.replace(CONFIG.agent, slate_mode="quota", fairness_weight=0.5, learning_rate=2e-2),
)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_manager_learns_to_split_the_slate_in_half(perception):
    """All items are alike, so only the balance matters: its weight in Eq. (4), and patience lost for a lopsided slate."""
    world = world_of(np.full((USERS, ITEMS), 0.5, np.float32))
    init, train = programs(QUOTA)
    state = init(jax.random.key(1), world, perception)
    state.agent.params["manager"]["params"]["MLP_0"]["Dense_2"]["bias"] = jnp.array([0.0, -1.5])
    state.agent.params["manager"]["params"]["log_std"] = jnp.zeros(2)

    catalogue = make_catalogue(perception.encoder.embeddings, world)
    greedy = quick_jit(partial(agent_of(QUOTA).act, greedy=True))

    def manager_reward(agent):
        """Eq. (4) of greedy slates, in expectation over clicks, and the best over all splits."""
        slate, _ = greedy(agent, jax.random.key(0), state.view, catalogue)
        popular = np.asarray(world.is_popular)[np.asarray(slate)].sum(1)
        of_split = 0.5 - 0.5 * np.abs(2 * np.arange(5) / 4 - 1)
        return of_split[popular].mean(), of_split.max()

    before, best = manager_reward(state.agent)
    assert before < 0.6 * best
    state, _ = train(state, world, perception)
    reached, _ = manager_reward(state.agent)
    assert reached > 0.95 * best
