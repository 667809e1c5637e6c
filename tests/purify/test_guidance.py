"""The guidance, against posteriors known in closed form or by float64 optimisation."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from dsrm_jax.config import PurifierConfig
from dsrm_jax.purify import process
from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.exposure import Exposure, silent_exposure
from dsrm_jax.purify.guidance import exposure_quadratic, fit_whitening, guided_mean, likelihood_of, quadratic
from dsrm_jax.purify.kinds import make_purifier
from dsrm_jax.purify.process import EXPANSIONS, expansion_levels
from dsrm_jax.purify.purifier import PurifierBatch

D, H, N = 4, 30, 12
GUIDED = PurifierConfig(kind="guided", diffusion_steps=20, hidden=8)
GENERATOR = np.random.default_rng(0)
MIXING = GENERATOR.normal(size=(D, D)) / 2 + np.eye(D)
CENTRE = GENERATOR.normal(size=D) / 3
STATES = GENERATOR.normal(size=(4000, D)) @ MIXING.T + CENTRE


@pytest.fixture(scope="module")
def evidence():
    """Histories of 0 to 30 events whose clicks follow each user's state."""
    vectors = 0.8 * GENERATOR.normal(size=(N, H, D))
    bias = GENERATOR.normal(size=(N, H))
    logit = np.einsum("nhd,nd->nh", vectors, STATES[:N]) + bias
    click = GENERATOR.uniform(size=(N, H)) < 1 / (1 + np.exp(-logit))
    shown = np.arange(H) >= H - np.linspace(0, H, N).astype(int)[:, None]
    return Evidence(
        summary=jnp.zeros((N, 3)),
        vectors=jnp.float32(vectors),
        bias=jnp.float32(bias),
        click=jnp.asarray(click & shown),
        shown=jnp.asarray(shown),
        logged=jnp.asarray(shown & (np.arange(H) < H - 6)),
    )


@pytest.fixture(scope="module")
def params(evidence):
    """A fresh network predicts v = 0, which in whitened coordinates is the Gaussian prior."""
    batch = PurifierBatch(jnp.float32(STATES), Evidence(summary=jnp.zeros((4000, 3))), jnp.float32(STATES))
    return make_purifier(**vars(GUIDED)).init(jax.random.key(0), batch)


def purify(config, params, evidence):
    purifier = make_purifier(**vars(config))
    return np.asarray(jax.jit(purifier.purify)(params, None, jnp.zeros((N, D)), evidence))


def posterior_mode(evidence, exposure=None, scale=1.0):
    """Float64 minimum of the negative log-posterior under N(mean, covariance) of the states, user by user.

    `exposure`: `(slope (D, F), covariance (F, F))` of the vectors of items that the log chose.
    """
    mean, precision = STATES.mean(0), np.linalg.inv(np.cov(STATES.T, bias=True))
    e = jax.tree.map(lambda x: np.asarray(x, np.float64), evidence)

    def objective(s, n):
        logit = e.vectors[n] @ s + e.bias[n]
        likelihood = e.shown[n] * (np.logaddexp(0, logit) - e.click[n] * logit)
        found = scale * likelihood.sum() + (s - mean) @ precision @ (s - mean) / 2
        if exposure is not None:
            away = e.vectors[n][:, :-1] - (s - CENTRE) @ exposure[0]
            found += (e.logged[n] * np.einsum("hf,fg,hg->h", away, np.linalg.inv(exposure[1]), away)).sum() / 2
        return found

    return np.stack([minimize(objective, mean, args=(n,), tol=1e-9).x for n in range(N)])


@pytest.mark.parametrize(("sampler", "visited", "newton"), [("ddpm", 0, 1), ("ddim", 0, 1), ("ddim", 6, 2)])
def test_scan_under_a_gaussian_prior_ends_in_the_posterior_mode(params, evidence, sampler, visited, newton):
    config = dataclasses.replace(GUIDED, sampler=sampler, sampling_steps=visited, guidance_steps=newton)
    expected = posterior_mode(evidence)
    spread = np.std(expected)
    assert spread > 0.5
    assert np.abs(purify(config, params, evidence) - expected).max() < 0.06 * spread


def test_what_the_log_showed_is_read_and_what_our_policy_showed_is_not(params, evidence):
    """The last six events are our own: their clicks count, their being shown does not."""
    slope, covariance = 0.3 * GENERATOR.normal(size=(D, D - 1)), np.diag([0.8, 1.0, 1.2])
    inverse = np.linalg.inv(covariance)
    told = Exposure(
        jnp.float32(CENTRE),
        jnp.zeros(D),
        jnp.float32(np.pad(inverse @ slope.T, ((0, 1), (0, 0)))),
        jnp.float32(slope @ inverse @ slope.T),
        jnp.zeros(()),
    )
    silent, expected = posterior_mode(evidence), posterior_mode(evidence, (slope, covariance))
    spread = np.std(expected)
    assert np.abs(silent - expected).max() > 0.3 * spread
    read = dataclasses.replace(params, exposure=told)
    assert np.abs(purify(GUIDED, read, evidence) - expected).max() < 0.06 * spread
    # events that resemble each other wholly tell as much as one of them
    alike = dataclasses.replace(told, correlation=jnp.ones(()))
    logged = np.sum(np.asarray(evidence.logged), axis=-1)
    of_one = purify(GUIDED, dataclasses.replace(params, exposure=alike), evidence)
    most = logged.max()
    shared = purify(dataclasses.replace(GUIDED, exposure_scale=1.0 / most), read, evidence)
    rows = logged == most
    np.testing.assert_allclose(of_one[rows], shared[rows], atol=1e-5)
    unread = purify(dataclasses.replace(GUIDED, exposure_scale=0.0), read, evidence)
    assert np.abs(unread - silent).max() < 0.06 * spread


def test_what_the_log_showed_adds_the_same_quadratic_wherever_clicks_are_expanded(evidence):
    rng = np.random.default_rng(3)
    root = rng.normal(size=(D, D))
    gain, centre, mean = rng.normal(size=(D, D)), rng.normal(size=D), rng.normal(size=D)
    exposure = Exposure(*(jnp.float32(x) for x in (centre, mean, gain, root @ root.T, 0.05)))
    whitening = fit_whitening(jnp.float32(STATES))
    read, unread = (likelihood_of(evidence, whitening, exposure, scale=1.0, exposure_scale=x) for x in (1.0, 0.0))
    own = exposure_quadratic(read)
    for seed in range(3):
        at, variance = jax.random.normal(jax.random.key(seed), (2, N, D))
        whole, clicks = (quadratic(x, at, variance**2) for x in (read, unread))
        np.testing.assert_allclose(whole.precision - clicks.precision, own.precision, rtol=1e-3, atol=2e-3)
        np.testing.assert_allclose(whole.linear - clicks.linear, own.linear, rtol=1e-3, atol=1e-2)


def test_a_hundred_levels_that_expand_the_likelihood_ten_times_end_there_too(params, evidence):
    config = dataclasses.replace(GUIDED, diffusion_steps=100)
    expected = posterior_mode(evidence)
    assert np.abs(purify(config, params, evidence) - expected).max() < 0.06 * np.std(expected)


def test_a_start_between_two_expansions_expands_at_once(params, evidence, monkeypatch):
    """Level 35 of 100 is none of the ten; without an expansion of its own the first guesses would know of no event."""
    config = dataclasses.replace(GUIDED, diffusion_steps=100, start_fraction=0.35)
    assert not expansion_levels(100)[30:35].any()
    few = purify(config, params, evidence)
    monkeypatch.setattr(process, "EXPANSIONS", 100)
    every = purify(config, params, evidence)
    assert np.abs(few - every).max() < 0.08 * np.std(every)


@settings(max_examples=100, deadline=None)
@given(num_levels=st.integers(1, 600))
def test_expansions_are_evenly_spread_and_begin_at_the_highest_level(num_levels):
    levels = expansion_levels(num_levels)
    assert levels[-1]
    assert levels.sum() == min(EXPANSIONS, num_levels)
    gaps = np.diff(np.flatnonzero(np.append(levels, False)))
    assert gaps.max(initial=1) - gaps.min(initial=num_levels) <= 1


def test_without_events_or_at_scale_zero_it_is_the_prior_mean(params, evidence):
    purified = purify(GUIDED, params, evidence)
    np.testing.assert_allclose(purified[0], STATES.mean(0), atol=1e-3)  # the first history is empty
    unguided = purify(dataclasses.replace(GUIDED, guidance_scale=0.0), params, evidence)
    np.testing.assert_allclose(unguided, np.tile(STATES.mean(0), (N, 1)), atol=1e-3)


def test_hidden_events_leave_no_trace(params, evidence):
    hidden = ~evidence.shown[..., None]
    garbage = dataclasses.replace(evidence, vectors=jnp.where(hidden, 7.0, evidence.vectors))
    np.testing.assert_array_equal(purify(GUIDED, params, garbage), purify(GUIDED, params, evidence))


def test_linear_gaussian_likelihood_in_closed_form():
    """Near zero a Bernoulli likelihood is Gaussian: y - 1/2 observed with precision 1/4 per event, D x D normal equations."""
    generator = np.random.default_rng(1)
    vectors, mean = 1e-3 * generator.normal(size=(H, D)), 1e-3 * generator.normal(size=D)
    click = generator.uniform(size=H) < 0.5
    events = Evidence(
        summary=jnp.zeros(1),
        vectors=jnp.float32(vectors),
        bias=jnp.zeros(H),
        click=jnp.asarray(click),
        shown=jnp.ones(H, bool),
        logged=jnp.ones(H, bool),
    )
    whitening = fit_whitening(jnp.float32(generator.normal(size=(50, D))))
    design = vectors @ np.asarray(whitening.factor, np.float64)
    scale, variance = 1e4, 0.3
    offset = vectors @ np.asarray(whitening.mean, np.float64)
    precision = scale / 4 * design.T @ design + np.eye(D) / variance
    right = scale * design.T @ (click - 0.5 - offset / 4) + mean / variance
    expected = np.linalg.solve(precision, right)
    silent = silent_exposure(D)
    likelihood = likelihood_of(events, whitening, silent, scale=scale, exposure_scale=1.0)
    step = jax.jit(partial(guided_mean, iterations=8))
    got = step(likelihood, jnp.float32(mean), jnp.float32(variance), jnp.zeros(D))
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-4 * np.abs(expected).max())


def test_whitened_states_have_the_identity_covariance_and_come_back():
    states = jnp.float32(STATES)
    whitening = fit_whitening(states)
    white = np.asarray(whitening.apply(states))
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(D), atol=1e-3)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(whitening.invert(white), states, atol=1e-5)


def test_popular_clicks_move_the_estimate_less_than_niche_ones(params):
    """P7: of two identical items the one that everybody clicks anyway says less by its click, and more by its skip."""

    def moved(bias, click):
        events = Evidence(
            summary=jnp.zeros((N, 3)),
            vectors=jnp.ones((N, 1, D)),
            bias=jnp.full((N, 1), bias),
            click=jnp.full((N, 1), click),
            shown=jnp.ones((N, 1), bool),
            logged=jnp.ones((N, 1), bool),
        )
        return np.linalg.norm(purify(GUIDED, params, events)[0] - STATES.mean(0))

    assert moved(3.0, True) < 0.3 * moved(-1.0, True)
    assert moved(3.0, False) > moved(-1.0, False)
