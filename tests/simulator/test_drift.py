"""Drift against its closed form of clicks' covariance, and RecSim's interest evolution by a loop."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from dsrm_jax.simulator.drift import make_drift
from tests.simulator.worlds import remembering_world

ITEMS = 6
CATEGORIES = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [1, 1], [0, 0]], bool)


def world_of(mechanism):
    return remembering_world([mechanism], num_items=ITEMS, categories=jnp.asarray(CATEGORIES))


def test_clicks_of_a_category_covary_over_lags_as_the_histories_they_are_calibrated_to():
    drift = make_drift()
    world = world_of(drift)
    slate = jnp.asarray([0, 1, 2], jnp.int32)  # two of one category, one of the other
    base = special.logit(0.46)

    def clicks(key):
        def step(interests, key):
            chance = jax.nn.sigmoid(base + drift.feel(interests, (), slate, world))
            return drift.step(key, interests, (), slate, jnp.zeros(3, bool), world), chance

        start, *keys = jax.random.split(key, 5)
        return jax.lax.scan(step, drift.start(start, (), world), jnp.stack(keys))[1]

    chance = np.asarray(jax.jit(jax.vmap(clicks))(jax.random.split(jax.random.key(0), 100_000)), np.float64)
    chance -= chance.mean(axis=0)
    found = [np.mean(chance[:, 0, 0] * chance[:, lag, 1]) for lag in range(4)]
    np.testing.assert_allclose(found, (0.46 * 0.54 * 0.18) ** 2 * 0.7 ** np.arange(4), rtol=0.06)
    np.testing.assert_allclose(found, [0.0026, 0.0014, 0.0012, 0.0007], atol=0.0007)
    assert abs(np.mean(chance[:, 0, 0] * chance[:, 0, 2])) < 2e-5, "categories drift apart"


def test_clicks_feed_interests_as_recsims_evolution_does():
    y, reach = 0.3, 2.0
    drift = make_drift(spread=0.0, malleability=y, reach=reach)
    world = world_of(drift)
    slates = np.random.default_rng(1).integers(0, 4, (40, 1)).astype(np.int32)  # one item of one category a step
    clicks = np.random.default_rng(2).random((40, 1)) < 0.7

    def path(key):
        def step(interests, inputs):
            key, slate, click = inputs
            interests = drift.step(key, interests, (), slate, click, world)
            return interests, (interests.fed, drift.feel(interests, (), jnp.arange(ITEMS), world))

        inputs = jax.random.split(key, 40), jnp.asarray(slates), jnp.asarray(clicks)
        return jax.lax.scan(step, drift.start(key, (), world), inputs)[1]

    fed, felt = jax.device_get(jax.jit(path)(jax.random.key(0)))
    before, ups = np.zeros(2), 0
    for t in range(40):
        c = int(CATEGORIES[slates[t, 0], 1])
        other = 1 - c
        assert fed[t, other] == np.float32(before[other])
        size = y * (1 - abs(before[c])) * (1 - before[c])
        moved = fed[t, c] - before[c]
        expected = size * np.sign(moved) if clicks[t, 0] else 0.0
        np.testing.assert_allclose(moved, np.clip(before[c] + expected, -1, 1) - before[c], atol=1e-6)
        ups += moved > 0
        before = fed[t].astype(float)
        mean = [before[0], before[0], before[1], before[1], before.mean(), 0.0]
        np.testing.assert_allclose(felt[t], reach * np.array(mean), atol=1e-5)
    assert 0 < ups < clicks.sum()
