"""The rule that knows the simulator, and what it knows, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dsrm_jax.evaluation.oracles import chances, oracle_rule
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.satisfaction import make_satisfaction
from dsrm_jax.simulator.tolerance import make_tolerance
from tests.simulator.worlds import remembering_world

K, ITEMS, SLOPE, USERS = 3, 9, 8.0, 64
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


def test_chances_are_what_each_user_feels_now(sessions):
    _, env = sessions
    probability = jax.jit(lambda env, world: chances(ENVIRONMENT, env, world))(env, WORLD)
    expected = [felt(int(u), float(n)) for u, n in zip(env.user, env.memory["satisfaction"], strict=True)]
    np.testing.assert_allclose(probability, expected, rtol=1e-4)


def test_the_oracle_shows_as_many_popular_items_as_asked(sessions):
    observation, env = sessions

    @jax.jit
    def slates(asked):
        return oracle_rule(ENVIRONMENT, WORLD, num_popular=asked)(jax.random.key(1), env, observation)[0]

    for asked in range(K + 1):
        assert ((np.asarray(slates(np.int32(asked))) % 2 == 0).sum(axis=1) == asked).all()
