from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents.agent import LoggedData, Transition
from dsrm_jax.agents.world_model import WorldModel, fit_world_models, gaussian_nll, predict_clicks
from dsrm_jax.purify.view import Catalogue, View

STATES, ITEMS, ROWS, SLATE = 4, 6, 4000, 3
EVERY_ITEM = np.tile(np.arange(ITEMS, dtype=np.int32), (STATES, 1))
SETTINGS = {"members": 3, "negatives": 0, "iterations": 400, "batch_size": 256, "learning_rate": 1e-2}


def make_logged(probability, items=ITEMS):
    """Clicks of four states on items drawn uniformly from the first `items`."""
    rng = np.random.default_rng(0)
    kind = rng.integers(STATES, size=ROWS)
    slate = rng.integers(items, size=(ROWS, SLATE))
    clicks = rng.random(slate.shape) < probability[kind[:, None], slate]
    view = View(jnp.eye(STATES)[kind], jnp.eye(STATES)[kind], jnp.zeros(ROWS, jnp.int32))
    blank = jnp.zeros(ROWS)
    steps = Transition(view, jnp.asarray(slate), (), jnp.asarray(clicks), blank, blank, blank > 0, view)
    return LoggedData(steps, jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))


@pytest.fixture(scope="module")
def catalogue():
    """Vectors that say nothing of who likes what."""
    zeros = jnp.zeros(ITEMS)
    return Catalogue(jnp.zeros((ITEMS, STATES)), zeros, zeros, zeros > 0)


@pytest.fixture(scope="module")
def probability():
    return np.random.default_rng(1).uniform(0.05, 0.95, size=(STATES, ITEMS))


def everything(params, catalogue):
    found = jax.jit(predict_clicks)(params, np.eye(STATES, dtype=np.float32), EVERY_ITEM, catalogue)
    return np.asarray(found[0]), np.asarray(found[1])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_models_learn_each_pairs_mean_and_variance(catalogue, probability):
    logged = make_logged(probability)
    params, losses = jax.jit(partial(fit_world_models, **SETTINGS))(jax.random.key(0), logged, catalogue)
    expected, uncertainty = everything(params, catalogue)
    np.testing.assert_allclose(expected, probability, atol=0.1)
    np.testing.assert_allclose(uncertainty, probability * (1 - probability), atol=0.08)
    variance = probability * (1 - probability)
    assert np.asarray(losses)[-40:].mean() == pytest.approx((1 + np.log(variance)).mean(), abs=0.1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_negatives_pull_down_what_the_log_never_shows(catalogue, probability):
    """Of a pair that is shown as often as it is drawn, half of the evidence is a skip; of one never shown, all."""
    logged = make_logged(np.full((STATES, ITEMS), 0.8), items=3)
    fit = partial(fit_world_models, **SETTINGS | {"negatives": 2})
    params, _ = jax.jit(fit)(jax.random.key(0), logged, catalogue)
    expected, _ = everything(params, catalogue)
    shown, drawn = 1 / 3, 2 / 6
    np.testing.assert_allclose(expected[:, :3], 0.8 * shown / (shown + drawn), atol=0.08)
    assert np.all(expected[:, 3:] < 0.03)


def test_members_differ_and_are_pooled_by_mean_and_maximum(catalogue, probability):
    logged = make_logged(probability)
    fit = partial(fit_world_models, **SETTINGS | {"iterations": 3})
    params, _ = jax.jit(fit)(jax.random.key(0), logged, catalogue)
    params, states = jax.device_get(params), np.eye(STATES, dtype=np.float32)
    member = jax.jit(lambda params: WorldModel().apply(params, states, EVERY_ITEM, catalogue))
    members = [member(jax.tree.map(lambda x, m=m: x[m], params)) for m in range(SETTINGS["members"])]
    means, logs = (np.stack(part) for part in zip(*members, strict=True))
    assert np.all(means.std(0) > 0)
    expected, uncertainty = everything(params, catalogue)
    np.testing.assert_allclose(expected, means.mean(0), rtol=1e-5)
    np.testing.assert_allclose(uncertainty, np.exp(logs).max(0), rtol=1e-5)


def test_the_likelihood_is_the_gaussians():
    from scipy.stats import norm

    y, mean, log_variance = np.random.default_rng(2).normal(size=(3, 50))
    expected = -2 * norm.logpdf(y, mean, np.exp(log_variance / 2)) - np.log(2 * np.pi)
    np.testing.assert_allclose(gaussian_nll(y, mean, log_variance), expected, rtol=1e-5, atol=1e-5)
