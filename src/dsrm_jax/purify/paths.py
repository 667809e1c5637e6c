"""The closed-form denoiser of a mixture prior, given the noised state and the history.

A history makes the prior a posterior mixture of N(G_j, V_c), c the class of component j. The forward process (Eq. 2) noises a
state in the shape of that uncertainty,

    x_k = a x_0 + s V_c^(1/2) eps,    a = sqrt(alpha_bar_k), s = sqrt(1 - alpha_bar_k),

so that at every level each component is N(a G_j, V_c): it moves from 0 to G_j and keeps its shape. What the state is expected to
be is then known without another inverse,

    D(x_k) = a x_k + s^2 sum_j rho_j(x_k) G_j,    rho_j(x_k) proportional to rho_j N(x_k; a G_j, V_c).

Noise of the shape of what is to be drawn: Lee et al. 2022 (PriorGrad).

Shapes: D state dimensions, C classes, K components that a path looks at, F features of a history.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from dsrm_jax.purify.arrays import States
from dsrm_jax.purify.closed_form import Known
from dsrm_jax.purify.mixture import Mixture, factor, inverse, mean_of
from dsrm_jax.purify.schedule import Level, Schedule

COMPONENTS = 16  # the heaviest of a posterior, that a path looks at


@struct.dataclass
class Paths:
    """What the closed-form denoiser needs of posteriors: their K heaviest components, weights summing to 1."""

    log_weight: Float[Array, "... K"]
    mean: Float[Array, "... K D"]
    of_class: Float[Array, "... K C"]  # 1 at the component's class
    precision: Float[Array, "... C D D"]  # V_c^-1
    half_log_determinant: Float[Array, "... C"]  # of V_c^-1
    fit: Float[Array, "... K"]  # G' V_c^-1 G / 2
    centre: States  # the whole mixture's mean
    scale: Float[Array, "..."]  # sigma
    context: Float[Array, "... F"]  # what the network is told of the history


def paths_of(prior: Mixture, told: Known, count: Float[Array, "..."]) -> Paths:
    """Return what paths need of posteriors; `count` is how many events each history holds."""
    posterior = told.posterior
    *leading, classes, components, dim = posterior.mean.shape
    own, _ = inverse(prior.covariance)
    precision = told.users.precision[..., None, :, :] + own
    number = min(COMPONENTS, classes * components)
    log_weight, which = jax.lax.top_k(posterior.log_weight.reshape(*leading, -1), number)
    mean = posterior.mean.reshape(*leading, classes * components, dim)
    mean = jnp.take_along_axis(mean, which[..., None], axis=-2)
    of_class = jax.nn.one_hot(which // components, classes)
    stretched = jnp.einsum("...kc,...cde,...kd->...ke", of_class, precision, mean)
    # one entry a class of what the sweeps find of the posterior's covariance
    log_determinant = inverse(precision)[1]
    centre = mean_of(posterior)
    weight = jnp.exp(posterior.log_weight)
    spread = jnp.sum(weight * jnp.sum(posterior.mean**2, axis=-1), axis=(-2, -1)) - jnp.sum(centre**2, axis=-1)
    spread += jnp.sum(jnp.sum(weight, axis=-1) * jnp.trace(posterior.covariance, axis1=-2, axis2=-1), axis=-1)
    scale = jnp.sqrt(jnp.maximum(spread / dim, 1e-8))
    plain = jnp.stack([jnp.log(scale), jnp.log1p(count) / 4.0], axis=-1)
    return Paths(
        log_weight - jax.nn.logsumexp(log_weight, axis=-1, keepdims=True),
        mean,
        of_class,
        precision,
        0.5 * log_determinant,
        0.5 * jnp.sum(stretched * mean, axis=-1),
        centre,
        scale,
        jnp.concatenate([centre, told.gaussian, plain], axis=-1),
    )


def denoise(paths: Paths, step: Schedule | Level, noised: States) -> States:
    """Return D(x_k), whose leading axes may be more than the paths'."""
    signal, noise = step.signal[..., None], step.noise[..., None]
    mixed = jnp.einsum("...k,...kd->...d", jax.nn.softmax(_nearness(paths, signal, noised)), paths.mean)
    return signal * noised + noise**2 * mixed


def shaped_noise(key: Key[Array, ""], posterior: Mixture, paths: Paths, clean: States) -> States:
    """Return noise of covariance V_c, c the class of a component that the clean state may be of; the key is consumed."""
    which_key, noise_key = jax.random.split(key)
    which = jax.random.categorical(which_key, _nearness(paths, jnp.ones(1), clean))
    of_class = jnp.take_along_axis(paths.of_class, which[..., None, None], axis=-2)[..., 0, :]
    covariance = jnp.einsum("...c,...cde->...de", of_class, posterior.covariance)
    return jnp.einsum("...de,...e->...d", factor(covariance), jax.random.normal(noise_key, clean.shape))


def _nearness(paths: Paths, signal: Array, noised: States) -> Float[Array, "... K"]:
    """Return log rho_j(x_k) up to a constant."""
    pull = jnp.einsum("...cde,...e->...cd", paths.precision, noised)
    square = 0.5 * jnp.sum(pull * noised[..., None, :], axis=-1)
    near = jnp.einsum("...kc,...cd->...kd", paths.of_class, pull)
    inner = jnp.sum(near * paths.mean, axis=-1)
    of_class = jnp.einsum("...kc,...c->...k", paths.of_class, paths.half_log_determinant - square)
    return paths.log_weight + signal * inner - signal**2 * paths.fit + of_class
