"""FCPO: Fisher products, steps and margin against references, and a world whose constrained optimum is known by search."""

import dataclasses
from functools import cache, partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import linprog

from dsrm_jax.agents.agent import Rollout
from dsrm_jax.agents.cpo import Case
from dsrm_jax.agents.fcpo import (
    Experience,
    GaussianHyperActor,
    constrained_step,
    fisher_product,
    gaussian_kl,
    make_fcpo,
    next_margin,
)
from dsrm_jax.agents.hyper_action import item_features
from dsrm_jax.agents.ppo import gaussian_log_prob, gaussian_sample
from dsrm_jax.config import AgentConfig
from dsrm_jax.config.agent import FCPOConfig
from dsrm_jax.state.view import Catalogue, View

USERS, ITEMS, DIM, K, STEPS = 8, 12, 3, 2, 16
POPULAR = np.arange(ITEMS) < 4
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def catalogue():
    """Item vectors that tell the items which users like (0, 1, 4, 5) apart, but an encoder that does not."""
    rng = np.random.default_rng(3)
    vectors = 0.5 * rng.normal(size=(ITEMS, DIM))
    vectors[:, 0] = np.where(np.isin(np.arange(ITEMS), [0, 1, 4, 5]), 1.5, -0.5)
    return Catalogue(
        vectors=jnp.asarray(vectors, jnp.float32),
        bias=jnp.asarray(0.5 * rng.normal(size=ITEMS), jnp.float32),
        log_popularity=jnp.asarray(np.where(POPULAR, 1.4, -0.7), jnp.float32),
        is_popular=jnp.asarray(POPULAR),
    )


@pytest.fixture(scope="module")
def states():
    return jnp.asarray(np.random.default_rng(4).normal(size=(USERS, DIM)), jnp.float32)


def test_the_kl_divergence_is_the_mean_log_ratio():
    rng = np.random.default_rng(0)
    mean, other_mean = rng.normal(size=(2, 4))
    log_std, other_log_std = 0.3 * rng.normal(size=(2, 4))
    x = mean + np.exp(log_std) * rng.normal(size=(400_000, 4))

    def density(mean, log_std):
        return -0.5 * np.square((x - mean) / np.exp(log_std)).sum(1) - log_std.sum()

    sampled = density(mean, log_std) - density(other_mean, other_log_std)
    got = gaussian_kl(*(jnp.asarray(a, jnp.float32) for a in (mean, log_std, other_mean, other_log_std)))
    assert got == pytest.approx(sampled.mean(), abs=5 * sampled.std() / 400_000**0.5)


def test_the_fisher_product_is_the_hessian_of_the_mean_kl(states):
    actor = GaussianHyperActor(hidden=3)
    params = actor.init(jax.random.key(0), states, 0.2)
    theta, unravel = ravel_pytree(params)
    theta = theta + 0.3 * jax.random.normal(jax.random.key(1), theta.shape)

    def policy(params, x):
        return actor.apply(params, x, 0.2)

    def kl(other):
        return jnp.mean(gaussian_kl(*policy(unravel(theta), states), *policy(unravel(other), states)))

    @quick_jit
    def both(v):
        product = fisher_product(policy, unravel(theta), states, damping=0.7)
        return product(v), jax.jvp(jax.grad(kl), (theta,), (v,))[1] + 0.7 * v

    for seed in range(3):
        got, expected = both(jax.random.normal(jax.random.key(seed), theta.shape))
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@quick_jit
def bandit_step(excess, scale, cost_scale, shift):
    """One constrained step of a two-dimensional Gaussian, whose reward is w_0 + w_1 and whose cost is w_0."""
    mean, log_std = jnp.zeros(2), jnp.full((2,), -1.0)
    w = gaussian_sample(jax.random.key(0), jnp.zeros((4096, 2)), log_std)
    experience = Experience(
        inputs=jnp.zeros((4096, 1)),
        action=w,
        log_prob=gaussian_log_prob(w, mean, log_std),
        advantage=scale * (w[:, 0] + w[:, 1]) + shift,
        cost_advantage=cost_scale * w[:, 0] + shift,
        excess=excess,
    )

    def policy(params, inputs):
        return jnp.broadcast_to(params["mean"], (inputs.shape[0], 2)), params["log_std"]

    config = FCPOConfig(max_kl=0.02, damping=1e-4)
    params, metrics = constrained_step(
        policy, {"mean": mean, "log_std": log_std}, experience, config=config, fisher_stride=4
    )
    return params["mean"], metrics


def bandit(excess, scale=1.0, cost_scale=1.0, shift=0.0):
    mean, metrics = bandit_step(*(jnp.float32(v) for v in (excess, scale, cost_scale, shift)))
    return np.asarray(mean), metrics


@pytest.mark.parametrize(
    ("excess", "expected", "case"),
    [
        pytest.param(-1.0, (0.7071, 0.7071), Case.INSIDE, id="no limit in reach: along the reward"),
        pytest.param(0.0, (0.0, 1.0), Case.ACTIVE, id="on the limit: along it"),
        pytest.param(1.0, (-1.0, 0.0), Case.INFEASIBLE, id="far beyond it: straight back"),
        pytest.param(0.04, (-0.54, 0.84), Case.ACTIVE, id="a little beyond it: back and along"),
    ],
)
def test_a_step_of_a_gaussian_goes_where_the_geometry_says(excess, expected, case):
    """Steps have length std sqrt(2 delta) = .0736 in the mean; .04 of it are .54."""
    mean, metrics = bandit(excess)
    assert metrics["case"] == case
    assert metrics["accepted"]
    assert metrics["kl"] <= 0.02
    np.testing.assert_allclose(mean / np.linalg.norm(mean), expected, atol=0.12)


def test_rewards_may_be_scaled_and_shifted_costs_only_shifted():
    reference, _ = bandit(0.02)
    for change in ({"scale": 7.0}, {"shift": 3.0}):
        np.testing.assert_allclose(bandit(0.02, **change)[0], reference, atol=2e-3)
    halved, _ = bandit(0.02, cost_scale=0.5)  # the same excess is now twice as far away
    assert halved[0] < 1.5 * reference[0] < 0


def test_the_margin_grows_faster_than_it_shrinks_and_waits_while_the_limit_is_out_of_reach():
    def after(margin, excess, case):
        return float(next_margin(jnp.float32(margin), jnp.float32(excess), jnp.int32(case), rate=0.2))

    assert after(0.1, 0.05, Case.ACTIVE) == pytest.approx(0.11)
    assert after(0.1, -0.05, Case.ACTIVE) == pytest.approx(0.095)
    assert after(0.001, -0.5, Case.SLACK) == 0
    assert after(0.1, 0.5, Case.INFEASIBLE) == pytest.approx(0.1)


def test_the_slate_is_the_top_k_of_the_stored_action_whose_density_is_stored(catalogue, states):
    config = AgentConfig(hidden=8)
    agent = make_fcpo(config, slate_size=K)
    view = View(states, states, jnp.zeros(USERS, jnp.int32))

    @quick_jit
    def both(catalogue, view):
        state = agent.init(jax.random.key(0), catalogue)
        key = jax.random.key(1)
        return agent.act(state, key, view, catalogue), agent.act(state, key, view, catalogue, True)

    (slate, record), (mode_slate, mode) = both(catalogue, view)
    scores = np.asarray(record.w, np.float64) @ np.asarray(item_features(catalogue)).T
    np.testing.assert_array_equal(slate, np.argsort(-scores, axis=1)[:, :K])
    std = config.fcpo.initial_std
    z = (np.asarray(record.w) - np.asarray(mode.w)) / std
    density = -0.5 * (z**2).sum(1) - z.shape[1] * np.log(std * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(record.log_prob, density, rtol=1e-4)
    assert 0.5 < z.std() < 1.5
    logit = states @ catalogue.vectors.T + catalogue.bias
    np.testing.assert_array_equal(
        mode_slate, np.argsort(-logit, axis=1)[:, :K]
    )  # the untrained mode is the encoder's own


# A small constrained world. Popular items 0 and 1 are liked most; the long tail's 4 and 5 come next.
CLICK = np.where(np.isin(np.arange(ITEMS), [0, 1]), 0.9, 0.1)
CLICK[[4, 5]] = 0.6
CONFIG = AgentConfig(
    hidden=16,
    learning_rate=1e-2,
    epochs=2,
    minibatches=2,
    fcpo=FCPOConfig(max_kl=0.05, damping=0.1, initial_std=0.3, discount=0.5),
)


@cache
def program():
    """Train for 150 updates of 64 users x 16 steps under a traced limit, vmapped over seeds; then 64 x 16 steps more."""
    users = 64

    def run(seed, limit, states, catalogue):
        config = dataclasses.replace(CONFIG, fcpo=dataclasses.replace(CONFIG.fcpo, popular_limit=limit))
        agent = make_fcpo(config, slate_size=K)
        init_key, train_key, test_key = jax.random.split(jax.random.key(seed), 3)
        row = jnp.arange(users) % USERS
        view = View(states[row], states[row], jnp.zeros(users, jnp.int32))

        def step(state, key):
            act_key, click_key, end_key = jax.random.split(key, 3)
            slate, record = agent.act(state, act_key, view, catalogue)
            clicks = jax.random.bernoulli(click_key, jnp.asarray(CLICK, jnp.float32)[slate])
            over = jax.random.bernoulli(end_key, 0.25, (users,))
            share = jnp.mean(catalogue.is_popular[slate], axis=1)
            reward = jnp.mean(clicks, axis=1, dtype=jnp.float32)
            none = jnp.zeros(users, bool)
            return Rollout(view, slate, record, clicks, reward, share, over, none, None, view)

        def rollout(state, key):
            found = jax.vmap(partial(step, state))(jax.random.split(key, STEPS))
            return dataclasses.replace(found, last_view=view)

        def iterate(state, key):
            rollout_key, update_key = jax.random.split(key)
            seen = rollout(state, rollout_key)
            state, metrics = agent.update(state, update_key, seen, catalogue)
            return state, metrics | {"share": jnp.mean(seen.popular_share)}

        state, metrics = jax.lax.scan(
            iterate, agent.init(init_key, catalogue), jax.random.split(train_key, 150)
        )
        return rollout(state, test_key), metrics

    return quick_jit(jax.vmap(run, in_axes=(0, None, None, None)))


def best_under(limit):
    """The constrained optimum: all slates enumerated, the best mixture of them by linear programming."""
    slates = np.array(list(combinations(range(ITEMS), K)))
    value, share = CLICK[slates].mean(1), POPULAR[slates].mean(1)
    found = linprog(-value, A_ub=share[None], b_ub=[limit], A_eq=np.ones((1, len(slates))), b_eq=[1.0])
    return -found.fun


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1.0, 0.5, 0.25])
def test_it_reaches_the_constrained_optimum_and_keeps_the_limit(limit, catalogue, states):
    final, metrics = program()(jnp.array([0, 1]), jnp.float32(limit), states, catalogue)
    expected = CLICK[np.asarray(final.slate)].mean((1, 2, 3))
    share = np.asarray(final.popular_share)
    error = share.reshape(2, -1).std(1) / share[0].size ** 0.5
    best = best_under(limit)
    assert np.all(expected >= 0.95 * best), (expected, best)
    assert np.all(share.mean((1, 2)) <= limit + 3 * error), (share.mean((1, 2)), error)
    settled = np.asarray(metrics["share"])[:, -50:].mean(1)
    assert np.all(settled <= limit + 0.01), settled
