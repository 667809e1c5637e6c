"""T-CE: what it keeps against a sort in Python, its loss against float64 NumPy, its online reading against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.rce import LabelledBatch, LinearEncoder
from dsrm_jax.purify.tce import kept, make_tce_purifier

N, M, D = 5, 6, 3
KEPT = jax.jit(kept)


@settings(max_examples=40, deadline=None)
@given(
    loss=st.permutations(range(8)),
    marks=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=8, max_size=8),
    tenths=st.integers(0, 10),
)
def test_only_the_positives_of_largest_loss_go(loss, marks, tenths):
    loss, (click, present) = np.array(loss), (np.array(x) for x in zip(*marks, strict=True))
    found = np.asarray(KEPT(jnp.asarray(loss, jnp.float32), click, present, rate=tenths / 10))
    positive = click & present
    dropped = present & ~found
    assert not (found & ~present).any()
    assert not (dropped & ~positive).any()
    assert dropped.sum() == min(tenths * present.sum() // 10, positive.sum())
    if dropped.any() and (found & positive).any():
        assert loss[dropped].min() >= loss[found & positive].max()


def test_a_negative_is_kept_however_large_its_loss():
    loss, click = jnp.array([99.0, 1.0, 2.0, 50.0]), jnp.array([False, True, True, False])
    assert KEPT(loss, click, jnp.ones(4, bool), rate=0.25).tolist() == [True, True, False, True]
    assert KEPT(loss, click, jnp.ones(4, bool), rate=0.9).tolist() == [True, False, False, True]


def test_rows_are_judged_on_their_own():
    loss = jnp.array([[1.0, 2.0], [4.0, 3.0]])
    both = jnp.ones((2, 2), bool)
    assert KEPT(loss, both, both, rate=0.5).tolist() == [[True, False], [False, True]]


def make_example():
    rng = np.random.default_rng(0)
    params = LinearEncoder(
        jnp.asarray(rng.normal(size=(D, D)), jnp.float32), jnp.asarray(rng.normal(size=D), jnp.float32)
    )
    click = rng.random((N, M)) < 0.6
    shown = rng.random((N, M)) < 0.9
    vectors, bias = rng.normal(size=(N, M, D)), rng.normal(size=(N, M))
    weight = (click & shown)[:, :, None]
    summary = (weight * vectors).sum(1) / (1 + weight.sum(1))
    arrays = [jnp.asarray(x, jnp.float32) for x in (vectors, bias)]
    evidence = Evidence(jnp.asarray(summary, jnp.float32), *arrays, jnp.asarray(click), jnp.asarray(shown))
    labels = rng.random((N, M)) < 0.5
    present = rng.random((N, M)) < 0.8
    batch = LabelledBatch(
        jnp.zeros((N, D)), evidence, *arrays, jnp.asarray(labels), jnp.asarray(present), jnp.float32(1)
    )
    state = summary @ np.asarray(params.kernel, np.float64) + np.asarray(params.bias)
    logit = np.einsum("nd,nmd->nm", state, vectors) + bias
    return params, batch, state, logit


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 0.0), (0.5, 0.15), (1.0, 0.3)])
def test_the_loss_is_the_mean_over_what_is_kept_and_its_rate_rises_with_progress(progress, rate):
    params, batch, _, logit = make_example()
    loss = make_tce_purifier(drop_rate=0.3).loss
    value, gradient = jax.jit(jax.value_and_grad(loss))(params, None, batch.replace(progress=jnp.float32(progress)))
    click, present = np.asarray(batch.click), np.asarray(batch.present)
    entropy = np.logaddexp(0, logit) - click * logit
    positives = sorted(entropy[click & present], reverse=True)
    gone = positives[: int(rate * present.sum() + 1e-9)]
    keep = present & ~(click & np.isin(entropy, gone))
    assert present.sum() - keep.sum() == len(gone) == int(rate * present.sum() + 1e-9)
    np.testing.assert_allclose(value, entropy[keep].mean(), rtol=1e-4)
    slope = keep * (special.expit(logit) - click) / keep.sum()
    expected = np.einsum("nm,nmd->d", slope, np.asarray(batch.vectors))
    np.testing.assert_allclose(gradient.bias, expected, rtol=1e-3, atol=1e-6)


def test_the_online_reading_drops_each_historys_least_believed_clicks():
    params, batch, state, logit = make_example()
    evidence = batch.condition
    purifier = make_tce_purifier(drop_rate=0.4, reading="online")
    found = jax.jit(purifier.purify)(params, None, batch.state, evidence)
    evidence = jax.device_get(evidence)
    expected = np.zeros((N, D))
    for n in range(N):
        shown = [m for m in range(M) if evidence.shown[n, m]]
        clicked = sorted((m for m in shown if evidence.click[n, m]), key=lambda m, n=n: logit[n, m])
        left = clicked[int(0.4 * len(shown) + 1e-9) :]
        pooled = np.asarray(evidence.vectors, np.float64)[n, left].sum(0) / (1 + len(left))
        expected[n] = pooled @ np.asarray(params.kernel, np.float64) + np.asarray(params.bias)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    plain = make_tce_purifier(drop_rate=0.4)
    observed = jax.jit(plain.purify)(params, None, batch.state, evidence)
    np.testing.assert_allclose(observed, state, rtol=1e-3, atol=1e-5)
