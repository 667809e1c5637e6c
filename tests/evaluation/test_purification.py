import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.evaluation.purification import change, linear_cka, oracle_recovery
from dsrm_jax.purify.diffusion_model import gaussian_floor, leak_ratio
from dsrm_jax.purify.schedule import make_schedule


@pytest.fixture(scope="module")
def states():
    return np.random.default_rng(0).normal(size=(2, 200, 6)).astype(np.float32)


def test_cka_agrees_with_centred_gram_matrices(states):
    """The Gram form of CKA, HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), in float64."""
    x, y = states[0].astype(float), (states[0] @ states[1][:6] + 0.5 * states[1]).astype(float)
    centre = np.eye(200) - 1 / 200
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    expected = np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))
    np.testing.assert_allclose(linear_cka(jnp.float32(x), jnp.float32(y)), expected, rtol=1e-5)


def test_cka_ignores_rotation_shift_and_scale_and_sees_independence(states):
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    moved = jnp.float32(3 * states[0] @ rotation + 2)
    np.testing.assert_allclose(linear_cka(states[0], moved), 1, rtol=1e-5)
    assert linear_cka(*states) < 0.1
    assert linear_cka(states[0], jnp.ones_like(states[0])) == 0


def test_change_of_known_moves(states):
    same, doubled, flipped = (change(states[0], factor * states[0]) for factor in (1, 2, -1))
    assert same.relative == 0
    np.testing.assert_allclose([same.cosine, doubled.cosine, flipped.cosine], [1, 1, -1], rtol=1e-5)
    np.testing.assert_allclose([doubled.relative, flipped.relative], [1, 2], rtol=1e-5)


def test_floor_is_the_error_of_the_optimal_linear_denoiser():
    """Least squares of eps on s^(k), fitted to draws, has the error that the eigenvalue formula says."""
    generator = np.random.default_rng(0)
    clean = generator.normal(size=(40000, 3)) * [2.0, 1.0, 0.1] @ np.linalg.qr(generator.normal(size=(3, 3)))[0]
    schedule = make_schedule("rescaled", 5)
    floor = gaussian_floor(jnp.float32(clean), schedule)
    for k in range(4):
        eps = generator.normal(size=clean.shape)
        noised = float(schedule.signal[k]) * clean + float(schedule.noise[k]) * eps
        fit = np.linalg.lstsq(noised, eps, rcond=None)[0]
        np.testing.assert_allclose(floor[k], np.mean((noised @ fit - eps) ** 2), rtol=0.03, atol=1e-3)


def test_leak_ratio_is_one_for_a_denoiser_at_the_floor():
    floor = gaussian_floor(jax.random.normal(jax.random.key(0), (100, 4)), make_schedule("linear", 8))
    np.testing.assert_allclose(leak_ratio(floor, floor), np.ones(8))
    np.testing.assert_allclose(leak_ratio(0.1 * floor, floor), np.full(8, 0.1), rtol=1e-6)


def test_oracle_recovery_of_known_moves(states):
    clean, contaminated = states[0], states[0] + states[1]
    assert oracle_recovery(contaminated, contaminated, clean) == 0
    assert oracle_recovery(contaminated, clean, clean) == 1
    half_way = oracle_recovery(contaminated, clean + 0.5 * states[1], clean)
    np.testing.assert_allclose(half_way, 0.75, rtol=1e-5)
    assert oracle_recovery(contaminated, contaminated + states[1], clean) < 0
