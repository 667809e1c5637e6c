"""`gaussian`, `mixture` and `conditional` against posteriors summed over a grid; what the network may add, and when not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsrm_jax.purify.closed_form import PriorParams, known, make_closed_form
from dsrm_jax.purify.conditional import ConditionalParams
from dsrm_jax.purify.denoiser import Denoiser
from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.exposure import silent_exposure
from dsrm_jax.purify.guidance import Whitening
from dsrm_jax.purify.kinds import make_purifier
from dsrm_jax.purify.mixture import Mixture, components_of, moments, prior_of
from dsrm_jax.purify.paths import aim, expected, paths_of
from dsrm_jax.purify.purifier import Learning
from dsrm_jax.purify.residual import KNOTS, Pairs, fit_gate, fit_spread, interpolation, learn, widened
from dsrm_jax.purify.schedule import at_time

D, H, N, HIDDEN = 2, 40, 10, 8
AS_THEY_ARE = jnp.ones((2, len(KNOTS)))
RNG = np.random.default_rng(0)
WEIGHT, MEAN = np.array([[0.3, 0.25, 0.45]]), np.array([[[1.2, 0.8], [-1.1, 0.9], [0.1, -1.3]]])
COVARIANCE = np.array([[[0.2, 0.05], [0.05, 0.15]]])
MIXTURE = Mixture(jnp.float32(np.log(WEIGHT)), jnp.float32(MEAN), jnp.float32(COVARIANCE))
FACTOR, CENTRE = np.array([[1.3, 0.0], [0.4, 0.7]]), np.array([0.5, -0.2])
SIDE = np.linspace(-4, 4, 201)
GRID = np.stack(np.meshgrid(SIDE, SIDE, indexing="ij"), axis=-1).reshape(-1, D)


def prior_params(mixture):
    whitening = Whitening(jnp.float32(CENTRE), jnp.float32(FACTOR), jnp.float32(np.linalg.inv(FACTOR)))
    return PriorParams(whitening, prior_of(mixture), silent_exposure(D), jnp.zeros(()))


PARAMS = prior_params(MIXTURE)
COUNTS = np.array([0, 1, 2, 3, 5, 8, 13, 20, 30, H])


@pytest.fixture(scope="module")
def evidence():
    states = MEAN[0][RNG.integers(3, size=N)] + RNG.multivariate_normal(np.zeros(D), COVARIANCE[0], size=N)
    vectors, bias = RNG.normal(size=(N, H, D)), RNG.normal(size=(N, H)) / 2
    logit = np.einsum("nhd,nd->nh", vectors, states @ FACTOR.T + CENTRE) + bias
    shown = np.arange(H) < COUNTS[:, None]
    click = shown & (RNG.uniform(size=(N, H)) < 1 / (1 + np.exp(-logit)))
    return Evidence(
        jnp.zeros((N, 3)),
        jnp.float32(vectors),
        jnp.float32(bias),
        *(jnp.asarray(x) for x in (click, shown, shown, shown)),
    )


def log_density(mixture, x):
    away = x[:, None, None, :] - np.asarray(mixture.mean, np.float64)
    own = np.linalg.inv(np.asarray(mixture.covariance, np.float64))
    square = np.einsum("ncjd,cde,ncje->ncj", away, own, away)
    terms = np.asarray(mixture.log_weight, np.float64) - square / 2 + np.linalg.slogdet(own)[1][:, None] / 2
    return np.logaddexp.reduce(terms.reshape(len(x), -1), axis=-1)


def exact(evidence, mixture):
    """Posterior means of the state, and log posteriors on the whitened grid, of the clicks themselves."""
    states = GRID @ FACTOR.T + CENTRE
    logit = np.einsum("nhd,gd->ngh", np.asarray(evidence.vectors, float), states)
    logit += np.asarray(evidence.bias, float)[:, None]
    signed = np.where(np.asarray(evidence.click)[:, None], logit, -logit)
    value = -np.sum(np.where(np.asarray(evidence.shown)[:, None], np.logaddexp(0, -signed), 0.0), axis=-1)
    value += log_density(mixture, GRID)
    share = np.exp(value - np.logaddexp.reduce(value, axis=-1, keepdims=True))
    return share @ states, share


def purified(purifier, params, evidence):
    return np.asarray(jax.jit(purifier.purify)(params, None, jnp.zeros((N, D)), evidence))


@pytest.mark.parametrize("gaussian", [True, False])
def test_the_closed_form_is_the_mean_of_a_grid_of_the_clicks_posterior(evidence, gaussian):
    """As near to it as two orders of the log-likelihood are; the mode, of a Gaussian prior, is farther."""
    mixture = Mixture(jnp.zeros((1, 1)), jnp.zeros((1, 1, D)), jnp.eye(D)[None]) if gaussian else MIXTURE
    expected, _ = exact(evidence, mixture)
    found = purified(make_closed_form(1.0, 1.0, components=3, classes=1), prior_params(mixture), evidence)
    assert np.std(expected) > 0.5
    np.testing.assert_allclose(found[0], expected[0], atol=2e-3)  # no event
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.06 * np.std(expected)


def test_few_items_shown_again_and_again_do_not_lead_astray():
    """As policies show them. A usual history's curvature sees too little in their directions, and steps by it overshoot."""
    rng = np.random.default_rng(3)
    vectors = np.tile(rng.normal(size=(N, 2, D)) * 1.5, (1, H // 2, 1))
    bias = np.zeros((N, H))
    states = MEAN[0][rng.integers(3, size=N)] + rng.multivariate_normal(np.zeros(D), COVARIANCE[0], size=N)
    logit = np.einsum("nhd,nd->nh", vectors, states @ FACTOR.T + CENTRE) + bias
    click, shown = rng.uniform(size=(N, H)) < 1 / (1 + np.exp(-logit)), np.ones((N, H), bool)
    events = (jnp.asarray(x) for x in (jnp.float32(vectors), jnp.float32(bias), click, shown, shown, ~shown))
    evidence = Evidence(jnp.zeros((N, 3)), *events)
    expected, _ = exact(evidence, MIXTURE)
    found = purified(make_closed_form(1.0, 1.0, components=3, classes=1), PARAMS, evidence)
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.2 * np.std(expected)


def network(key, scale):
    """A denoiser's variables whose last layer is not zero."""
    made = Denoiser(D, HIDDEN).init(key, jnp.zeros((1, 2 * D)), jnp.ones(1), jnp.zeros((1, 2 * D + 2)))
    noise = jax.random.normal(key, (HIDDEN, D))
    made["params"]["output_layer"]["kernel"] = scale * noise
    return made


def conditional(**settings):
    return make_purifier(kind="conditional", components=3, hidden=HIDDEN, **settings)


@pytest.mark.parametrize("settings", [{"diffusion_steps": s} for s in (1, 2, 20)] + [{"schedule": "linear"}])
def test_without_what_it_learnt_it_is_the_mixture_whatever_the_levels(evidence, settings):
    expected = purified(make_closed_form(1.0, 1.0, components=3, classes=1), PARAMS, evidence)
    silent = ConditionalParams(PARAMS, network(jax.random.key(0), 1.0), jnp.zeros(len(KNOTS)), AS_THEY_ARE)
    purifier = conditional(**settings)
    np.testing.assert_allclose(purified(purifier, silent, evidence), expected, atol=1e-6)
    speaking = dataclasses.replace(silent, gate=jnp.ones(len(KNOTS)))
    assert np.abs(purified(purifier, speaking, evidence) - expected).max() > 0.05


def test_the_denoiser_is_the_mean_given_history_and_noised_state(evidence):
    """Under the mixture to second order of the likelihood: a sum over a grid of prior, expansion and the shape of the noise."""
    told = known(PARAMS, evidence, scale=1.0, exposure_scale=1.0)
    paths = paths_of(PARAMS.prior, told, jnp.float32(COUNTS), jnp.zeros(N, jnp.int32))
    level, noised = at_time(jnp.float32(0.2)), jnp.float32(RNG.normal(size=(N, D)))
    found = expected(level, noised, aim(paths, level, noised))
    posterior = components_of(PARAMS.prior, told.posterior)
    signal, noise = float(level.signal), float(level.noise)
    for n in range(N):
        one = jax.tree.map(lambda x, n=n: x[n], posterior)
        away = np.asarray(noised[n], float) - signal * GRID
        value = log_density(one, GRID)
        value -= (
            np.einsum("gd,de,ge->g", away, np.linalg.inv(np.asarray(one.covariance[0], float)), away) / 2 / noise**2
        )
        share = np.exp(value - np.logaddexp.reduce(value))
        np.testing.assert_allclose(found[n], share @ GRID, atol=5e-3)


def test_draws_without_what_it_learnt_have_the_moments_of_the_mixture(evidence):
    silent = ConditionalParams(PARAMS, network(jax.random.key(0), 1.0), jnp.zeros(len(KNOTS)), AS_THEY_ARE)
    purifier = conditional(diffusion_steps=20)
    drawn = jax.jit(lambda key: purifier.sample(silent, key, jnp.zeros((N, D)), evidence, 1500))(jax.random.key(3))
    told = known(PARAMS, evidence, scale=1.0, exposure_scale=1.0)
    mean, covariance = moments(components_of(PARAMS.prior, told.posterior))
    np.testing.assert_allclose(np.mean(drawn, 0), PARAMS.whitening.invert(mean), atol=0.12)
    expected = FACTOR @ np.asarray(covariance) @ FACTOR.T
    found = np.stack([np.cov(np.asarray(drawn[:, n]).T) for n in range(N)])
    np.testing.assert_allclose(found, expected, atol=0.15)


def pairs(missed, count=20_000):
    """Pairs of which the closed form misses a function of its own mean, and noise of deviation 1."""
    centre = RNG.normal(size=(count, D))
    noise = RNG.normal(size=(count, D))
    return Pairs(
        clean=jnp.float32(centre + 0.5 * (missed(centre) + noise)),
        noised=jnp.zeros((count, D)),
        expected=jnp.float32(centre),
        aim=jnp.float32(centre),
        centre=jnp.float32(centre),
        scale=jnp.full(count, 0.5),
        context=jnp.float32(np.concatenate([centre, centre, np.zeros((count, 2))], axis=1)),
        time=jnp.ones(count),
        count=jnp.float32(2 ** RNG.uniform(0, 8, size=count)),
        kept_out=jnp.arange(count) % 5 == 4,
        away=jnp.float32(np.linalg.norm(noise, axis=1)),
        drawn_away=jnp.float32(np.linalg.norm(RNG.normal(size=(count, D)), axis=1)),
    )


@pytest.mark.parametrize("curved", [True, False])
def test_what_is_learnt_helps_where_the_truth_is_no_mixture_and_else_the_gate_is_shut(curved):
    given = pairs((lambda centre: 0.8 * np.sin(2 * centre)) if curved else np.zeros_like)
    denoiser = Denoiser(D, 32)
    start = denoiser.init(jax.random.key(0), jnp.zeros((1, 2 * D)), jnp.ones(1), jnp.zeros((1, 2 * D + 2)))
    how = Learning(iterations=600, batch_size=256, learning_rate=5e-3)

    @jax.jit
    def run(given):
        found, losses = learn(jax.random.key(1), denoiser, start, given, how)
        return losses, fit_gate(denoiser, found, given)

    losses, gate = run(given)
    if curved:
        assert np.mean(losses[-50:]) < np.mean(losses[:5]) - 0.2  # the sine's mean square is .3
        assert np.all(gate > 0.8)
    else:
        assert np.all(gate < 0.1)


def test_the_gate_is_linear_in_the_logs_of_numbers_of_events():
    count = np.array([0.0, 1.0, 2.0, 4.0, 40.0, 256.0, 5000.0])
    gate = RNG.uniform(size=len(KNOTS))
    expected = np.interp(np.log(np.maximum(count, 1)), np.log(KNOTS), gate)
    np.testing.assert_allclose(interpolation(jnp.float32(count)) @ jnp.float32(gate), expected, atol=1e-5)


def test_draws_are_spread_until_as_many_states_as_draws_lie_within_a_distance():
    """States whose deviations are Student-t of 3 degrees, more of them the more events there are, against normal draws."""
    given = pairs(np.zeros_like, count=40_000)
    tail = np.sqrt(3 / RNG.chisquare(3, size=given.count.shape))
    given = dataclasses.replace(given, away=jnp.where(given.count > 16, given.away * jnp.float32(tail), given.away))
    spread = np.asarray(jax.jit(fit_spread)(given))
    np.testing.assert_allclose(spread[:, :2], 1.0, atol=0.06)
    normal = np.sqrt(stats.chi2.ppf([0.5, 0.9], D))
    heavy = np.sqrt(D * stats.f.ppf([0.5, 0.9], D, 3))
    np.testing.assert_allclose(spread[:, -1], heavy / normal, rtol=0.06)
    few = jax.tree.map(lambda x: x[:20], given)
    np.testing.assert_array_equal(fit_spread(few), AS_THEY_ARE)


def test_the_distances_of_draws_are_multiplied_by_how_far_out_they_are():
    mean, drawn = RNG.normal(size=(2, D)), RNG.normal(size=(1001, 2, D))
    factors = np.array([[1.0, 1.0], [0.9, 1.5]])
    found = np.asarray(widened(jnp.float32(mean + drawn), jnp.float32(mean), jnp.float32(factors))) - mean
    np.testing.assert_allclose(found[:, 0], drawn[:, 0], atol=1e-5)
    before, after = np.linalg.norm(drawn[:, 1], axis=1), np.linalg.norm(found[:, 1], axis=1)
    for share, factor in ((0.25, 0.9), (0.5, 0.9), (0.7, 1.2), (0.9, 1.5), (0.99, 1.5)):
        assert np.quantile(after, share) == pytest.approx(factor * np.quantile(before, share), rel=0.01)
    np.testing.assert_allclose(found[:, 1] / after[:, None], drawn[:, 1] / before[:, None], atol=1e-5)
