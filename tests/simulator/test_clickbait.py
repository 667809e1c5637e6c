"""Clickbait against RecSim's own recursion, and the temper it costs by exhaustion."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from dsrm_jax.simulator.clickbait import make_clickbait
from tests.simulator.worlds import remembering_world

K = 4


def test_exposure_moves_by_the_bait_that_is_clicked_and_patience_goes_with_it():
    mechanism = make_clickbait(memory=0.7, sensitivity=1.3, noise=0.0, gain=1.5, cost=2.0)
    world = remembering_world([mechanism])
    bait = special.expit(np.asarray(world.log_popularity, np.float64))
    rng = np.random.default_rng(0)
    slates = np.stack([rng.permutation(40)[:K] for _ in range(12)]).astype(np.int32)
    clicks = rng.random((12, K)) < 0.4
    clicks[3] = False

    def path(key):
        def step(exposure, inputs):
            slate, click = inputs
            cost = mechanism.cost(exposure, (), slate, world)
            return mechanism.step(key, exposure, (), slate, click, world), (exposure, cost)

        return jax.lax.scan(step, mechanism.start(key, (), world), (jnp.asarray(slates), jnp.asarray(clicks)))[1]

    exposure, cost = jax.device_get(jax.jit(path)(jax.random.key(1)))
    assert abs(exposure[0]) <= 0.5 / 0.3
    expected = float(exposure[0])
    for t in range(12):
        np.testing.assert_allclose(exposure[t], expected, atol=1e-5)
        assert cost[t] == round(2.0 * K * (1 - special.expit(1.3 * expected)))
        if clicks[t].any():
            expected = 0.7 * expected - 2 * (bait[slates[t][clicks[t]]].mean() - 0.5)
    assert len(set(cost.tolist())) >= 3
    felt = mechanism.feel(jnp.float32(0), (), jnp.arange(40), world)
    np.testing.assert_allclose(felt, 1.5 * (bait - 0.5), rtol=1e-5, atol=1e-6)


def test_sessions_start_as_recsims_do():
    mechanism = make_clickbait(memory=0.5)
    starts = jax.vmap(lambda key: mechanism.start(key, (), None))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(np.quantile(starts, [0, 0.5, 1]), [-1, 0, 1], atol=0.06)
