"""Satisfaction against a float64 loop: what is felt, what is remembered, what a policy is shown."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dsrm_jax.errors import InputError
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.mechanism import with_mechanisms
from dsrm_jax.simulator.satisfaction import make_satisfaction
from tests.simulator.worlds import make_world, remembering_world

SATISFACTION = make_satisfaction(slope=5.0)
ENVIRONMENT = make_environment(slate_size=4, max_len=9, history_length=7, ad_penalty=0, mechanisms=[SATISFACTION])
WORLD = remembering_world([SATISFACTION])
TABLE = np.asarray(WORLD.response.probability)


def test_clicks_follow_the_logit_less_the_hinge_on_net_exposure():
    """One session of fixed slates under 2,000 keys: click rates of every step are the closed form's."""
    slates = jnp.asarray([[0, 2, 4, 6], [8, 10, 1, 3], [0, 6, 12, 5], [1, 3, 5, 7]], jnp.int32)

    def session(key):
        reset_key, *keys = jax.random.split(key, 5)
        observation, state = ENVIRONMENT.reset(reset_key, WORLD)
        seen, clicks = [observation.context], []
        for step_key, slate in zip(keys, slates, strict=True):
            observation, state, *_, info = ENVIRONMENT.step(step_key, state, slate, WORLD)
            seen.append(observation.context)
            clicks.append(info["clicks"])
        return state.user, jnp.stack(seen), jnp.stack(clicks)

    users, seen, clicks = jax.device_get(jax.jit(jax.vmap(session))(jax.random.split(jax.random.key(0), 20_000)))
    exposure, expected = 0.4, []
    tolerance = np.asarray(WORLD.traits["satisfaction"], np.float64)
    for step, slate in enumerate(np.asarray(slates)):
        np.testing.assert_allclose(seen[:, step, -1], exposure, rtol=1e-5)
        logit = special.logit(TABLE[:, slate].astype(np.float64)) - 5 * np.maximum(0, exposure - tolerance)[:, None]
        expected.append(special.expit(logit))
        exposure = 0.8 * exposure + 0.2 * np.mean(slate % 2 == 0)
    expected = np.stack(expected, axis=1)
    assert exposure > 0.45, "the hinge has something to do"
    for user in np.unique(users):
        mine = users == user
        error = clicks[mine].mean(axis=0) - expected[user]
        assert np.abs(error).max() < 4.5 * np.sqrt(0.25 / mine.sum())


def test_tolerances_fill_their_interval_evenly():
    world = replace(WORLD, starts=replace(WORLD.starts, first=jnp.zeros(4001, jnp.int32)))
    tolerance = np.asarray(with_mechanisms(jax.random.key(5), world, [SATISFACTION]).traits["satisfaction"])
    quantiles = np.quantile(tolerance, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(quantiles, [0.2, 0.35, 0.5, 0.65, 0.8], atol=0.03)


def test_a_world_without_the_traits_is_refused():
    bare = replace(make_world(WORLD.response), popular_rows=WORLD.popular_rows)
    with pytest.raises(InputError, match=r"no traits for the mechanism 'satisfaction'.*make_worlds"):
        ENVIRONMENT.reset(jax.random.key(0), bare)
