"""Conjugate gradients against NumPy's direct solver in float64, and the right-hand sides that break careless ones."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents.conjugate_gradient import conjugate_gradient


def systems(num, size, seed, smallest=0.1):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(num, size, size)))[0]
    spectrum = rng.uniform(smallest, 3.0, size=(num, 1, size))
    return (basis * spectrum) @ np.swapaxes(basis, 1, 2), rng.normal(size=(num, size))


@partial(jax.jit, static_argnames="iterations")
def solve(matrix, b, iterations, tolerance=1e-7):
    def one(matrix, b):
        return conjugate_gradient(lambda v: matrix @ v, b, iterations=iterations, tolerance=tolerance)

    return jax.vmap(one)(jnp.asarray(matrix, jnp.float32), jnp.asarray(b, jnp.float32))


def test_as_many_iterations_as_dimensions_solve_the_system():
    matrix, b = systems(50, 6, seed=0)
    expected = np.linalg.solve(matrix, b[..., None])[..., 0]
    np.testing.assert_allclose(solve(matrix, b, 12), expected, rtol=2e-4, atol=2e-5)


def test_two_distinct_eigenvalues_need_two_iterations():
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(40, 40)))[0]
    matrix = (basis * np.where(np.arange(40) < 20, 1.0, 5.0)) @ basis.T
    b = np.random.default_rng(2).normal(size=40)
    expected = np.linalg.solve(matrix, b)
    np.testing.assert_allclose(solve(matrix[None], b[None], 2)[0], expected, rtol=1e-3, atol=1e-4)
    assert np.abs(solve(matrix[None], b[None], 1)[0] - expected).max() > 0.1


def test_the_residual_stops_it():
    """With a loose tolerance fewer iterations run, and the residual that is left respects it."""
    matrix, b = systems(20, 30, seed=3, smallest=0.01)
    for tolerance in (0.3, 0.03, 0.003):
        x = np.asarray(solve(matrix, b, 200, tolerance), np.float64)
        residual = np.linalg.norm(np.einsum("nij,nj->ni", matrix, x) - b, axis=1)
        ratio = residual / np.linalg.norm(b, axis=1)
        assert ratio.max() <= 1.05 * tolerance
        assert ratio.min() > 1e-3 * tolerance, "it went on for nothing"


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12, 1e12, 1e30])
def test_right_hand_sides_of_any_size(size):
    matrix, b = systems(1, 5, seed=4)
    b = b.astype(np.float32) * np.float32(size)
    expected = np.linalg.solve(matrix, b[..., None].astype(np.float64))[..., 0]
    got = np.asarray(solve(matrix, b, 10), np.float64)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * size)


def test_no_iterations_and_singular_matrices_stay_finite():
    matrix, b = systems(1, 4, seed=5)
    assert not solve(matrix, b, 0).any()
    assert not solve(np.zeros((1, 4, 4)), b, 10).any()
    singular = np.diag([1.0, 2.0, 0.0, 0.0])
    got = solve(singular[None], np.array([[1.0, 1.0, 0.0, 0.0]]), 10)
    np.testing.assert_allclose(got[0], [1.0, 0.5, 0.0, 0.0], atol=1e-5)
