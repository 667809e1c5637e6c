from functools import partial

import jax
import numpy as np
import pytest

from dsrm_jax.purify.denoiser import Denoiser, time_embedding

HALF = np.full(5, 0.5, np.float32)


@pytest.fixture(scope="module")
def network():
    """A denoiser whose zero layers were filled, and inputs."""
    denoiser = Denoiser(dim=3, hidden=8)
    rng = np.random.default_rng(0)
    noised, condition = (np.float32(rng.normal(size=(5, n))) for n in (3, 4))
    fresh = jax.jit(denoiser.init)(jax.random.key(0), noised, HALF, condition)
    filled = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.3 * rng.normal(size=x.shape)), fresh)
    return denoiser, fresh, filled, noised, condition


def test_forward_pass_agrees_with_float64_formula(network):
    denoiser, _, params, noised, condition = network
    fraction = np.linspace(0.2, 1, 5)
    weights = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])

    def dense(name, x):
        return x @ weights[name]["kernel"] + weights[name].get("bias", 0)

    def silu(x):
        return x / (1 + np.exp(-x))

    angle = fraction[:, None] * np.geomspace(1, 100, 16)
    film = dense("film", np.concatenate([np.sin(angle), np.cos(angle)], -1))
    scale1, scale2, shift1, shift2 = (film[:, 8 * i : 8 * (i + 1)] for i in range(4))
    projected = dense("condition_layer", np.asarray(condition, np.float64))
    state = np.asarray(noised, np.float64)
    hidden = silu((1 + scale1) * (dense("state_layer", state) + projected) + shift1)
    hidden = silu((1 + scale2) * dense("hidden_layer", hidden) + shift2)
    expected = dense("output_layer", hidden)
    got = jax.jit(denoiser.apply)(params, noised, np.float32(fraction), condition)
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)


def test_fresh_network_predicts_zero(network):
    denoiser, params, _, noised, condition = network
    assert not np.any(jax.jit(denoiser.apply)(params, noised, HALF, condition))


def test_precomputed_levels_and_projection_equal_the_full_call(network):
    denoiser, _, params, noised, condition = network
    fractions = np.arange(1, 6, dtype=np.float32) / np.float32(5)
    levels, project, denoise = (
        jax.jit(partial(denoiser.apply, method=name)) for name in ("levels", "project", "denoise")
    )
    features, projected, apply = levels(params, fractions), project(params, condition), jax.jit(denoiser.apply)
    for k in range(5):
        level = jax.tree.map(lambda x, k=k: np.asarray(x)[k], features)
        split = denoise(params, noised, level, projected)
        whole = apply(params, noised, np.full(5, fractions[k]), condition)
        np.testing.assert_allclose(split, whole, rtol=1e-5, atol=1e-5)


def test_levels_of_a_short_and_a_long_chain_are_told_apart():
    for steps in (5, 20, 200):
        embedded = np.asarray(jax.jit(time_embedding)(np.float32(np.arange(1, steps + 1) / steps)))
        distance = np.linalg.norm(embedded[:, None] - embedded[None], axis=-1)
        assert distance[~np.eye(steps, dtype=bool)].min() > 0.1
