"""`gaussian` and `mixture`: the posterior mean of the state under a prior learnt from the log's users, without a network.

The prior is a mixture of Gaussians fitted by EM to the clicks of training users (`fit_mixture`), or one Gaussian. A history's
log-likelihood, of its clicks given what was shown and of what the log showed (`guidance`), is expanded to second order about the
posterior so far; under that the posterior is a mixture in closed form (`mixture`), and its mean is the purified state.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from dsrm_jax.purify.arrays import Scalar, States
from dsrm_jax.purify.encoder import Evidence, gather_evidence
from dsrm_jax.purify.exposure import Exposure, silent_exposure
from dsrm_jax.purify.fit_mixture import FittedPrior, fit_mixture, layouts, padded, rows_of_users
from dsrm_jax.purify.guidance import Likelihood, Quadratic, Whitening, fit_whitening, likelihood_of, quadratic
from dsrm_jax.purify.mixture import Mixture, draw, inverse, mean_of, mixture_posterior, moments, standard_normal
from dsrm_jax.purify.purifier import Learning, LogOfUsers, Purifier, PurifierBatch
from dsrm_jax.types import PyTree

CLASSES = (
    2  # covariances that components share: one cannot have heavy tails, four are no better on any truth of the ruler
)
EXPANSIONS = 3  # of a history's log-likelihood; after five nothing moves any more
# of the prior's fit: a prior is a product of the log, as the encoder is, and the same for all seeds
PRIOR_KEY = 17


@struct.dataclass
class PriorParams:
    """A prior over states, and what the log's choices tell."""

    whitening: Whitening
    prior: Mixture  # in its coordinates
    exposure: Exposure


@struct.dataclass
class Known:
    """What is known of a user by their history: arrays with the history's leading dimensions, in whitened coordinates."""

    posterior: Mixture
    gaussian: States  # the posterior mean under N(0, I), to first expansion
    users: Quadratic  # the history's log-likelihood about the posterior


def make_closed_form(
    guidance_scale: Scalar, exposure_scale: Scalar, *, components: int, classes: int = CLASSES
) -> Purifier:
    """Build it: at most `components` of each class are fitted, and the scales are fields of `PurifierConfig`."""

    def know(params: PriorParams, evidence: Evidence) -> Known:
        return known(params, evidence, scale=guidance_scale, exposure_scale=exposure_scale)

    def purify(params: PriorParams, key: PyTree, state: States, evidence: Evidence) -> States:
        return params.whitening.invert(mean_of(know(params, evidence).posterior))

    def sample(params: PriorParams, key: Key[Array, ""], state: States, evidence: Evidence, number: int) -> Array:
        posterior = know(params, evidence).posterior
        drawn = jax.lax.map(lambda key: draw(key, posterior), jax.random.split(key, number))
        return params.whitening.invert(drawn)

    def fit(key: PyTree, log: LogOfUsers, initial: PyTree) -> tuple[PriorParams, Float[Array, "1"]]:
        fitted = fit_prior(log, components=components, classes=classes)
        return PriorParams(fitted.whitening, fitted.mixture, log.posterior.exposure), jnp.zeros(1)

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
    prior = padded(standard_normal(dim), *layouts(components, classes)[-1])
    return PriorParams(fit_whitening(batch.target), prior, silent_exposure(dim))


def fit_prior(log: LogOfUsers, *, components: int, classes: int) -> FittedPrior:
    """Fit a mixture to the users of a log."""
    return fit_mixture(jax.random.key(PRIOR_KEY), likelihoods_of_users(log)[1], components=components, classes=classes)


def likelihoods_of_users(log: LogOfUsers) -> tuple[Array, Likelihood]:
    """Return some of a log's users, and the likelihoods of their rows: `(users (U,), likelihoods (U, ...))`."""
    starts = log.windows.starts
    user, history = rows_of_users(starts)
    unlogged = 0 if starts.logged is None else jnp.where(starts.logged[user], 0, history.length)
    evidence = gather_evidence(log.embeddings, history, unlogged=unlogged)
    whitening = fit_whitening(log.posterior.mode)
    return user, likelihood_of(evidence, whitening, log.posterior.exposure, scale=1.0, exposure_scale=1.0)


def known(params: PriorParams, evidence: Evidence, *, scale: Scalar, exposure_scale: Scalar) -> Known:
    """Return what histories make of the prior; the scales are as `likelihood_of` takes them."""
    likelihood = likelihood_of(evidence, params.whitening, params.exposure, scale=scale, exposure_scale=exposure_scale)
    one = jnp.eye(params.whitening.mean.shape[-1])
    nowhere = jnp.zeros_like(likelihood.chosen)
    history = quadratic(likelihood, nowhere, one)
    covariance, _ = inverse(history.precision + one)
    gaussian = mean = jnp.einsum("...de,...e->...d", covariance, history.linear)
    for _ in range(EXPANSIONS - 2):
        history = quadratic(likelihood, mean, covariance)
        mean, covariance = moments(mixture_posterior(params.prior, history)[0])
    history = quadratic(likelihood, mean, covariance)
    return Known(mixture_posterior(params.prior, history)[0], gaussian, history)
