"""Guidance: the likelihood of a user's history inside the reverse scan.

A diffusion prior says what preferences are like; the events of a history say which of them this user may have. The two meet at
every level: where the prior alone expects s^(0) to be `mean` with variance 1 - alpha_bar_k, the guided estimate is the mode of
that Gaussian times the likelihood of the history. That is a Bernoulli one of what was clicked given what was shown, which reads
slates of any policy alike: an item's appeal and popularity stand in its bias, so a click on what everybody clicks moves the
estimate little, and a skip counts as much as it tells. And it is a Gaussian one of what the LOG showed (`exposure`), estimated on
that log.

Coordinates are whitened ones, in which preferences have mean 0 and covariance I. A denoiser that predicts v = 0 there is exactly
the Gaussian prior; what it learns is how preferences differ from a Gaussian.

Shapes: H events, D state dimensions.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from dsrm_jax.purify.arrays import Scalar, States
from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.exposure import Exposure, independent_share, read_exposure

CONJUGATE_STEPS = 3


@struct.dataclass
class Whitening:
    """An affine map to coordinates with mean 0 and covariance I, fixed at `init`."""

    mean: Float[Array, "D"]
    factor: Float[Array, "D D"]  # lower Cholesky factor L of the covariance
    inverse: Float[Array, "D D"]  # its inverse

    def apply(self, x: States) -> States:
        """Return x in whitened coordinates."""
        return (x - self.mean) @ self.inverse.T

    def invert(self, x: States) -> States:
        """Undo `apply`."""
        return x @ self.factor.T + self.mean


def fit_whitening(x: Float[Array, "N D"]) -> Whitening:
    """Return the whitening of rows; the covariance gets a ridge of 1e-4 of its mean variance, which keeps it regular."""
    mean = jnp.mean(x, axis=0)
    centred = x - mean
    covariance = centred.T @ centred / x.shape[0]
    ridge = 1e-4 * jnp.trace(covariance) / x.shape[1] + 1e-6
    factor = jnp.linalg.cholesky(covariance + ridge * jnp.eye(x.shape[1]))
    inverse = jax.scipy.linalg.solve_triangular(factor, jnp.eye(x.shape[1]), lower=True)
    return Whitening(mean, factor, inverse)


@struct.dataclass
class Likelihood:
    """Likelihood of a history as a function of a whitened state x: Bernoulli of its clicks, Gaussian of what the log chose.

    Events stay in the state's own coordinates and x is brought there: one product per state where whitening the events would
    take one per event.
    """

    whitening: Whitening  # of the states
    vectors: Float[Array, "... H D"]  # the click logit of event h is `<vectors[h], whitening.invert(x)> + bias[h]`
    bias: Float[Array, "... H"]  # the click logit that an average user gives the item
    click: Float[Array, "... H"]  # 0 or 1
    weight: Float[Array, "... H"]  # guidance scale where there is an event, else 0
    chance: Float[Array, "... H"]  # of each click, averaged over the prior
    exposure: Exposure  # what the log's choices tell
    # sum of the vectors of the items that the log chose, times the exposure's scale and their independent share
    chosen: States
    count: Float[Array, "..."]  # how many they are, times the same
    # negative Hessian in x: of the clicks averaged over the prior, of the exposure exact
    curvature: Float[Array, "... D D"]


def likelihood_of(
    evidence: Evidence, whitening: Whitening, exposure: Exposure, *, scale: Scalar, exposure_scale: Scalar
) -> Likelihood:
    """Return the likelihood of a history: of its clicks given what was shown, times that of what the log showed.

    The scales are the exponents of the two; 1: Bayes' rule, 0: not read.
    """
    chex.assert_equal_shape([evidence.bias, evidence.click, evidence.shown])
    assert evidence.vectors is not None
    vectors, factor, bias = evidence.vectors, whitening.factor, jnp.asarray(evidence.bias)
    weight = scale * jnp.asarray(evidence.shown, jnp.float32)
    logged = jnp.asarray(evidence.logged, jnp.float32)
    count = jnp.sum(logged, axis=-1)
    share = exposure_scale * independent_share(exposure, count)
    chosen = share[..., None] * jnp.einsum("...h,...hd->...d", logged, vectors)
    count = share * count
    # Mean of sigmoid' over a normal logit, MacKay 1992: exact at variance 0, within a few per cent else. Of the logit's variance
    # the coordinates' own do; the curvature decides how fast the mode is reached, and not where it is.
    chance, shrink = _mean_click(vectors, bias, whitening.mean, jnp.sum(jnp.square(factor), axis=1))
    slope = weight * chance * (1.0 - chance) * shrink
    curvature = jnp.einsum("...hd,...he->...de", slope[..., None] * vectors, vectors)
    curvature = factor.T @ (curvature + count[..., None, None] * exposure.precision) @ factor
    click = jnp.asarray(evidence.click, jnp.float32)
    return Likelihood(whitening, vectors, bias, click, weight, chance, exposure, chosen, count, curvature)


@struct.dataclass
class Quadratic:
    """The log-likelihood of a history to second order, linear' x - x' precision x / 2, up to a constant."""

    linear: States
    precision: Float[Array, "... D D"]


def quadratic(likelihood: Likelihood, mean: States, variance: Float[Array, "... D"]) -> Quadratic:
    """Return the log-likelihood to second order about a whitened guess of where the state is.

    Slope and curvature of the clicks' part are averaged over the guess, and not taken at its mean: where the state is uncertain
    this gives the posterior's mean where Newton's steps give its mode. A normal logit's mean sigmoid is that of its mean over
    sqrt(1 + pi / 8 variance), within a few per cent (MacKay 1992); `variance` is that of the guess in the state's own
    coordinates, each on its own. The part of what the log showed is quadratic as it is.
    """
    factor, vectors = likelihood.whitening.factor, likelihood.vectors
    probability, shrink = mean_click(likelihood, mean, variance)
    slope = likelihood.weight * probability * (1.0 - probability) * shrink
    precision = jnp.einsum("...hd,...he->...de", slope[..., None] * vectors, vectors)
    precision += likelihood.count[..., None, None] * likelihood.exposure.precision
    precision = factor.T @ precision @ factor
    gradient = mean_gradient(likelihood, mean, probability)
    return Quadratic(gradient + jnp.einsum("...de,...e->...d", precision, mean), precision)


def exposure_quadratic(likelihood: Likelihood) -> Quadratic:
    """Return the part of the log-likelihood that is of what the log showed, which is quadratic as it is."""
    whitening, exposure = likelihood.whitening, likelihood.exposure
    precision = whitening.factor.T @ (likelihood.count[..., None, None] * exposure.precision) @ whitening.factor
    gradient = read_exposure(exposure, likelihood.chosen, likelihood.count, at=whitening.mean)
    return Quadratic(gradient @ whitening.factor, precision)


def mean_click(
    likelihood: Likelihood, mean: States, variance: Float[Array, "... D"]
) -> tuple[Float[Array, "... H"], Float[Array, "... H"]]:
    """Return the chance of each click averaged over a guess, and what its logit is multiplied by; arguments as `quadratic`."""
    return _mean_click(likelihood.vectors, likelihood.bias, likelihood.whitening.invert(mean), variance)


def _mean_click(
    vectors: Float[Array, "... H D"], bias: Float[Array, "... H"], mean: States, variance: Float[Array, "... D"]
) -> tuple[Float[Array, "... H"], Float[Array, "... H"]]:
    """Return what `mean_click` does, of a guess in the state's own coordinates.

    Sums and not products: one pass over the events makes both, and their squares are nowhere written.
    """
    logit = jnp.sum(vectors * mean[..., None, :], axis=-1) + bias
    shrink = jax.lax.rsqrt(1.0 + jnp.pi / 8.0 * jnp.sum(jnp.square(vectors) * variance[..., None, :], axis=-1))
    return jax.nn.sigmoid(logit * shrink), shrink


def mean_gradient(likelihood: Likelihood, mean: States, probability: Float[Array, "... H"]) -> States:
    """Return the gradient of the log-likelihood, of which `mean_click` gave the chances."""
    surprise = likelihood.weight * (likelihood.click - probability)
    gradient = jnp.einsum("...hd,...h->...d", likelihood.vectors, surprise)
    at = likelihood.whitening.invert(mean)
    gradient += read_exposure(likelihood.exposure, likelihood.chosen, likelihood.count, at=at)
    return gradient @ likelihood.whitening.factor


def own_variance(whitening: Whitening, covariance: Float[Array, "... D D"]) -> Float[Array, "... D"]:
    """Return the variance of each of the state's own coordinates, of a whitened covariance."""
    return jnp.einsum("de,...ef,df->...d", whitening.factor, covariance, whitening.factor)


@struct.dataclass
class Expansion:
    """The log-likelihood to second order about a point, with the fixed curvature."""

    at: States  # the point
    gradient: States  # of the log-likelihood there


def expand(likelihood: Likelihood, at: States) -> Expansion:
    """Return the expansion about a point: all that reads the events, and most of what guidance costs."""
    state = likelihood.whitening.invert(at)
    logit = jnp.einsum("...hd,...d->...h", likelihood.vectors, state) + likelihood.bias
    surprise = likelihood.weight * (likelihood.click - jax.nn.sigmoid(logit))
    of_clicks = jnp.einsum("...hd,...h->...d", likelihood.vectors, surprise)
    of_exposure = read_exposure(likelihood.exposure, likelihood.chosen, likelihood.count, at=state)
    return Expansion(at, (of_clicks + of_exposure) @ likelihood.whitening.factor)


def expanded_mean(
    likelihood: Likelihood, expansion: Expansion, mean: States, variance: Float[Array, "..."], guess: States
) -> States:
    """Move a guess to the mode of N(x; mean, variance I) times the expanded likelihood.

    A Newton step of the mode that `guided_mean` looks for, where the expansion is about the guess.
    """
    precision = 1.0 / variance[..., None]

    def multiply(x: Array) -> Array:
        return jnp.einsum("...de,...e->...d", likelihood.curvature, x) + precision * x

    moved = jnp.einsum("...de,...e->...d", likelihood.curvature, guess - expansion.at)
    return guess + _solve(multiply, expansion.gradient - moved - precision * (guess - mean))


def guided_mean(
    likelihood: Likelihood, mean: States, variance: Float[Array, "..."], guess: States, *, iterations: int
) -> States:
    """Move a guess towards the mode of N(x; mean, variance I) times the likelihood, by Newton steps with a fixed curvature.

    The mode is a fixed point whatever the curvature; the curvature decides how fast it is reached. Each linear system is solved
    by a few conjugate-gradient steps, matrix products alone. `variance` is positive; a good `guess` is the estimate of the level
    before.
    """
    for _ in range(iterations):
        guess = expanded_mean(likelihood, expand(likelihood, guess), mean, variance, guess)
    return guess


def _solve(multiply: Callable[[Array], Array], right: States) -> States:
    """Run conjugate gradients on a positive definite system from zero."""
    x, residual, direction = jnp.zeros_like(right), right, right
    square = jnp.sum(residual**2, axis=-1, keepdims=True)
    for _ in range(CONJUGATE_STEPS):
        product = multiply(direction)
        length = square / jnp.maximum(jnp.sum(direction * product, axis=-1, keepdims=True), 1e-20)
        x = x + length * direction
        residual = residual - length * product
        following = jnp.sum(residual**2, axis=-1, keepdims=True)
        direction = residual + following / jnp.maximum(square, 1e-20) * direction
        square = following
    return x
