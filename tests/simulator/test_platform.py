"""The platform's budget against a loop in NumPy: exact counts over all users, one price, whoever leaves and whoever comes."""

import jax
import jax.numpy as jnp
import numpy as np

from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.platform import make_platform
from dsrm_jax.training.rollout import play, until_left
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
