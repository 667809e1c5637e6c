import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents.a2c import make_a2c
from dsrm_jax.agents.actor_critic import (
    A2CConfig,
    entropy_to_go,
    item_logits,
    make_actor_critic,
    policy_gradient_loss,
    rollout_advantage,
)
from dsrm_jax.agents.agent import Rollout
from dsrm_jax.agents.settings import SharedConfig
from dsrm_jax.agents.slates import slate_log_prob
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import Catalogue, View

STEPS, USERS, ITEMS, DIM, SLATE = 4, 6, 9, 3, 2
SHARED = {"hidden": 8, "sharpness": 5.0, "learning_rate": 1e-2}


def view_of(*shape):
    rng = np.random.default_rng(len(shape))
    state = jnp.asarray(rng.normal(size=(*shape, DIM)), jnp.float32)
    return View(state, state, jnp.asarray(rng.integers(30, size=shape), jnp.int32))


@pytest.fixture(scope="module")
def catalogue():
    rng = np.random.default_rng(0)
    return Catalogue(
        vectors=jnp.asarray(rng.normal(size=(ITEMS, DIM)), jnp.float32),
        bias=jnp.asarray(rng.normal(size=ITEMS), jnp.float32),
        log_popularity=jnp.asarray(rng.normal(size=ITEMS), jnp.float32),
        is_popular=jnp.arange(ITEMS) < 3,
    )


@pytest.fixture(scope="module")
def agent():
    return make_a2c(slate_size=SLATE, minibatches=1, **SHARED)


@pytest.fixture(scope="module")
def started(agent, catalogue):
    return jax.jit(agent.init)(jax.random.key(0), catalogue)


@pytest.fixture(scope="module")
def rollout(agent, started, catalogue):
    rng = np.random.default_rng(1)
    view = view_of(STEPS, USERS)
    slate, record = jax.jit(jax.vmap(lambda k, v: agent.act(started, k, v, catalogue)))(
        jax.random.split(jax.random.key(1), STEPS), view
    )
    clicks = rng.random((STEPS, USERS, SLATE)) < 0.5
    return Rollout(
        view=view,
        slate=slate,
        record=record,
        clicks=jnp.asarray(clicks),
        reward=jnp.asarray(clicks.mean(-1), jnp.float32),
        popular_share=np.zeros((STEPS, USERS), np.float32),
        terminated=jnp.asarray(rng.random((STEPS, USERS)) < 0.3),
        truncated=np.zeros((STEPS, USERS), bool),
        final_view=None,
        last_view=jax.tree.map(lambda x: np.asarray(x)[0] + 1, view),
    )


def test_an_untrained_policy_ranks_by_the_encoders_click_logit(agent, started, catalogue):
    view = view_of(USERS)
    slate, _ = jax.jit(partial(agent.act, greedy=True))(started, jax.random.key(0), view, catalogue)
    logit = np.asarray(view.state, float) @ np.asarray(catalogue.vectors, float).T + np.asarray(catalogue.bias)
    np.testing.assert_array_equal(slate, np.argsort(-logit, axis=1)[:, :SLATE])


def test_recorded_log_prob_is_plackett_luce_over_the_whole_catalogue(started, catalogue, rollout):
    parts = make_actor_critic(A2CConfig(), SharedConfig(**SHARED), slate_size=SLATE)
    view = jax.tree.map(lambda x: np.asarray(x)[0], rollout.view)
    logit = np.asarray(jax.jit(partial(item_logits, parts))(started.params, view, catalogue), float)
    weight = np.exp(logit)
    first, second = np.asarray(rollout.slate)[0].T
    rows = np.arange(USERS)
    one = weight[rows, first] / weight.sum(1)
    two = weight[rows, second] / (weight.sum(1) - weight[rows, first])
    np.testing.assert_allclose(np.asarray(rollout.record.log_prob)[0], np.log(np.stack([one, two], 1)), atol=1e-4)


def test_entropy_to_go_as_credit_has_the_gradient_of_the_entropy():
    """All ordered pairs of four items: the slate's entropy exactly, and the expected policy gradient with the credit."""
    slates = jnp.array(list(itertools.permutations(range(4), 2)))
    scores = jnp.array([0.3, -1.0, 1.5, 0.1])
    free = jnp.zeros(4, bool)

    def log_probs(scores):
        return slate_log_prob(jnp.tile(scores, (len(slates), 1)), slates, free, None)

    def entropy(scores):
        total = log_probs(scores).sum(-1)
        return -jnp.sum(jnp.exp(total) * total)

    def credited(scores):
        log_prob = log_probs(scores)
        weight = jnp.exp(log_prob.sum(-1))
        return jnp.sum(jax.lax.stop_gradient(weight[:, None] * entropy_to_go(log_prob)) * log_prob)

    exact = jax.jit(jax.grad(entropy))(scores)
    np.testing.assert_allclose(jax.jit(jax.grad(credited))(scores), exact, atol=1e-5)
    chance = np.exp(np.asarray(jax.jit(log_probs)(scores), float).sum(-1))
    drawn = np.random.default_rng(0).choice(len(slates), 200_000, p=chance / chance.sum())

    def sampled(scores):
        log_prob = log_probs(scores)[drawn]
        credit = entropy_to_go(log_prob) - jnp.mean(entropy_to_go(log_prob), axis=0)
        return -policy_gradient_loss(log_prob, jax.lax.stop_gradient(log_prob), credit)

    np.testing.assert_allclose(jax.jit(jax.grad(sampled))(scores), exact, atol=0.01)


def test_nothing_follows_termination_and_a_cut_session_bootstraps_from_its_own_last_view(rollout):
    """Against a float64 loop over discounted sums of td errors."""
    terminated = np.asarray(rollout.terminated)
    truncated = ~terminated & (np.random.default_rng(3).random(terminated.shape) < 0.3)
    cut = rollout.replace(truncated=jnp.asarray(truncated), final_view=jax.tree.map(lambda x: x * 2 + 1, rollout.view))

    def value_of(view):
        return view.state[..., 0] + 0.1 * view.time

    @jax.jit
    def both(cut):
        return rollout_advantage(cut, cut.reward, value_of(cut.view), value_of, discount=0.9, lam=0.8)

    (advantage, target), cut = both(cut), jax.device_get(cut)
    value = value_of(cut.view)
    v, own = np.asarray(value, float), np.asarray(value_of(cut.final_view), float)
    last = np.asarray(value_of(cut.last_view), float)
    reward, expected, later = np.asarray(cut.reward, float), np.zeros_like(v), np.zeros(USERS)
    for t in reversed(range(STEPS)):
        following = v[t + 1] if t + 1 < STEPS else last
        following = np.where(terminated[t], 0, np.where(truncated[t], own[t], following))
        later = np.where(terminated[t] | truncated[t], 0, later)
        later = expected[t] = reward[t] + 0.9 * following - v[t] + 0.9 * 0.8 * later
    np.testing.assert_allclose(advantage, expected, atol=1e-4)
    np.testing.assert_allclose(target, expected + v, atol=1e-4)


def test_the_value_network_learns(agent, started, catalogue, rollout):
    """Every user leaves at once, so a step is worth its reward; the lab's A2C never moved the network it asked."""
    reward = np.asarray(rollout.view.state)[..., 0]
    ends = rollout.replace(terminated=np.ones((STEPS, USERS), bool), reward=reward)
    parts = make_actor_critic(A2CConfig(), SharedConfig(**SHARED), slate_size=SLATE)

    estimate = jax.jit(parts.value.apply)

    def value(state):
        return np.asarray(estimate(state.params["value"], ends.view.state, ends.view.time, A2CConfig.discount))

    update = jax.jit(agent.update)
    state = started
    errors = [np.square(value(state) - ends.reward).mean()]
    for i in range(60):
        current = ends.replace(record=ends.record.replace(value=jnp.asarray(value(state))))
        state, metrics = update(state, jax.random.key(i), current, catalogue)
    errors.append(np.square(value(state) - ends.reward).mean())
    assert errors[1] < 0.1 * errors[0]
    assert not {"reward", "length", "return", "ad", "broken"} & metrics.keys()


def test_minibatches_must_divide_the_rollout(catalogue, started, rollout):
    agent = make_a2c(slate_size=SLATE, minibatches=5, **SHARED)
    with pytest.raises(InputError, match="must divide the 24 samples"):
        jax.jit(agent.update)(started, jax.random.key(0), rollout, catalogue)
