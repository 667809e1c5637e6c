"""Policies that learn nothing, against enumeration of all slates and a float64 sort."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsrm_jax.agents.yardsticks import make_quota_greedy, make_quota_greedy_purified, make_quota_random, make_random
from dsrm_jax.purify.view import Catalogue, View

J, D, N = 5, 3, 4000
POPULAR = np.array([False, True, False, True, False])


def make_catalogue(num_items, is_popular, seed=0):
    rng = np.random.default_rng(seed)
    return Catalogue(
        vectors=jnp.asarray(rng.normal(size=(num_items, D)), jnp.float32),
        bias=jnp.asarray(rng.normal(size=num_items), jnp.float32),
        log_popularity=jnp.zeros(num_items),
        is_popular=jnp.asarray(is_popular),
    )


def make_view(batch, seed=1):
    state, observed = np.random.default_rng(seed).normal(size=(2, batch, D)).astype(np.float32)
    return View(jnp.asarray(state), jnp.asarray(observed), jnp.zeros(batch, jnp.int32))


def act(make, slate_size, view, catalogue, seed=0):
    agent = make(slate_size=slate_size)
    state = agent.init(jax.random.key(0), catalogue)
    slate, _ = jax.jit(agent.act)(state, jax.random.key(seed), view, catalogue)
    return np.asarray(slate)


@pytest.mark.parametrize(
    ("make", "allowed"),
    [
        (make_random, list(permutations(range(J), 3))),
        # an odd K gives the long tail the extra slot
        (
            make_quota_random,
            [s for s in permutations(range(J), 3) if POPULAR[list(s)].tolist() == [True, False, False]],
        ),
    ],
)
def test_random_slates_are_uniform_over_all_that_are_allowed(make, allowed):
    slate = act(make, 3, make_view(N), make_catalogue(J, POPULAR))
    index = {s: i for i, s in enumerate(allowed)}
    observed = np.bincount([index[tuple(s)] for s in slate.tolist()], minlength=len(allowed))
    assert stats.chisquare(observed).pvalue > 1e-3


@pytest.mark.parametrize(("make", "field"), [(make_quota_greedy, "observed"), (make_quota_greedy_purified, "state")])
@pytest.mark.parametrize("slate_size", [2, 5])
def test_greedy_slates_hold_the_best_of_each_group_by_the_predicted_click(make, field, slate_size):
    is_popular = np.arange(20) % 3 == 0
    catalogue, view = make_catalogue(20, is_popular), make_view(8)
    slate = act(make, slate_size, view, catalogue)
    logit = np.asarray(getattr(view, field), np.float64) @ np.asarray(catalogue.vectors, np.float64).T
    order = np.argsort(-(logit + np.asarray(catalogue.bias)), axis=1)
    half = slate_size // 2
    expected = [[*row[is_popular[row]][:half], *row[~is_popular[row]][: slate_size - half]] for row in order]
    assert slate.tolist() == expected


def test_a_yardstick_has_nothing_to_learn():
    agent = make_quota_random(slate_size=2)
    assert jax.tree.leaves(agent.init(jax.random.key(0), make_catalogue(J, POPULAR))) == []
    assert agent.update((), jax.random.key(0), None, None) == ((), {})
