"""FCPO: what it stores, and a world whose constrained optimum is known by search."""

import dataclasses
from functools import cache, partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from dsrm_jax.agents.agent import Rollout
from dsrm_jax.agents.fcpo import FCPOConfig, make_fcpo
from dsrm_jax.agents.hyper_action import item_features
from dsrm_jax.purify.view import Catalogue, View

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


def test_the_slate_is_the_top_k_of_the_stored_action_whose_density_is_stored(catalogue, states):
    agent = make_fcpo(slate_size=K, hidden=8)
    view = View(states, states, jnp.zeros(USERS, jnp.int32))

    @quick_jit
    def both(catalogue, view):
        state = agent.init(jax.random.key(0), catalogue)
        key = jax.random.key(1)
        return agent.act(state, key, view, catalogue), agent.act(state, key, view, catalogue, True)

    (slate, record), (mode_slate, mode) = both(catalogue, view)
    scores = np.asarray(record.w, np.float64) @ np.asarray(item_features(catalogue)).T
    np.testing.assert_array_equal(slate, np.argsort(-scores, axis=1)[:, :K])
    std = FCPOConfig.initial_std
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
SETTINGS = {
    "hidden": 16,
    "learning_rate": 1e-2,
    "epochs": 2,
    "minibatches": 2,
    "max_kl": 0.05,
    "damping": 0.1,
    "initial_std": 0.3,
    "discount": 0.5,
}


@cache
def program():
    """Train for 150 updates of 64 users x 16 steps under a traced limit, vmapped over seeds; then 64 x 16 steps more."""
    users = 64

    def run(seed, limit, states, catalogue):
        agent = make_fcpo(slate_size=K, popular_limit=limit, **SETTINGS)
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

        state, metrics = jax.lax.scan(iterate, agent.init(init_key, catalogue), jax.random.split(train_key, 150))
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
