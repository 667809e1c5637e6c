"""Rules that know the simulator, against exhaustive search over all slates in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dsrm_jax.evaluation.oracles import aware_rule, chances, myopic_rule, oracle_rule
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.mechanism import with_mechanisms
from dsrm_jax.simulator.satisfaction import make_satisfaction
from dsrm_jax.simulator.tolerance import make_tolerance
from tests.simulator.worlds import ROWS, remembering_world

K, ITEMS, SLOPE, USERS = 3, 9, 8.0, 64
SLATES = list(itertools.combinations(range(ITEMS), K))
MECHANISMS = [make_satisfaction(slope=SLOPE, start=0.6), make_tolerance(bound=0.3)]
ENVIRONMENT = make_environment(
    slate_size=K, max_len=9, history_length=5, ad_bound=0.9, ad_penalty=2, mechanisms=MECHANISMS
)
WORLD = remembering_world(MECHANISMS, num_items=ITEMS)


@pytest.fixture(scope="module")
def sessions():
    """Return sessions after one step of all-popular slates, so that net exposures differ from their start."""
    keys = jax.random.split(jax.random.key(0), USERS)
    observation, env = jax.vmap(ENVIRONMENT.reset, in_axes=(0, None))(keys, WORLD)
    slates = jnp.broadcast_to(jnp.asarray([0, 2, 4], jnp.int32), (USERS, K))
    observation, env, *_ = jax.vmap(ENVIRONMENT.step, in_axes=(0, 0, 0, None))(keys, env, slates, WORLD)
    return observation, env


def felt(user, exposure):
    logit = special.logit(np.asarray(WORLD.response.probability, np.float64)[user])
    tolerance = float(WORLD.traits["satisfaction"][user])
    return special.expit(logit - SLOPE * max(0.0, exposure - tolerance))


def value(user, exposure, slate):
    """What a slate is worth to who looks one step ahead."""
    now = felt(user, exposure)
    share = np.mean([i % 2 == 0 for i in slate])
    later = felt(user, 0.8 * exposure + 0.2 * share)
    best, following = (np.sort(p)[-K:].mean() for p in (now, later))
    worth = best / (2 - best)
    extra = float(abs(share - float(WORLD.traits["tolerance"][user])) >= 0.3) + 2 * float(abs(2 * share - 1) >= 0.9)
    return (1 + worth) * now[list(slate)].mean() - worth * extra + (1 + worth) * following


def test_the_aware_rule_is_the_best_of_all_slates_by_its_own_measure(sessions):
    observation, env = sessions
    slates = np.asarray(jax.jit(aware_rule(ENVIRONMENT, WORLD))(jax.random.key(1), env, observation)[0])
    shares = set()
    for i, slate in enumerate(slates):
        user, exposure = int(env.user[i]), float(env.memory["satisfaction"][i])
        best = max(value(user, exposure, other) for other in SLATES)
        assert value(user, exposure, slate) == pytest.approx(best, abs=1e-5)
        shares.add(int((slate % 2 == 0).sum()))
    assert len(shares) > 1, "it does not show all users the same"


def test_the_myopic_rule_shows_what_is_likeliest_to_be_clicked_now(sessions):
    observation, env = sessions
    probability = np.asarray(jax.jit(lambda env, world: chances(ENVIRONMENT, env, world))(env, WORLD))
    slates = np.asarray(jax.jit(myopic_rule(ENVIRONMENT, WORLD))(jax.random.key(1), env, observation)[0])
    for i, slate in enumerate(slates):
        expected = felt(int(env.user[i]), float(env.memory["satisfaction"][i]))
        np.testing.assert_allclose(probability[i], expected, rtol=1e-4)
        assert set(slate.tolist()) == set(np.argsort(-expected)[:K].tolist())


def test_the_oracle_shows_as_many_popular_items_as_asked(sessions):
    observation, env = sessions
    for asked in range(K + 1):
        act = jax.jit(oracle_rule(ENVIRONMENT, WORLD, num_popular=asked))
        slates = np.asarray(act(jax.random.key(1), env, observation)[0])
        assert ((slates % 2 == 0).sum(axis=1) == asked).all()


def test_without_anything_to_remember_looking_ahead_is_looking_at_costs_alone():
    plain = make_environment(slate_size=K, max_len=9, history_length=5, ad_penalty=0)
    world = with_mechanisms(jax.random.key(0), remembering_world([], num_items=ITEMS), [])
    keys = jax.random.split(jax.random.key(0), len(ROWS))
    observation, env = jax.vmap(plain.reset, in_axes=(0, None))(keys, world)
    aware, myopic = (rule(plain, world)(jax.random.key(1), env, observation)[0] for rule in (aware_rule, myopic_rule))
    np.testing.assert_array_equal(np.sort(aware), np.sort(myopic))
