"""Tolerance by exhaustion over all numbers of popular items, and what a user's log tells of their centre."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsrm_jax.errors import InputError
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.leave import Leave
from dsrm_jax.simulator.tolerance import make_tolerance
from tests.simulator.worlds import NUM_USERS, remembering_world

K = 5
TOLERANCE = make_tolerance(bound=0.25, penalty=2)
ENVIRONMENT = make_environment(slate_size=K, max_len=30, history_length=4, ad_penalty=0, mechanisms=[TOLERANCE])


def test_temper_lost_by_every_share_is_the_rules():
    world = remembering_world([TOLERANCE], chance=0.0)
    centres = np.asarray(world.traits["tolerance"])
    slates = jnp.asarray([[2 * i if i < n else 2 * i + 1 for i in range(K)] for n in range(K + 1)], jnp.int32)

    def lost(key, slate):
        _, state = ENVIRONMENT.reset(key, world)
        return state.user, state.temper - ENVIRONMENT.step(key, state, slate, world)[1].temper

    keys = jax.random.split(jax.random.key(0), 64)
    users, found = jax.jit(jax.vmap(jax.vmap(lost, in_axes=(None, 0)), in_axes=(0, None)))(keys, slates)
    assert set(np.unique(users)) == {0, 2, 3, 4, 5}, "every user with rows"
    for user, losses in zip(np.asarray(users)[:, 0], np.asarray(found), strict=True):
        far = [abs(n / K - float(centres[user])) >= 0.25 for n in range(K + 1)]
        assert losses.tolist() == [2 * K + 2 * K * each for each in far]


def test_what_a_policy_is_told_of_a_centre_is_a_binomial_share_of_it():
    """Centres are N(.417, .155); of 50 choices the popular share has mean c_u and variance c_u (1 - c_u) / 50."""
    mechanism = make_tolerance()
    environment = make_environment(history_length=4, ad_penalty=0, mechanisms=[mechanism])
    world = remembering_world([mechanism], rows=(1,) * 4000, chance=0.5)
    centre = np.asarray(world.traits["tolerance"])
    assert stats.kstest(centre, stats.norm(0.417, 0.155).cdf).statistic < 0.05
    observation, state = jax.jit(jax.vmap(environment.reset, in_axes=(0, None)))(
        jax.random.split(jax.random.key(3), 20_000), world
    )
    told, own = np.asarray(observation.context[:, -1]), centre[np.asarray(state.user)]
    np.testing.assert_allclose(told * 50, np.round(told * 50), atol=1e-4)
    z = (told - own) / np.sqrt(np.maximum(own * (1 - own), 1e-3) / 50)
    assert abs(z.mean()) < 0.04
    assert z.std() == pytest.approx(1.0, abs=0.03)


def test_a_policy_is_shown_the_share_of_the_log_that_the_user_arrived_with():
    world = remembering_world([TOLERANCE])
    popular = np.asarray((world.starts.item - 500) // 3 % 2 == 0)
    observations, states = jax.vmap(ENVIRONMENT.reset, in_axes=(0, None))(
        jax.random.split(jax.random.key(4), 200), world
    )
    seen = 0
    for i in range(200):
        length = int(observations.history.length[i])
        items = np.asarray(observations.history.item[i, 4 - length :])
        expected = ((items - 500) // 3 % 2 == 0).mean() if length else 0.4
        assert float(observations.context[i, 0]) == pytest.approx(expected)
        seen += length == 4
    assert seen > 20
    assert popular.any()
    assert len(np.unique(states.user)) == NUM_USERS - 1


def test_a_leave_rule_without_temper_is_refused():
    rule = Leave(start=lambda: jnp.int32(0), step=lambda memory, clicks, popular: (memory, jnp.bool_(False)))
    with pytest.raises(InputError, match="takes temper"):
        make_environment(leave=rule, mechanisms=[TOLERANCE])
