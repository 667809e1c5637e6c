"""A2C, FLAT and DORL in worlds so small that the best slate of every state is known by search.

Every item has a direction of its own, so that a hyper-action can give each item any score: the methods' linear scores contain
the best slates, and moving one item's score moves few others. (With random vectors of 3 dimensions some hyper-action ranked
items 0 and 1 first too, but by a quarter of the margin of 1 and 6, and training stayed with those.) Entropy keeps the second
best item of a slate from vanishing before it is tried.
"""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents.a2c import make_a2c
from dsrm_jax.agents.agent import LoggedData, Transition
from dsrm_jax.agents.dorl import DORLConfig, make_dorl, penalised_rewards
from dsrm_jax.agents.flat import make_flat
from dsrm_jax.agents.networks import lifted_vectors
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.simulator.environment import Observation, make_environment
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World
from dsrm_jax.training.rollout import experience, reset_users

USERS, ITEMS, SLATE, LENGTH, PARALLEL = 8, 12, 2, 8, 16
SLATES = np.array(list(combinations(range(ITEMS), SLATE)))
KIND = np.arange(USERS) // 4
# One kind's state; the other's is its negative. It says nothing of the items that either kind likes.
STATE = np.array([0, 0, 0, 0, 1, -1, 0, 0, 1, -1, 1, -1], np.float32)
SETTINGS = {"slate_size": SLATE, "hidden": 16, "sharpness": 3.0, "learning_rate": 3e-3}
ACTOR_CRITIC = SETTINGS | {"actor_learning_rate": 3e-3, "minibatches": 2}
PENALTIES = DORLConfig(
    discount=0.0,
    entropy_weight=0.4,
    ensemble=2,
    window=1,
    negatives=1,
    model_iterations=400,
    model_batch_size=256,
    model_learning_rate=1e-2,
)
# Compiling is what costs here, not running.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make_world():
    """Kind 0 clicks items 0 and 1, both popular, most; kind 1 items 2 and 3. Next best in the long tail: 6 and 7 for each."""
    probability = np.full((USERS, ITEMS), 0.1, np.float32)
    rows = np.arange(USERS)[:, None]
    probability[rows, np.array([[0, 1], [2, 3]])[KIND]] = 0.9
    probability[rows, np.array([[6], [7]])[KIND]] = 0.7
    user = np.repeat(np.arange(USERS), 2)
    return World(
        response=TableResponse(jnp.asarray(probability)),
        starts=SessionStarts(
            jnp.asarray(user, jnp.int32),
            jnp.asarray(8 + KIND[user], jnp.int32),
            jnp.ones(len(user), bool),
            jnp.arange(0, len(user) + 1, 2, dtype=jnp.int32),
        ),
        item=jnp.arange(ITEMS),
        is_popular=jnp.arange(ITEMS) < 4,
        log_popularity=jnp.asarray(np.random.default_rng(1).normal(size=ITEMS), jnp.float32),
    )


CATALOGUE = Catalogue(
    vectors=2.0 * jnp.eye(ITEMS),
    bias=jnp.where(jnp.arange(ITEMS) < 8, -1.0, 0.5),  # what is worth showing looks dull
    log_popularity=make_world().log_popularity,
    is_popular=make_world().is_popular,
    position=jnp.arange(ITEMS),
)


def state_of(item):
    """Item 8 or 9 as the first event of the history gives the kind away."""
    return jnp.where((item == 8)[..., None], 1.0, -1.0) * STATE


def perceive(perception, key, observation: Observation):
    history = observation.history
    slots = history.item.shape[-1]
    kind = jnp.take_along_axis(history.item, slots - history.length[..., None], axis=-1)[..., 0]
    state = state_of(kind)
    return View(state, state, observation.time)


def learn(agent, updates, logged=None):
    """Train in the world and return the state of the agent before and after."""
    # a session outlives no history, so its first event stays the log's
    environment = make_environment(slate_size=SLATE, max_len=4, history_length=16, ad_penalty=0)
    world = make_world()

    def iterate(carry, key):
        learnt, env, view = carry
        rollout_key, update_key = jax.random.split(key)
        (env, view), rollout, _ = experience(
            jax.random.split(rollout_key, LENGTH),
            lambda key, view: agent.act(learnt, key, view, CATALOGUE),
            (env, view),
            environment,
            perceive,
            world,
            None,
        )
        learnt, metrics = agent.update(learnt, update_key, rollout, CATALOGUE)
        return (learnt, env, view), metrics

    def run(key, logged):
        init_key, reset_key, scan_key = jax.random.split(key, 3)
        observation, env = reset_users(reset_key, environment, world, num_users=PARALLEL)
        first = agent.init(init_key, CATALOGUE, logged)
        carry = first, env, perceive(None, reset_key, observation)
        (learnt, _, _), _ = jax.lax.scan(iterate, carry, jax.random.split(scan_key, updates))
        return first, learnt

    return quick_jit(run)(jax.random.key(0), logged)


def both_kinds():
    state = state_of(jnp.array([8, 9]))
    return View(state, state, jnp.zeros(2, jnp.int32))


def share_of_best(agent, learnt, worth):
    """What the mode of the policy is worth over both kinds, as a share of the best slates, `worth` being `(2, slates)`."""
    slate, _ = agent.act(learnt, jax.random.key(0), both_kinds(), CATALOGUE, greedy=True)
    shown = np.sort(np.asarray(slate), axis=1)
    index = [(row == SLATES).all(1).argmax() for row in shown]
    return worth[[0, 1], index].sum() / worth.max(1).sum()


def test_a_hyper_action_can_give_each_item_any_score():
    """Even without the coordinate of popularity, whose weight FLAT shares with the goal."""
    features = np.asarray(lifted_vectors(CATALOGUE), float)
    assert np.linalg.cond(features @ features.T) < 10


def clicks_of(slates):
    return np.asarray(make_world().response.probability)[[0, 4]][:, slates].mean(-1)


def test_a2c_shows_what_each_kind_clicks_most():
    agent = make_a2c(discount=0.5, entropy_weight=0.1, **ACTOR_CRITIC)
    before, after = learn(agent, 150)
    worth = clicks_of(SLATES)
    assert share_of_best(agent, before, worth) < 0.7
    assert share_of_best(agent, after, worth) > 0.95


def starting_lopsided(agent):
    """FLAT with goals spread around one that grants every slot to the popular, else the quota would be right from the start."""

    def init(*args):
        state = agent.init(*args)
        policy = state.params["policy"]["params"]
        output = policy["MLP_0"]["Dense_2"]
        output["bias"] = output["bias"].at[1].set(-1.5)
        policy["log_std"] = jnp.zeros(2)
        return state

    return agent._replace(init=init)


@pytest.mark.parametrize("slate_mode", ["quota", "penalty"])
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_flat_maximises_eq_4(slate_mode):
    """Two popular items give .9 - .5, one of each group .8: balance wins in both readings of Eq. (5)."""
    own = {"manager_discount": 0.5, "fairness_weight": 0.5, "entropy_weight": 0.1, "epochs": 4}
    agent = make_flat(slate_mode=slate_mode, **SETTINGS, **own)
    if slate_mode == "quota":
        agent = starting_lopsided(agent)
    before, after = learn(agent, 100)
    share = (SLATES < 4).mean(1)
    worth = clicks_of(SLATES) - 0.5 * np.abs(2 * share - 1)
    assert share_of_best(agent, before, worth) < 0.7
    assert share_of_best(agent, after, worth) > 0.95


def make_logged():
    """Slates at random and their clicks; in the sequence items 1 and 2 have few successors but 5, all others any: a bubble."""
    rng = np.random.default_rng(0)
    rows = 2000
    user = rng.integers(USERS, size=rows)
    slate = np.argsort(rng.random((rows, ITEMS)), axis=1)[:, :SLATE]
    probability = np.asarray(make_world().response.probability)
    clicks = jnp.asarray(rng.random(slate.shape) < probability[user[:, None], slate])
    state = state_of(jnp.asarray(8 + KIND[user]))
    view = View(state, state, jnp.zeros(rows, jnp.int32))
    steps = Transition(
        view, jnp.asarray(slate), (), clicks, clicks.mean(-1), jnp.zeros(rows), jnp.zeros(rows, bool), view
    )
    item = rng.integers(ITEMS, size=1000)
    item[1:][np.isin(item[:-1], [1, 2])] = 5
    item[1::37] = 9  # with one successor only an item would count as undecided
    return LoggedData(steps, jnp.asarray(item, jnp.int32), jnp.zeros(1000, jnp.int32))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_dorl_maximises_its_own_penalised_reward():
    """Clicks alone would show items 0 and 1, or 2 and 3; items 1 and 2 lead into the bubble, so 6 and 7 take their places."""
    agent = make_dorl(policy_entropy_weight=0.1, **ACTOR_CRITIC, **vars(PENALTIES))
    before, after = learn(agent, 150, make_logged())
    view = jax.tree.map(lambda x: jnp.repeat(x[:, None], len(SLATES), axis=1), both_kinds())
    slates = jnp.tile(jnp.asarray(SLATES), (2, 1, 1))
    worth = np.asarray(penalised_rewards(after, view, slates, CATALOGUE, settings=PENALTIES)).mean(-1)
    assert np.all(worth >= 0)
    np.testing.assert_array_equal(SLATES[worth.argmax(1)], [[0, 6], [3, 7]])
    assert share_of_best(agent, before, worth) < 0.7
    assert share_of_best(agent, after, worth) > 0.95
