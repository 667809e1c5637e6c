"""The platform's budget against a loop in NumPy: exact counts over all users, one price, whoever leaves and whoever comes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents.fairness import slate_fairness, start_counts
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import View
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.platform import make_platform
from dsrm_jax.training.rollout import experience, play, reset_users, until_left
from tests.simulator.worlds import remembering_world

K, B, WINDOW, GAIN = 3, 16, 4, 0.5
PLATFORM = make_platform(window=WINDOW, gain=GAIN, target=0.4, price=0.2, largest_price=0.45)
ENVIRONMENT = make_environment(slate_size=K, max_len=6, history_length=3, ad_penalty=0, mechanisms=[PLATFORM])


def random_slates(key, env, seen):
    """Fill slates at random, with more that is popular the higher the price is."""
    keys = jax.random.split(key, B)
    return jax.vmap(lambda key: jax.random.permutation(key, 40)[:K].astype(jnp.int32))(keys), ()


def keep(key, step):
    present = step.env[1] if isinstance(step.env, tuple) else jnp.ones(B, bool)
    return present, step.slate, step.seen.context[:, -2:], step.info["price"], step.info["ended"]


def played(environment, steps):
    world = remembering_world([PLATFORM])
    run = jax.jit(lambda key, world: play(key, random_slates, environment, world, keep, num_users=B, num_steps=steps))
    return jax.device_get(run(jax.random.key(2), world))[1]


def check_against_a_loop(kept):
    price, window = np.float32(0.2), [(0, 0)] * WINDOW
    for present, slate, shown, charged, _ in zip(*kept, strict=True):
        popular, slots = (sum(column) for column in zip(*window, strict=True))
        np.testing.assert_allclose(shown[:, 0], popular / slots if slots else 0.4, rtol=1e-6)
        np.testing.assert_allclose(shown[:, 1], price, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(charged, shown[:, 1])
        popular, slots = int((slate[present] % 2 == 0).sum()), K * int(present.sum())
        window = [*window[1:], (popular, slots)]
        price = np.clip(price + GAIN * (popular - 0.4 * slots) / (B * K), -0.45, 0.45)
    return window


def test_counts_and_price_go_on_while_users_come_and_leave():
    kept = played(ENVIRONMENT, 40)
    assert kept[4].sum() > B, "users were replaced, and the platform forgot nothing"
    check_against_a_loop(kept)


def test_lanes_that_nobody_is_in_count_nothing():
    kept = played(until_left(ENVIRONMENT), ENVIRONMENT.max_steps)
    there = kept[0].sum(axis=1)
    assert there[0] == B
    assert ((there > 0) & (there < B)).any()
    assert there[-1] == 0
    window = check_against_a_loop(kept)
    assert window[-1] == (0, 0)


def test_a_manager_is_charged_the_price_it_was_shown():
    """The rollout that agents learn from holds the price of each slate, which is what `fairness="platform"` charges."""
    world = remembering_world([PLATFORM])

    def perceive(perception, key, observation):
        return View(jnp.zeros((B, 1)), jnp.zeros((B, 1)), observation.time, None, observation.context)

    def run(key, world):
        observation, env = reset_users(key, ENVIRONMENT, world, num_users=B)
        act = lambda key, view: (random_slates(key, env, view)[0], ())  # noqa: E731
        start = env, perceive(None, key, observation)
        return experience(jax.random.split(key, 12), act, start, ENVIRONMENT, perceive, world, None)[1]

    rollout = jax.device_get(jax.jit(run)(jax.random.key(0), world))
    np.testing.assert_array_equal(rollout.price, rollout.view.context[..., -1])
    assert np.ptp(rollout.price) > 0.05
    fair = slate_fairness(start_counts(40), rollout, kind="platform")
    np.testing.assert_allclose(fair, -rollout.price * rollout.popular_share, rtol=1e-6)
    with pytest.raises(InputError, match="no platform has a price"):
        slate_fairness(start_counts(40), replace(rollout, price=None), kind="platform")
