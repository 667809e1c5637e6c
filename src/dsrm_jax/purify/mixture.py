"""A mixture of Gaussians over users' states, and what a history makes of it, in closed form.

Components come in classes that share a covariance: C classes of J components each, so that one class is a mixture of tied
covariances, and one component a class a mixture of full ones. A history costs one inverse a class, and products alone for each
component. It enters by its log-likelihood to second order (`guidance.Quadratic`), which makes the posterior a mixture again: with
Q a class's prior precision, component j has

    covariance V = (precision + Q)^-1,  mean G_j = V b_j,  b_j = linear + Q mu_j,
    log weight = log pi_j + log det(Q V) / 2 + b_j' V b_j / 2 - mu_j' Q mu_j / 2,

and the weights sum to the history's evidence. Coordinates are whitened ones (`guidance.Whitening`).

Shapes: D state dimensions, C classes, J components of each.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from dsrm_jax.purify.arrays import States
from dsrm_jax.purify.guidance import Quadratic

ABSENT = -1e4  # the log weight of a component that is not there


@struct.dataclass
class Mixture:
    """A mixture of Gaussians N(mean, covariance of the class)."""

    log_weight: Float[Array, "... C J"]  # `ABSENT` of components that are not there; exponentials sum to 1
    mean: Float[Array, "... C J D"]
    covariance: Float[Array, "... C D D"]


def standard_normal(dim: int, *, classes: int = 1, components: int = 1) -> Mixture:
    """Return N(0, I) as a mixture of which one component is there."""
    log_weight = jnp.full((classes, components), ABSENT).at[0, 0].set(0.0)
    return Mixture(log_weight, jnp.zeros((classes, components, dim)), jnp.tile(jnp.eye(dim), (classes, 1, 1)))


def inverse(matrix: Float[Array, "... D D"]) -> tuple[Float[Array, "... D D"], Float[Array, "..."]]:
    """Return the inverse of symmetric positive definite matrices, and the log of their determinants.

    D sweeps (Goodnight 1979), each one product of numbers an entry: batched factorisations are slow on CPUs.
    """
    axis = jnp.arange(matrix.shape[-1])

    def sweep(k: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        matrix, log_determinant = carry
        column = jax.lax.dynamic_index_in_dim(matrix, k, -1, keepdims=False)
        pivot = jax.lax.dynamic_index_in_dim(column, k, -1, keepdims=False)
        swept = axis == k
        others = jnp.where(swept[:, None] | swept, 0.0, matrix)
        column = jnp.where(swept, -1.0, column)
        moved = column[..., :, None] * (column / pivot[..., None])[..., None, :]
        return others - moved, log_determinant + jnp.log(pivot)

    swept, log_determinant = jax.lax.fori_loop(0, len(axis), sweep, (matrix, jnp.zeros(matrix.shape[:-2])))
    return -swept, log_determinant


@struct.dataclass
class Prior:
    """A mixture in the form in which histories are added to it."""

    offset: Float[Array, "C J"]  # log pi_j + log det Q / 2 - mu_j' Q mu_j / 2
    pull: Float[Array, "C J D"]  # Q mu_j
    precision: Float[Array, "C D D"]  # Q


def prior_of(mixture: Mixture) -> Prior:
    """Return a mixture without leading dimensions as a prior."""
    precision, log_determinant = inverse(mixture.covariance)
    pull = jnp.einsum("cde,cje->cjd", precision, mixture.mean)
    square = jnp.sum(pull * mixture.mean, axis=-1)
    return Prior(mixture.log_weight - 0.5 * (square + log_determinant[:, None]), pull, precision)


@struct.dataclass
class Posterior:
    """A history's posterior mixture, whose component means are not made until they are asked for."""

    log_weight: Float[Array, "... C J"]
    linear: States  # of the history
    covariance: Float[Array, "... C D D"]
    evidence: Float[Array, "..."]  # the log of the history's, up to the constant that its expansion leaves out


def posterior_of(prior: Prior, history: Quadratic) -> Posterior:
    """Return the posterior of each history, with the history's leading dimensions."""
    covariance, log_determinant = inverse(history.precision[..., None, :, :] + prior.precision)
    settled = jnp.einsum("...cde,...e->...cd", covariance, history.linear)
    fit = jnp.sum(settled * history.linear[..., None, :], axis=-1) - log_determinant
    # products of pulls once for all histories, so that what each history multiplies is a matrix
    squares = prior.pull[..., :, None] * prior.pull[..., None, :]
    flat = covariance.reshape(*covariance.shape[:-2], -1)
    of_pulls = jnp.einsum("...cx,cjx->...cj", flat, squares.reshape(*squares.shape[:-2], -1))
    of_pulls += 2.0 * jnp.einsum("...cd,cjd->...cj", settled, prior.pull)
    log_weight = prior.offset + 0.5 * (of_pulls + fit[..., None])
    evidence = jax.nn.logsumexp(log_weight, axis=(-2, -1))
    return Posterior(log_weight - evidence[..., None, None], history.linear, covariance, evidence)


def posterior_mean(prior: Prior, posterior: Posterior) -> States:
    """Return the posterior's mean, for which no component's is made."""
    weight = jnp.exp(posterior.log_weight)
    right = jnp.sum(weight, axis=-1)[..., None] * posterior.linear[..., None, :]
    right += jnp.einsum("...cj,cjd->...cd", weight, prior.pull)
    return jnp.einsum("...cde,...ce->...d", posterior.covariance, right)


def components_of(prior: Prior, posterior: Posterior) -> Mixture:
    """Return the posterior with all its components' means."""
    right = posterior.linear[..., None, None, :] + prior.pull
    mean = jnp.einsum("...cjd,...cde->...cje", right, posterior.covariance)
    return Mixture(posterior.log_weight, mean, posterior.covariance)


def mixture_posterior(mixture: Mixture, history: Quadratic) -> tuple[Mixture, Float[Array, "..."]]:
    """Return the posterior of each history as a mixture, and the logs of the evidences."""
    prior = prior_of(mixture)
    posterior = posterior_of(prior, history)
    return components_of(prior, posterior), posterior.evidence


def mean_of(mixture: Mixture) -> States:
    """Return a mixture's mean."""
    return jnp.einsum("...cj,...cjd->...d", jnp.exp(mixture.log_weight), mixture.mean)


def moments(mixture: Mixture) -> tuple[States, Float[Array, "... D D"]]:
    """Return a mixture's mean and covariance."""
    weight, mean = jnp.exp(mixture.log_weight), mean_of(mixture)
    away = mixture.mean - mean[..., None, None, :]
    between = jnp.einsum("...cj,...cjd,...cje->...de", weight, away, away)
    within = jnp.einsum("...c,...cde->...de", jnp.sum(weight, axis=-1), mixture.covariance)
    return mean, between + within


def pick(key: Key[Array, ""], mixture: Mixture) -> tuple[States, Float[Array, "... D D"]]:
    """Draw one component of each mixture: `(its mean, a factor F of its covariance F F')`; the key is consumed."""
    *leading, classes, components, dim = mixture.mean.shape
    flat = mixture.log_weight.reshape(*leading, classes * components)
    which = jax.random.categorical(key, flat)[..., None]
    mean = mixture.mean.reshape(*leading, classes * components, dim)
    mean = jnp.take_along_axis(mean, which[..., None], axis=-2)[..., 0, :]
    of_class = jnp.take_along_axis(mixture.covariance, (which // components)[..., None, None], axis=-3)[..., 0, :, :]
    return mean, factor(of_class)


def draw(key: Key[Array, ""], mixture: Mixture) -> States:
    """Draw a point of each mixture; the key is consumed."""
    pick_key, noise_key = jax.random.split(key)
    mean, root = pick(pick_key, mixture)
    return mean + jnp.einsum("...de,...e->...d", root, jax.random.normal(noise_key, mean.shape))


def factor(matrix: Float[Array, "... D D"]) -> Float[Array, "... D D"]:
    """Return lower Cholesky factors of positive definite matrices, by D outer products."""
    axis = jnp.arange(matrix.shape[-1])

    def add(k: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        left, found = carry
        column = jax.lax.dynamic_index_in_dim(left, k, -1, keepdims=False)
        pivot = jax.lax.dynamic_index_in_dim(column, k, -1, keepdims=False)
        column = jnp.where(axis >= k, column * jax.lax.rsqrt(jnp.maximum(pivot, 1e-20))[..., None], 0.0)
        return left - column[..., :, None] * column[..., None, :], jnp.where(axis == k, column[..., None], found)

    return jax.lax.fori_loop(0, len(axis), add, (matrix, jnp.zeros_like(matrix)))[1]
