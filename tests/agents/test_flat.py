from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from dsrm_jax.agents.dsrm_hrl import make_dsrm_hrl
from dsrm_jax.agents.flat import FlatPolicy, make_flat
from dsrm_jax.agents.goals import factored_scores, goal_from, popular_slots
from dsrm_jax.agents.networks import lifted_vectors
from dsrm_jax.purify.view import Catalogue, View

USERS, ITEMS, DIM, SLATE = 40, 9, 3, 4
SETTINGS = {"hidden": 8, "sharpness": 5.0}


@pytest.fixture(scope="module")
def catalogue():
    rng = np.random.default_rng(0)
    return Catalogue(
        vectors=jnp.asarray(rng.normal(size=(ITEMS, DIM)), jnp.float32),
        bias=jnp.asarray(rng.normal(size=ITEMS), jnp.float32),
        log_popularity=jnp.asarray(rng.normal(size=ITEMS), jnp.float32),
        is_popular=jnp.arange(ITEMS) < 4,
    )


@pytest.fixture(scope="module")
def view():
    state = jnp.asarray(np.random.default_rng(1).normal(size=(USERS, DIM)), jnp.float32)
    return View(state, state, jnp.zeros(USERS, jnp.int32))


def test_it_starts_from_the_slates_of_the_hierarchy(catalogue, view):
    shown = []
    for make in (make_flat, make_dsrm_hrl):
        agent = make(slate_size=SLATE, **SETTINGS)
        state = jax.jit(agent.init)(jax.random.key(0), catalogue)
        greedy = jax.jit(partial(agent.act, greedy=True))
        shown.append(greedy(state, jax.random.key(1), view, catalogue)[0])
    np.testing.assert_array_equal(*shown)


def test_the_recorded_log_prob_is_of_goal_and_slate(catalogue, view):
    """Gaussian by SciPy; each slot by its group's remaining mass, in float64."""
    agent = make_flat(slate_size=SLATE, **SETTINGS)
    state = jax.jit(agent.init)(jax.random.key(0), catalogue)
    # Goals as wide as this give every number of popular slots; those of an untrained policy give half of them to all users.
    state.params["policy"]["params"]["log_std"] = jnp.array([-1.5, 0.5])
    slate, decision = jax.jit(agent.act)(state, jax.random.key(1), view, catalogue)
    of_goal = norm.logpdf(np.asarray(decision.output, float), 0.0, np.exp([-1.5, 0.5])).sum(-1)
    np.testing.assert_allclose(decision.log_prob[:, 0], of_goal, atol=1e-4)

    @jax.jit
    def scored(policy, output):
        emission, goal = FlatPolicy(8).apply(policy, view.state, 5.0), goal_from(output)
        scores = factored_scores(emission.query, goal, emission.sharpness, lifted_vectors(catalogue), catalogue)
        return scores.whole(), popular_slots(goal, slate_size=SLATE)

    scores, slots = map(np.asarray, scored(state.params["policy"], decision.output))
    weight, popular = np.exp(np.float64(scores)), np.asarray(catalogue.is_popular)
    assert len(np.unique(slots)) > 2
    for user in range(USERS):
        left = weight[user].copy()
        for k, item in enumerate(np.asarray(slate[user])):
            group = popular if k < slots[user] else ~popular
            assert group[item]
            expected = np.log(left[item] / left[group].sum())
            np.testing.assert_allclose(decision.log_prob[user, k + 1], expected, atol=1e-3)
            left[item] = 0
