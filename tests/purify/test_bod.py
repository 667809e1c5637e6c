"""BOD: its losses against loops in float64, its second-order gradient against finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from dsrm_jax.purify.bod import (
    BODParams,
    Generator,
    alignment_loss,
    bpr_loss,
    make_bod_purifier,
    matching_loss,
    uniformity_loss,
)
from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.rce import LabelledBatch, LinearEncoder
from dsrm_jax.purify.stage_one import fit_purifier

N, M, D = 6, 5, 3
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
PURIFIER = make_bod_purifier(hidden=8, alignment_weight=0.7, uniformity_weight=0.3)
matching = partial(matching_loss, hidden=8)


def make_example(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    click, shown = rng.random((N, M)) < 0.6, rng.random((N, M)) < 0.9
    vectors, bias = rng.normal(size=(N, M, D)), rng.normal(size=(N, M))
    weight = (click & shown)[:, :, None]
    summary = (weight * vectors).sum(1) / (1 + weight.sum(1))
    arrays = [jnp.asarray(x, dtype) for x in (vectors, bias)]
    evidence = Evidence(jnp.asarray(summary, dtype), *arrays, jnp.asarray(click), jnp.asarray(shown))
    label, present = rng.random((N, M)) < 0.5, rng.random((N, M)) < 0.8
    state = np.zeros((N, D), dtype)
    batch = LabelledBatch(state, evidence, *arrays, jnp.asarray(label), jnp.asarray(present), 1.0)
    encoder = LinearEncoder(jnp.asarray(rng.normal(size=(D, D)), dtype), jnp.asarray(rng.normal(size=D), dtype))
    generator = jax.tree.map(
        lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), dtype),
        jax.eval_shape(Generator(8).init, jax.random.key(0), jnp.zeros((1, D)), jnp.zeros((1, 1, D))),
    )
    weights = jnp.asarray(rng.random((N, M)), dtype)
    return BODParams(encoder, generator), batch, weights


def reference(params, batch):
    """State, logits, clicked and skipped events, in float64."""
    state = np.asarray(batch.condition.summary, np.float64) @ np.asarray(params.encoder.kernel, np.float64)
    state = state + np.asarray(params.encoder.bias)
    logit = np.einsum("nd,nmd->nm", state, np.asarray(batch.vectors)) + np.asarray(batch.bias)
    click, present = np.asarray(batch.click), np.asarray(batch.present)
    return state, logit, click & present, ~click & present


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_bpr_is_the_mean_over_all_pairs_of_one_history():
    params, batch, weights = make_example()
    _, logit, clicked, skipped = reference(params, batch)
    scored = np.asarray(weights) * logit
    pairs = [
        np.logaddexp(0, scored[n, j] - scored[n, i])
        for n in range(N)
        for i in np.flatnonzero(clicked[n])
        for j in np.flatnonzero(skipped[n])
    ]
    np.testing.assert_allclose(quick_jit(bpr_loss)(params.encoder, weights, batch), np.mean(pairs), rtol=1e-4)


def test_alignment_and_uniformity_are_those_of_unit_vectors():
    params, batch, weights = make_example()
    state, _, clicked, _ = reference(params, batch)
    distance = ((unit(state)[:, None] - unit(np.asarray(batch.vectors, np.float64))) ** 2).sum(-1)
    expected = (np.asarray(weights) * distance)[clicked].mean()
    np.testing.assert_allclose(quick_jit(alignment_loss)(params.encoder, weights, batch), expected, rtol=1e-4)
    kernel = [np.exp(-2 * np.sum((unit(state)[i] - unit(state)[j]) ** 2)) for i in range(N) for j in range(N) if i != j]
    np.testing.assert_allclose(quick_jit(uniformity_loss)(params.encoder, batch), np.log(np.mean(kernel)), rtol=1e-4)


def test_the_generator_judges_pairs_of_a_user_and_an_item():
    params, batch, _ = make_example()
    state, vectors = np.asarray(batch.condition.summary), np.asarray(batch.vectors)
    weight = np.asarray(quick_jit(Generator(8).apply)(params.generator, state, vectors))
    layers = jax.device_get(params.generator["params"])
    for n, m in [(0, 0), (0, 1), (3, 1)]:
        x = np.concatenate([state[n], vectors[n, m]])
        for name in ("Dense_0", "Dense_1"):
            x = np.maximum(x @ layers[name]["kernel"] + layers[name]["bias"], 0)
        logit = x @ layers["Dense_2"]["kernel"] + layers["Dense_2"]["bias"]
        np.testing.assert_allclose(weight[n, m], 1 / (1 + np.exp(-logit[0])), rtol=1e-4)


def test_the_outer_loss_is_one_minus_the_cosine_of_finite_difference_gradients():
    with jax.enable_x64(True):
        params, batch, _ = make_example(jnp.float64)
        weights = quick_jit(Generator(8).apply)(params.generator, _state(params, batch), batch.vectors)
        flat, rebuild = ravel_pytree(params.encoder)
        columns = []
        for loss in (bpr_loss, alignment_loss):
            slope = _differences(quick_jit(lambda x, f=loss: f(rebuild(x), weights, batch)), flat)
            gradient = rebuild(jnp.asarray(slope))
            columns.append(np.vstack([gradient.kernel, gradient.bias]))
        left, right = columns
        cosine = (unit(left.T) * unit(right.T)).sum(1)
        found = quick_jit(matching)(params, batch)
        np.testing.assert_allclose(found, (1 - cosine).sum(), rtol=1e-5)


def test_the_generators_gradient_is_that_of_the_outer_loss_and_not_zero():
    with jax.enable_x64(True):
        params, batch, _ = make_example(jnp.float64)
        gradient = quick_jit(jax.grad(PURIFIER.loss))(params, None, batch).generator
        flat, rebuild = ravel_pytree(params.generator)
        outer = quick_jit(lambda x: matching(BODParams(params.encoder, rebuild(x)), batch))
        found, expected = ravel_pytree(gradient)[0], _differences(outer, flat)
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_the_encoders_gradient_is_that_of_the_inner_loss_with_constant_weights():
    with jax.enable_x64(True):
        params, batch, _ = make_example(jnp.float64)
        gradient = quick_jit(jax.grad(PURIFIER.loss))(params, None, batch).encoder
        weights = quick_jit(Generator(8).apply)(params.generator, _state(params, batch), batch.vectors)
        flat, rebuild = ravel_pytree(params.encoder)

        def inner(x):
            encoder = rebuild(x)
            aligned = 0.7 * alignment_loss(encoder, weights, batch)
            return bpr_loss(encoder, weights, batch) + aligned + 0.3 * uniformity_loss(encoder, batch)

        expected = _differences(quick_jit(inner), flat)
        np.testing.assert_allclose(ravel_pytree(gradient)[0], expected, rtol=1e-4, atol=1e-7)


def test_training_makes_the_gradients_agree():
    _, batch, _ = make_example()
    purifier = make_bod_purifier(hidden=8, iterations=100, learning_rate=2e-2)
    fitted, losses = quick_jit(lambda key: fit_purifier(key, purifier, lambda key: batch))(jax.random.key(0))
    start = BODParams(fitted.encoder, quick_jit(purifier.init)(jax.random.key(0), batch).generator)
    loss = quick_jit(matching)
    untrained, trained = (float(loss(p, batch)) for p in (start, fitted))
    assert trained < untrained - 0.1
    assert bool(np.isfinite(losses).all())


@pytest.mark.parametrize("reading", ["pretrain", "online"])
def test_purified_states_come_from_the_history_alone(reading):
    params, batch, _ = make_example()
    purifier = make_bod_purifier(hidden=8, reading=reading)
    evidence = batch.condition
    found = quick_jit(purifier.purify)(params, None, np.full((N, D), 5, np.float32), evidence)
    weight = np.ones((N, M))
    if reading == "online":
        weight = quick_jit(Generator(8).apply)(params.generator, _state(params, batch), evidence.vectors)
    clicked = np.asarray(weight) * (np.asarray(evidence.click) & np.asarray(evidence.shown))
    pooled = np.einsum("nm,nmd->nd", clicked, np.asarray(evidence.vectors)) / (1 + clicked.sum(1))[:, None]
    expected = pooled @ np.asarray(params.encoder.kernel) + np.asarray(params.encoder.bias)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def _state(params, batch):
    return np.asarray(batch.condition.summary) @ np.asarray(params.encoder.kernel) + np.asarray(params.encoder.bias)


def _differences(f, x, step=1e-5):
    """Central differences of a scalar function of a float64 vector."""
    x, each = np.asarray(x), step * np.eye(len(x))
    return np.array([(float(f(x + away)) - float(f(x - away))) / (2 * step) for away in each])
