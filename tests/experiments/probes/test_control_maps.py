"""The controls against closed forms: what each does to a linear-Gaussian state, and what it must not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.purifier import Learning, PurifierBatch
from dsrm_jax.purify.stage_one import fit_purifier
from experiments.probes.control_maps import blur, denoising_autoencoder, derangement, erasure, shrinkage, swap_users
from experiments.probes.popularity import explained_share, ridge_r2

N, D = 2000, 5


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    state = rng.normal(size=(N, D)) @ rng.normal(size=(D, D)) + 3
    return state, state @ rng.normal(size=D) + rng.normal(size=N)


def test_after_erasure_no_line_reads_popularity_and_nothing_smaller_would_do(world):
    state, popularity = world
    erased = erasure(state, popularity).apply(state)
    assert LinearRegression().fit(erased, popularity).score(erased, popularity) < 1e-12
    assert LinearRegression().fit(state, popularity).score(state, popularity) > 0.3
    np.testing.assert_allclose(erased.mean(axis=0), state.mean(axis=0))
    # LEACE's optimum for one concept: x - cov(x, z) cov(x, z)' cov(x)^-1 (x - mean) / |W cov(x, z)|^2
    cross = np.cov(state.T, popularity)[:D, D]
    inverse = np.linalg.inv(np.cov(state, rowvar=False))
    removed = np.outer((state - state.mean(0)) @ inverse @ cross, cross) / (cross @ inverse @ cross)
    np.testing.assert_allclose(erased, state - removed, atol=1e-8)


def test_erasure_of_what_states_do_not_hold_is_the_identity(world):
    state, _ = world
    np.testing.assert_allclose(erasure(state, np.ones(N)).apply(state), state)
    flat = np.column_stack([state, state[:, 0]])  # a singular covariance
    erased = erasure(flat, state[:, 0]).apply(flat)
    assert abs(np.corrcoef(erased.T, state[:, 0])[:-1, -1]).max() < 1e-6 or erased.std(axis=0).min() < 1e-8


def test_shrinkage_is_the_posterior_mean_of_noised_states(world):
    """E[x | sqrt(a) x + sqrt(1 - a) eps = sqrt(a) x], by the normal equations, in units of the mean variance."""
    state, _ = world
    covariance = np.cov(state, rowvar=False)
    unit = covariance / (np.trace(covariance) / D)
    a = 0.4
    gain = a * unit @ np.linalg.inv(a * unit + (1 - a) * np.eye(D))
    expected = state.mean(0) + (state - state.mean(0)) @ gain.T
    np.testing.assert_allclose(shrinkage(state, alpha_bar=a).apply(state), expected)


def test_shrinkage_raises_the_share_of_a_leading_popularity():
    """Projection alone makes popularity's share larger, so it must fail P4."""
    rng = np.random.default_rng(1)
    popularity = rng.normal(size=N)
    state = np.column_stack([2 * popularity, rng.normal(size=(N, D - 1))])
    shrunk = shrinkage(state).apply(state)
    assert explained_share(shrunk, popularity) > explained_share(state, popularity)
    assert ridge_r2(shrunk, popularity) > 0.99


def test_blur_adds_noise_in_the_states_own_units(world):
    state, _ = world
    noise = blur(state, scale=2.0) - state
    np.testing.assert_allclose(noise.std(axis=0), 2 * state.std(axis=0), rtol=0.1)
    np.testing.assert_array_equal(blur(state), blur(state))
    other = state + 1
    assert abs(np.corrcoef((blur(state) - state).ravel(), (blur(other) - other).ravel())[0, 1]) < 0.05


def test_swapped_users_keep_all_states_and_nobody_their_own(world):
    state, _ = world
    swapped = swap_users(state)
    np.testing.assert_array_equal(np.sort(swapped, axis=0), np.sort(state, axis=0))
    assert not np.any(np.all(swapped == state, axis=1))


@pytest.mark.parametrize("size", [2, 3, 50])
def test_a_derangement_gives_everyone_somebody_elses(size):
    order = derangement(0, size)
    assert sorted(order) == list(range(size))
    assert not np.any(order == np.arange(size))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_autoencoder_learns_the_regression_of_the_cleaner_state():
    """On linear-Gaussian pairs the best it can do is E[target | view], known in closed form."""
    mixing = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3)), jnp.float32)

    def sample(key, rows=256):
        clean_key, noise_key = jax.random.split(key)
        target = jax.random.normal(clean_key, (rows, 2))
        view = target @ mixing + 0.5 * jax.random.normal(noise_key, (rows, 3))
        return PurifierBatch(state=view[:, :2], condition=Evidence(summary=view), target=target)

    learning = Learning(iterations=200, learning_rate=2e-2, ema=0.95)
    purifier = denoising_autoencoder(hidden=16, learning=learning)
    params, losses = fit_purifier(jax.random.key(0), purifier, sample)
    test = sample(jax.random.key(1), 4000)
    purify = jax.jit(purifier.purify)
    found = purify(params, None, test.state, test.condition)
    m = np.asarray(mixing, float)
    gain = np.linalg.solve(m.T @ m + 0.25 * np.eye(3), m.T)
    best = np.asarray(test.condition.summary) @ gain
    error = np.mean((best - test.target) ** 2)
    assert np.mean((found - best) ** 2) < 0.1 * error
    assert losses[-20:].mean() < 0.6 * losses[:5].mean()
    # an untrained one says the same of everyone, and must fail
    idle = jax.jit(purifier.init)(jax.random.key(2), test)
    assert np.ptp(np.asarray(purify(idle, None, test.state, test.condition)), axis=0).max() < 1e-6
