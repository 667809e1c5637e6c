"""Minibatch gradients: whatever way the samples are cut, the mean over all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax import sgd

from dsrm_jax.agents.minibatches import BLOCK, descend, mean_gradient

ITEMS, DIM = 12, 3


def problem(count):
    rng = np.random.default_rng(count)
    return rng.normal(size=(DIM, ITEMS)), rng.normal(size=(count, DIM)), rng.integers(0, ITEMS, count)


def softmax_loss(params, samples):
    x, chosen = samples
    log_prob = jax.nn.log_softmax(x @ params, axis=-1)[jnp.arange(chosen.shape[0]), chosen]
    return -jnp.mean(log_prob), {"likeliest": jnp.mean(jnp.max(x @ params, axis=-1))}


@pytest.mark.parametrize("count", [1, 7, BLOCK, 4 * BLOCK, 3 * BLOCK // 2, 97, 130])
def test_gradient_and_metrics_are_the_means_over_all_samples(count):
    """Float64 NumPy: the gradient of -log softmax is x (p - 1 at the chosen)."""
    weight, x, chosen = problem(count)
    params, samples = jnp.float32(weight), (jnp.float32(x), jnp.int32(chosen))
    gradient, metrics = jax.jit(lambda p, s: mean_gradient(softmax_loss, p, s))(params, samples)
    logits = x @ weight
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(gradient, x.T @ (p - np.eye(ITEMS)[chosen]) / count, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(metrics["likeliest"], logits.max(axis=1).mean(), rtol=1e-5)


def test_a_cpu_never_holds_the_catalogue_of_all_samples_at_once():
    _, x, chosen = problem(16 * BLOCK)
    with jax.default_device(jax.devices("cpu")[0]):
        gradient = jax.jit(lambda p, s: mean_gradient(softmax_loss, p, s))
        program = gradient.lower(jnp.zeros((DIM, ITEMS)), (jnp.float32(x), jnp.int32(chosen))).compile()
    assert f"[{BLOCK},{ITEMS}]" in program.as_text()
    assert f"[{16 * BLOCK},{ITEMS}]" not in program.as_text()


def test_each_minibatch_takes_one_step_from_where_the_last_one_ended():
    """Plain gradient descent on (params - sample)^2 / 2 halves the way to each minibatch's mean."""

    def loss(params, samples):
        return jnp.mean((params - samples) ** 2) / 2, {"seen": jnp.mean(samples)}

    samples = jnp.array([[0.0, 2.0], [4.0, 8.0], [1.0, 1.0]])
    optimiser = sgd(0.5)
    start = jnp.float32(3.0)
    params, _, metrics = descend(loss, optimiser, start, optimiser.init(start), samples)
    expected = 3.0
    for mean in (1.0, 6.0, 1.0):
        expected += 0.5 * (mean - expected)
    np.testing.assert_allclose(params, expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["seen"], 8 / 3, rtol=1e-6)
