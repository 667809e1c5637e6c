"""PPO's pieces against float64 NumPy, SciPy, scikit-learn, finite differences and exact expectations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from sklearn.metrics import explained_variance_score

from dsrm_jax.agents import ppo
from dsrm_jax.errors import InputError

CLIP = 0.2
clipped_surrogate = jax.jit(ppo.clipped_surrogate)
at_one_ratio = jax.jit(jax.value_and_grad(ppo.clipped_surrogate))
normalise = jax.jit(ppo.normalise)
explained_variance = jax.jit(ppo.explained_variance)


def surrogate_reference(log_prob, old, advantage):
    ratio = np.exp(np.asarray(log_prob, np.float64) - old)
    return np.minimum(ratio * advantage, np.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage)


def test_surrogate_and_its_gradient_equal_the_float64_form():
    rng = np.random.default_rng(0)
    log_prob, old, advantage = rng.normal(scale=[[0.3], [0.3], [1.0]], size=(3, 400)).astype(np.float32)
    np.testing.assert_allclose(
        clipped_surrogate(log_prob, old, advantage, CLIP), surrogate_reference(log_prob, old, advantage), rtol=2e-5
    )
    gradient = jax.jit(jax.grad(lambda x: ppo.clipped_surrogate(x, old, advantage, CLIP).sum()))(log_prob)
    step = 1e-6
    up, down = (surrogate_reference(log_prob.astype(np.float64) + s, old, advantage) for s in (step, -step))
    np.testing.assert_allclose(gradient, (up - down) / (2 * step), atol=1e-4)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (1.5, 2.0, 2.4, 0.0),  # past the clip, the way the advantage points: no reason to go further
        (1.5, -2.0, -3.0, -3.0),  # past it the wrong way: pulled back
        (0.5, -2.0, -1.6, 0.0),
        (0.5, 2.0, 1.0, 1.0),
        (1.1, 2.0, 2.2, 2.2),
    ],
)
def test_the_surrogate_is_flat_only_where_the_clip_binds(ratio, advantage, value, slope):
    result = at_one_ratio(np.log(np.float32(ratio)), np.float32(0.0), np.float32(advantage), CLIP)
    np.testing.assert_allclose(result, (value, slope), rtol=1e-6)


def test_value_loss_pulls_towards_the_target_by_the_error():
    values, target = np.array([[1.0, -2.0], [4.0, -2.5]], np.float32)
    loss, slope = jax.jit(jax.vmap(jax.value_and_grad(ppo.value_loss)))(values, target)
    np.testing.assert_allclose(loss, [4.5, 0.125])
    np.testing.assert_allclose(slope, [-3.0, 0.5])


def test_gaussian_density_and_entropy_equal_scipy():
    rng = np.random.default_rng(1)
    x, mean = rng.normal(size=(2, 7, 3)).astype(np.float32)
    log_std = np.array([-1.0, 0.2, 0.9], np.float32)
    reference = stats.norm(mean, np.exp(log_std.astype(np.float64)))
    log_prob, entropy = jax.jit(lambda *a: (ppo.gaussian_log_prob(*a), ppo.gaussian_entropy(a[2])))(x, mean, log_std)
    np.testing.assert_allclose(log_prob, reference.logpdf(x).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(entropy, reference.entropy()[0].sum(), rtol=1e-6)


def test_gaussian_samples_have_their_distribution():
    mean, log_std = np.tile(np.array([1.0, -3.0], np.float32), (20_000, 1)), np.array([0.5, -1.0], np.float32)
    sample = np.asarray(jax.jit(ppo.gaussian_sample)(jax.random.key(0), mean, log_std))
    for n in range(2):
        reference = stats.norm(float(mean[0, n]), float(np.exp(log_std[n])))
        assert stats.kstest(sample[:, n], reference.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(sample.T)[0, 1]) < 0.03


def categorical_expectation(estimate, logits, old_logits):
    """Exact mean of a per-sample estimate over actions drawn from the old categorical policy."""
    log_prob, old = jax.nn.log_softmax(logits), jax.nn.log_softmax(old_logits)
    return jnp.sum(jax.lax.stop_gradient(jnp.exp(old)) * estimate(log_prob, jax.lax.stop_gradient(old)))


@jax.jit
def sampled_and_exact_entropy(logits, old):
    """Value and gradient of both."""

    def entropy(z):
        return -jnp.sum(jax.nn.softmax(z) * jax.nn.log_softmax(z))

    estimate = jax.value_and_grad(lambda z: categorical_expectation(ppo.sampled_entropy, z, old))(logits)
    return estimate, jax.value_and_grad(entropy)(logits)


@pytest.mark.parametrize("moved", [0.0, 0.4])
def test_sampled_entropy_is_unbiased_in_value_and_gradient(moved):
    old = np.array([0.5, -1.0, 0.3, 1.5], np.float32)
    logits = old + np.float32(moved) * np.array([1.0, -2.0, 0.5, 0.0], np.float32)
    estimate, exact = sampled_and_exact_entropy(logits, old)
    np.testing.assert_allclose(estimate[0], exact[0], rtol=1e-6)
    np.testing.assert_allclose(estimate[1], exact[1], atol=1e-6)


def test_approx_kl_is_never_negative_and_unbiased():
    old, logits = np.array([[0.5, -1.0, 0.3, 1.5], [0.0, -0.5, 1.3, 1.0]], np.float32)
    per_sample = jax.vmap(ppo.approx_kl)

    @jax.jit
    def estimates(logits, old):
        log_prob, same = jax.nn.log_softmax(logits), jax.nn.log_softmax(old)
        mean = categorical_expectation(per_sample, logits, old)
        return per_sample(log_prob, same), mean, ppo.approx_kl(same, same)

    each, mean, of_the_same = jax.device_get(estimates(logits, old))
    assert (each >= 0).all()
    p, q = (special.softmax(x.astype(np.float64)) for x in (old, logits))
    np.testing.assert_allclose(mean, stats.entropy(p, q), rtol=1e-5)
    assert of_the_same == 0


def test_normalise_counts_only_what_the_mask_lets_through():
    rng = np.random.default_rng(2)
    advantage = rng.normal(3.0, 2.0, size=(6, 5)).astype(np.float32)
    np.testing.assert_allclose(normalise(advantage), stats.zscore(advantage.astype(np.float64), axis=None), atol=1e-5)
    mask = rng.random((6, 5)) < 0.6
    spoilt = np.where(mask, advantage, 1e6)
    result = np.asarray(normalise(spoilt, mask))
    np.testing.assert_allclose(result[mask], stats.zscore(advantage[mask].astype(np.float64)), atol=1e-5)
    np.testing.assert_array_equal(result[~mask], 0.0)
    np.testing.assert_array_equal(normalise(np.full(4, 7.0, np.float32)), 0.0)
    np.testing.assert_array_equal(normalise(advantage, np.zeros_like(mask)), 0.0)


def test_minibatches_deal_out_each_sample_once_and_differ_by_key():
    deal = jax.jit(ppo.minibatch_indices, static_argnums=(1, 2))
    first = np.asarray(deal(jax.random.key(0), 12, 3))
    assert first.shape == (3, 4)
    np.testing.assert_array_equal(np.sort(first, axis=None), np.arange(12))
    assert (first != np.asarray(deal(jax.random.key(1), 12, 3))).any()
    with pytest.raises(InputError, match="minibatches is 5"):
        ppo.minibatch_indices(jax.random.key(0), 12, 5)


def test_explained_variance_equals_scikit_learn():
    rng = np.random.default_rng(4)
    target = rng.normal(size=50).astype(np.float32)
    values = (0.7 * target + 0.2 * rng.normal(size=50) + 5.0).astype(np.float32)
    assert explained_variance(values, target) == pytest.approx(explained_variance_score(target, values), abs=1e-5)
    assert explained_variance(values, np.full(50, 2.0, np.float32)) == 0
