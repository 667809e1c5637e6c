"""`gaussian` and `mixture`: the posterior mean of the state under a prior learnt from the log's users, without a network.

The prior is a mixture of Gaussians fitted by EM to the clicks of training users (`fit_mixture`), or one Gaussian, and is as much
wider as item vectors may be off (`item_slack`). A history's log-likelihood, of its clicks given what was shown and of what the
log showed (`guidance`), is expanded to second order about the posterior so far; under that the posterior is a mixture in closed
form (`mixture`), and its mean is the purified state.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from dsrm_jax.purify.arrays import Scalar, States
from dsrm_jax.purify.encoder import Evidence, gather_evidence
from dsrm_jax.purify.exposure import Exposure, silent_exposure
from dsrm_jax.purify.fit_mixture import FittedPrior, fit_mixture, rows_of_users
from dsrm_jax.purify.guidance import (
    Likelihood,
    Whitening,
    fit_whitening,
    likelihood_of,
    mean_click,
    mean_gradient,
    own_variance,
    quadratic,
)
from dsrm_jax.purify.leverage import item_variance
from dsrm_jax.purify.mixture import (
    Mixture,
    Posterior,
    Prior,
    components_of,
    draw,
    inverse,
    posterior_mean,
    posterior_of,
    prior_of,
    standard_normal,
)
from dsrm_jax.purify.purifier import Learning, LogOfUsers, Purifier, PurifierBatch
from dsrm_jax.purify.settings import PurifierConfig
from dsrm_jax.types import PyTree

CLASSES = (
    2  # covariances that components share: one cannot have heavy tails, four are no better on any truth of the ruler
)
# steps to the top of a line before a history is expanded; with one, sessions' states are .02 off, with two .01
LINES = 2
# of the prior's fit: a prior is a product of the log, as the encoder is, and the same for all seeds
PRIOR_KEY = 17


@struct.dataclass
class PriorParams:
    """A prior over states, and what the log's choices tell."""

    whitening: Whitening
    prior: Prior  # in its coordinates
    exposure: Exposure
    slack: Float[Array, ""]  # variance of each of the state's own coordinates that the prior has beyond its users


def params_of(fitted: FittedPrior, exposure: Exposure, slack: Scalar) -> PriorParams:
    """Return what inference needs of a fitted prior, which is widened by the slack."""
    prior = prior_of(with_slack(fitted.mixture, fitted.whitening, slack))
    return PriorParams(fitted.whitening, prior, exposure, jnp.asarray(slack, jnp.float32))


@struct.dataclass
class Known:
    """What is known of users by their histories, in whitened coordinates."""

    posterior: Posterior
    gaussian: States  # where the state was put under N(0, I)


def make_closed_form(
    guidance_scale: Scalar,
    exposure_scale: Scalar,
    *,
    components: int,
    classes: int = CLASSES,
    slack: Scalar = PurifierConfig.slack,
) -> Purifier:
    """Build it: at most `components` of each class are fitted, and the scales and the slack are fields of `PurifierConfig`."""

    def know(params: PriorParams, evidence: Evidence) -> Posterior:
        return known(params, evidence, scale=guidance_scale, exposure_scale=exposure_scale).posterior

    def purify(params: PriorParams, key: PyTree, state: States, evidence: Evidence) -> States:
        return params.whitening.invert(posterior_mean(params.prior, know(params, evidence)))

    def sample(params: PriorParams, key: Key[Array, ""], state: States, evidence: Evidence, number: int) -> Array:
        posterior = components_of(params.prior, know(params, evidence))
        drawn = jax.lax.map(lambda key: draw(key, posterior), jax.random.split(key, number))
        return params.whitening.invert(drawn)

    def fit(key: PyTree, log: LogOfUsers) -> tuple[PriorParams, Float[Array, "1"]]:
        fitted = fit_prior(log, components=components, classes=classes)
        return params_of(fitted, log.posterior.exposure, slack * item_slack(log)), jnp.zeros(1)

    return Purifier(
        init=lambda key, batch: init_prior(batch, components=components, classes=classes),
        loss=lambda params, key, batch: jnp.float32(0.0),
        purify=purify,
        learning=Learning(iterations=1),
        inform=lambda params, exposure: replace(params, exposure=exposure),
        fit=fit,
        sample=sample,
    )


def init_prior(batch: PurifierBatch, *, components: int, classes: int) -> PriorParams:
    """Return one Gaussian of the batch's targets, in arrays for the largest mixture that may be fitted."""
    dim = batch.target.shape[-1]
    prior = prior_of(standard_normal(dim, classes=classes, components=components))
    whitening, exposure = fit_whitening(batch.target), silent_exposure(dim)
    return PriorParams(whitening, prior, exposure, jnp.zeros(()))


def fit_prior(log: LogOfUsers, *, components: int, classes: int) -> FittedPrior:
    """Fit a mixture to the users of a log."""
    return fit_mixture(jax.random.key(PRIOR_KEY), likelihoods_of_users(log)[1], components=components, classes=classes)


def item_slack(log: LogOfUsers) -> Float[Array, ""]:
    """Return the variance in each coordinate of a state that moves an item's click logit as far as its vector may be off.

    Items learnt from few rows have an appeal of which their vectors say nothing. A session shows few items again and again, and
    what it tells of them is that appeal: a state that may leave the prior can take it in. The log's users cannot ask for it, for
    the vectors were fitted to them. Mean over the items that the log shows, each once: what a policy picks out of the catalogue
    are those that the log overrates, and these have few rows.
    """
    variance, rows = item_variance(log.embeddings, log.windows.starts, log.posterior.mode)
    shown = rows > 0
    square = jnp.sum(jnp.square(log.embeddings.vectors), axis=-1)
    return jnp.sum(jnp.where(shown, variance, 0.0)) / jnp.maximum(jnp.sum(jnp.where(shown, square, 0.0)), 1e-6)


def with_slack(mixture: Mixture, whitening: Whitening, slack: Scalar) -> Mixture:
    """Return a whitened mixture of states that are off by N(0, slack I), in their own coordinates, on top of it."""
    wider = mixture.covariance + slack * (whitening.inverse @ whitening.inverse.T)
    return replace(mixture, covariance=wider)


def likelihoods_of_users(log: LogOfUsers, exposure_scale: Scalar = 0.0) -> tuple[Array, Likelihood]:
    """Return some of a log's users, and the likelihoods of their rows: `(users (U,), likelihoods (U, ...))`.

    A prior is fitted to their clicks alone. What the log showed depends on tastes in more ways than the line of `exposure`, by
    topic above all, and components would be spent on those. With it a mixture of the kuairand world, whose tastes are Gaussian,
    has many components and earns less in sessions than one Gaussian; without it it is one.
    """
    starts = log.windows.starts
    user, history = rows_of_users(starts)
    unlogged = 0 if starts.logged is None else jnp.where(starts.logged[user], 0, history.length)
    evidence = gather_evidence(log.embeddings, history, unlogged=unlogged)
    whitening = fit_whitening(log.posterior.mode)
    return user, likelihood_of(evidence, whitening, log.posterior.exposure, scale=1.0, exposure_scale=exposure_scale)


def known(params: PriorParams, evidence: Evidence, *, scale: Scalar, exposure_scale: Scalar) -> Known:
    """Return what histories make of the prior; the scales are as `likelihood_of` takes them.

    The log-likelihood is expanded about where steps of ascent under N(0, I) put the state: each but the last goes to the top of
    its line, for `LINES` of them. What turns a slope into a step is the curvature of the history's own events, averaged over the
    prior. That of a usual history will not do: a policy shows few items again and again, and steps that are right for the log's
    histories leave a session's user far from any state that fits. Expanded about the posterior under the mixture it would be no
    better: that is narrow, also where it is wrong.
    """
    likelihood = likelihood_of(evidence, params.whitening, params.exposure, scale=scale, exposure_scale=exposure_scale)
    size = likelihood.chosen.shape[-1]
    covariance, _ = inverse(likelihood.curvature + jnp.eye(size))
    after = own_variance(params.whitening, covariance)  # once the history is read
    mean = jnp.zeros_like(likelihood.chosen)
    slope = mean_gradient(likelihood, mean, likelihood.chance)
    for _ in range(LINES):
        step = jnp.einsum("...de,...e->...d", covariance, slope)
        there = mean + step
        further = mean_gradient(likelihood, there, mean_click(likelihood, there, after)[0]) - there
        rise, left = (jnp.sum(step * x, axis=-1, keepdims=True) for x in (slope, further))
        length = rise / jnp.maximum(rise - left, 1e-6 + 0.5 * rise)  # at most twice the step
        mean, slope = mean + length * step, slope + length * (further - slope)
    mean += jnp.einsum("...de,...e->...d", covariance, slope)
    return Known(posterior_of(params.prior, quadratic(likelihood, mean, after)), mean)
