"""Retention against a closed form: with clicks and slates fixed, visits are a chain whose chances are known."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.retention import make_retention
from dsrm_jax.training.rollout import play, until_left
from tests.simulator.closed_forms import constant_length
from tests.simulator.worlds import remembering_world

VISITS = 4
RETENTION = make_retention(visits=VISITS, base=1.5, slope=4.0)
ENVIRONMENT = make_environment(slate_size=2, max_len=5, history_length=3, ad_penalty=0, mechanisms=[RETENTION])


def test_users_come_back_by_what_they_remember_and_at_most_so_often():
    world = remembering_world([RETENTION], chance=0.0)
    slate = jnp.asarray([0, 2], jnp.int32)  # both popular: n climbs

    def act(key, env, seen):
        return jnp.broadcast_to(slate, (env[0].user.shape[0], 2)), ()

    def keep(key, step):
        return step.env[1], step.seen.time, step.seen.context[:, -1], step.info["visits"]

    run = jax.jit(
        lambda key, world: play(
            key, act, until_left(ENVIRONMENT), world, keep, num_users=30_000, num_steps=ENVIRONMENT.max_steps
        )
    )
    (env, present), (there, time, shown, visits) = jax.device_get(run(jax.random.key(0), world))
    assert ENVIRONMENT.max_steps == VISITS * 5
    assert not present.any(), "everyone stays away in the end"
    steps = constant_length(5, 0, 2)
    np.testing.assert_array_equal(env.time, steps * env.visits)
    exposure = 0.4
    for t in range(steps * VISITS):
        np.testing.assert_allclose(shown[t][there[t]], exposure, rtol=1e-5)
        assert (time[t][there[t]] == t % steps).all(), "a session's clock starts anew"
        exposure = 0.8 * exposure + 0.2
        assert (visits[t][there[t]] >= t // steps + 1).all()
    tolerance = np.asarray(world.traits["retention"], np.float64)
    for user in np.unique(env.user):
        found = np.bincount(env.visits[env.user == user], minlength=VISITS + 1)[1:] / (env.user == user).sum()
        n = 1 - 0.6 * 0.8 ** (steps * np.arange(1, VISITS))
        back = special.expit(1.5 - 4 * np.maximum(0, n - tolerance[user]))
        reached = np.concatenate([[1.0], np.cumprod(back)])
        expected = reached * np.concatenate([1 - back, [1.0]])
        np.testing.assert_allclose(found, expected, atol=4 * 0.5 / np.sqrt((env.user == user).sum()))


def test_without_a_mechanism_that_brings_users_back_nobody_counts_visits():
    environment = make_environment(slate_size=2, max_len=5, history_length=3)
    _, state = environment.reset(jax.random.key(0), remembering_world([]))
    assert state.visits is None
    assert state.memory is None
    assert environment.observation_space(remembering_world([])).spaces.context is None
