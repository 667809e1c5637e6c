"""R-CE: its loss and gradient against float64 NumPy, its fit against SciPy, both readings against loops over events."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from dsrm_jax.errors import InputError
from dsrm_jax.purify.encoder import (
    Embeddings,
    EncoderParams,
    Evidence,
    gather_evidence,
    labels_from,
    make_encoder,
    next_click_loss,
)
from dsrm_jax.purify.purifier import Learning, Purifier
from dsrm_jax.purify.rce import (
    LabelledBatch,
    LinearEncoder,
    encode,
    encode_weighted,
    make_rce_purifier,
    sample_labelled_states,
)
from dsrm_jax.purify.stage_one import fit_purifier
from dsrm_jax.purify.windows import Windows
from dsrm_jax.simulator.world import History, SessionStarts

N, M, H, D, V = 6, 5, 7, 3, 11
BETA = 0.4
GATHER, ENCODE, ENCODE_WEIGHTED = map(jax.jit, (gather_evidence, encode, encode_weighted))


def make_example(seed=0):
    """Histories of random length, labels of which some are absent, an encoder."""
    rng = np.random.default_rng(seed)
    embeddings = Embeddings(
        jnp.asarray(rng.normal(size=(V, D)), jnp.float32), jnp.asarray(rng.normal(size=V), jnp.float32)
    )
    length = rng.integers(1, H + 1, N)
    real = np.arange(H) >= H - length[:, None]
    history = History(
        jnp.asarray(np.where(real, rng.integers(0, V, (N, H)), 0)),
        jnp.asarray(real & (rng.random((N, H)) < 0.7)),
        jnp.asarray(length),
    )
    evidence = GATHER(embeddings, history)
    item = rng.integers(0, V, (N, M))
    present = rng.random((N, M)) < 0.8
    batch = LabelledBatch(
        state=np.zeros((N, D), np.float32),
        condition=evidence,
        vectors=np.asarray(embeddings.vectors)[item],
        bias=np.asarray(embeddings.bias)[item],
        click=jnp.asarray(rng.random((N, M)) < 0.5),
        present=jnp.asarray(present),
    )
    params = LinearEncoder(
        jnp.asarray(rng.normal(size=(D, D)), jnp.float32), jnp.asarray(rng.normal(size=D), jnp.float32)
    )
    return batch, params


def as64(x):
    return np.asarray(x, np.float64)


def clicked_mean(evidence, weight):
    """Sum of weight x vector over the clicked events of each history, over 1 + the weights' sum."""
    found = np.zeros((N, D))
    for n in range(N):
        total = 0.0
        for h in range(H):
            if evidence.click[n, h] and evidence.shown[n, h]:
                found[n] += weight[n, h] * as64(evidence.vectors[n, h])
                total += weight[n, h]
        found[n] /= 1 + total
    return found


def test_weights_are_detached_and_the_gradient_is_the_weighted_cross_entropys():
    batch, params = make_example()
    loss = make_rce_purifier(beta=BETA).loss
    value, gradient = jax.jit(jax.value_and_grad(loss))(params, None, batch)
    pooled = clicked_mean(batch.condition, np.ones((N, H)))
    state = pooled @ as64(params.kernel) + as64(params.bias)
    vectors, click, present = as64(batch.vectors), as64(batch.click), as64(batch.present)
    probability = special.expit(np.einsum("nd,nmd->nm", state, vectors) + as64(batch.bias))
    right = np.where(click, probability, 1 - probability)
    weight = right**BETA * present / present.sum()
    np.testing.assert_allclose(value, -(weight * np.log(right)).sum(), rtol=1e-4)
    slope = np.einsum("nm,nmd->nd", weight * (probability - click), vectors)
    np.testing.assert_allclose(gradient.bias, slope.sum(0), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(gradient.kernel, pooled.T @ slope, rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def log():
    """A log of 5 users and a trained-looking encoder of the frozen kind."""
    rng = np.random.default_rng(3)
    rows = np.array([9, 30, 1, 25, 14])
    user = np.repeat(np.arange(5), rows)
    starts = SessionStarts(
        jnp.asarray(user, jnp.int32),
        jnp.asarray(rng.integers(0, V, len(user)), jnp.int32),
        jnp.asarray(rng.random(len(user)) < 0.5),
        jnp.asarray(np.concatenate([[0], np.cumsum(rows)]), jnp.int32),
    )
    encoder = make_encoder(dim=D - 1)
    embeddings = Embeddings(
        jnp.asarray(rng.normal(size=(V, D)), jnp.float32), jnp.asarray(rng.normal(size=V), jnp.float32)
    )
    kernel, bias = rng.normal(size=(D, D)), rng.normal(size=D)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), embeddings).network
    network = jax.tree.map(lambda x: jnp.asarray(kernel if len(x.shape) == 2 else bias, jnp.float32), shapes)
    return encoder, EncoderParams(embeddings, network), starts


def test_drawn_states_and_labels_are_those_the_frozen_encoder_was_trained_on(log):
    encoder, params, starts = log
    draw = partial(sample_labelled_states, encoder=encoder, batch_size=16)
    batch = jax.jit(draw)(jax.random.key(1), params=params, windows=Windows(starts, H, H))
    kernel, bias = sorted(jax.tree.leaves(params.network), key=np.ndim)[::-1]
    again = LinearEncoder(kernel, bias)
    np.testing.assert_allclose(ENCODE(again, batch.condition.summary), batch.state, rtol=1e-4, atol=1e-5)
    # beta 0 weights nothing: the loss is the frozen encoder's own
    row_key, _ = jax.random.split(jax.random.key(1))
    rows = jax.random.randint(row_key, (16,), 0, starts.user.shape[0])
    condition = batch.condition
    history = History(condition.item, condition.click, np.sum(condition.shown, axis=1))
    frozen = jax.jit(lambda params, history, rows: next_click_loss(encoder, params, history, labels_from(starts, rows)))
    expected = frozen(params, history, rows)
    loss = jax.jit(make_rce_purifier(beta=0.0).loss)(again, None, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_the_pretrained_reading_forgets_the_state_it_is_given():
    batch, params = make_example()
    purify = jax.jit(make_rce_purifier(beta=BETA).purify)
    found = [purify(params, None, np.full((N, D), fill, np.float32), batch.condition) for fill in (0.0, 9.0)]
    np.testing.assert_array_equal(found[0], found[1])
    expected = clicked_mean(batch.condition, np.ones((N, H))) @ as64(params.kernel) + as64(params.bias)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


def test_the_online_reading_weights_each_click_by_its_predicted_probability():
    batch, params = make_example()
    purifier = make_rce_purifier(beta=BETA, reading="online")
    evidence = batch.condition
    state = clicked_mean(evidence, np.ones((N, H))) @ as64(params.kernel) + as64(params.bias)
    logit = np.einsum("nd,nhd->nh", state, as64(evidence.vectors)) + as64(evidence.bias)
    expected = clicked_mean(evidence, special.expit(logit) ** BETA) @ as64(params.kernel) + as64(params.bias)
    found = jax.jit(purifier.purify)(params, None, batch.state, evidence)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_of_one_change_nothing_and_weights_of_zero_leave_no_history():
    batch, params = make_example()
    all_of_it = ENCODE_WEIGHTED(params, batch.condition, np.ones((N, H), np.float32))
    np.testing.assert_allclose(all_of_it, ENCODE(params, batch.condition.summary), rtol=1e-4, atol=1e-5)
    nothing = ENCODE_WEIGHTED(params, batch.condition, np.zeros((N, H), np.float32))
    np.testing.assert_allclose(nothing, np.tile(params.bias, (N, 1)), rtol=1e-6)


def test_the_online_reading_needs_events():
    purifier = make_rce_purifier(reading="online")
    with pytest.raises(ValueError, match="summary alone"):
        purifier.purify(make_example()[1], None, jnp.zeros((N, D)), Evidence(summary=jnp.zeros((N, 4 * D + 2))))


def test_an_unknown_reading_is_named():
    with pytest.raises(InputError, match=r"unknown value of denoiser\.reading 'onlin'.*did you mean 'online'"):
        make_rce_purifier(reading="onlin")


def test_the_fit_reaches_the_minimum_that_scipy_finds():
    batch, _ = make_example(seed=8)
    purifier = make_rce_purifier(beta=0.0, iterations=600, learning_rate=0.05)
    fit = jax.jit(partial(fit_purifier, purifier=purifier, sample_batch=lambda key: ridged))
    # a click and a skip of each item, so that the minimum is finite
    both = jax.tree.map(lambda x: np.concatenate([x, x], axis=1), (batch.vectors, batch.bias, batch.present))
    click = np.concatenate([batch.click, ~np.asarray(batch.click)], axis=1)
    ridged = LabelledBatch(batch.state, batch.condition, both[0], both[1], click, both[2])
    params, losses = fit(jax.random.key(0))

    pooled, vectors = clicked_mean(batch.condition, np.ones((N, H))), as64(ridged.vectors)
    click, present = as64(ridged.click), as64(ridged.present)

    def objective(flat):
        state = pooled @ flat[: D * D].reshape(D, D) + flat[D * D :]
        logit = np.einsum("nd,nmd->nm", state, vectors) + as64(ridged.bias)
        return (present * (np.logaddexp(0, logit) - click * logit)).sum() / present.sum()

    best = optimize.minimize(objective, np.zeros(D * D + D)).fun
    final = purifier.loss(params, None, ridged)
    assert losses[0] > 1.05 * best
    assert float(final) == pytest.approx(best, rel=1e-2)


@pytest.mark.parametrize(("ramp", "expected"), [(4, [0, 0.25, 0.5, 0.75, 1, 1]), (0, [1, 1, 1, 1, 1, 1])])
def test_progress_rises_over_the_ramp(ramp, expected):
    batch, params = make_example()
    told = Purifier(
        init=lambda key, batch: params,
        loss=lambda params, key, batch: batch.progress + 0.0 * jnp.sum(params.bias),
        purify=lambda *args: args,
        learning=Learning(labelled=True, ramp=ramp, iterations=6),
    )
    _, losses = fit_purifier(jax.random.key(0), told, lambda key: batch)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
