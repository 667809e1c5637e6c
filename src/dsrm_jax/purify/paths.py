"""The closed-form denoiser of a mixture prior, given the noised state and the history.

A history makes the prior a posterior mixture of N(G_j, V_c), c the class of component j. A path stays in one class, and the
forward process (Eq. 2) noises a state in the shape of that class's uncertainty,

    x_k = a x_0 + s V_c^(1/2) eps,    a = sqrt(alpha_bar_k), s = sqrt(1 - alpha_bar_k),

so that at every level each component is N(a G_j, V_c): it moves from 0 to G_j and keeps its shape. What the state is expected to
be is then known without another inverse: with b_j = V_c^-1 G_j, which the posterior is made of,

    D(x_k) = a x_k + s^2 sum_j rho_j(x_k) G_j,    log rho_j(x_k) = log rho_j + a b_j' x_k - a^2 b_j' G_j / 2 + const.

A path follows the flow of these laws, along which a component keeps its shape however long the steps are,

    dx = da sum_j rho_j(x) G_j.

Noise of the shape of what is to be drawn: Lee et al. 2022 (PriorGrad).

Shapes: D state dimensions, C classes, K components that a path looks at, F features of a history.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key

from dsrm_jax.purify.arrays import States
from dsrm_jax.purify.closed_form import Known
from dsrm_jax.purify.mixture import Posterior, Prior, factor, posterior_mean
from dsrm_jax.purify.schedule import Level, Schedule

COMPONENTS = (
    8  # the heaviest of a posterior's class, that a path looks at one by one; the others count as one at their mean
)


@struct.dataclass
class Paths:
    """What the denoiser needs of users' posteriors, each within one class."""

    log_weight: Float[Array, "... K"]  # of the class's heaviest components, and of all others together
    mean: Float[Array, "... K D"]  # G
    right: Float[Array, "... K D"]  # b
    fit: Float[Array, "... K"]  # b' G / 2
    covariance: Float[Array, "... D D"]  # V_c
    centre: States  # the mean of the whole posterior, of all classes
    scale: Float[Array, "..."]  # sigma, root mean variance of a coordinate
    context: Float[Array, "... F"]  # what the network is told of the history


def paths_of(
    prior: Prior, told: Known, count: Float[Array, "..."], of_class: Int[Array, "..."], *, components: int = COMPONENTS
) -> Paths:
    """Return what paths in a class need; `count` is how many events each history holds."""
    posterior = told.posterior
    number = min(components, prior.pull.shape[1])
    covariance = jnp.take_along_axis(posterior.covariance, of_class[..., None, None, None], axis=-3)[..., 0, :, :]
    log_weight = jnp.take_along_axis(posterior.log_weight, of_class[..., None, None], axis=-2)[..., 0, :]
    every = prior.pull[of_class]
    heavy, which = jax.lax.top_k(log_weight, number)
    total = jax.nn.logsumexp(log_weight, axis=-1, keepdims=True)
    weight = jnp.exp(heavy - total)
    pull = jnp.take_along_axis(every, which[..., None], axis=-2)
    # what is left of the class's mean pull is that of the others
    others = jnp.maximum(1.0 - jnp.sum(weight, axis=-1, keepdims=True), 1e-6)
    rest = jnp.einsum("...j,...jd->...d", jnp.exp(log_weight - total), every)
    rest = (rest - jnp.einsum("...k,...kd->...d", weight, pull)) / others
    right = posterior.linear[..., None, :] + jnp.concatenate([pull, rest[..., None, :]], axis=-2)
    mean = jnp.einsum("...kd,...de->...ke", right, covariance)
    weight = jnp.concatenate([weight, others], axis=-1)
    centre = posterior_mean(prior, posterior)
    between = jnp.einsum("...k,...kd->...", weight, (mean - centre[..., None, :]) ** 2)
    scale = jnp.sqrt((jnp.trace(covariance, axis1=-2, axis2=-1) + between) / covariance.shape[-1])
    plain = jnp.stack([jnp.log(scale), jnp.log1p(count) / 4.0], axis=-1)
    context = jnp.concatenate([centre, told.gaussian, plain], axis=-1)
    fit = 0.5 * jnp.sum(right * mean, axis=-1)
    log_weight = jnp.log(weight)
    return Paths(log_weight, mean, right, fit, covariance, centre, scale, context)


def heaviest_class(posterior: Posterior) -> Int[Array, "..."]:
    """Return the class that a user is most likely of."""
    return jnp.argmax(jax.nn.logsumexp(posterior.log_weight, axis=-1), axis=-1)


def drawn_class(key: Key[Array, ""], posterior: Posterior) -> Int[Array, "..."]:
    """Draw a class of each user; the key is consumed."""
    return jax.random.categorical(key, jax.nn.logsumexp(posterior.log_weight, axis=-1))


def aim(paths: Paths, step: Schedule | Level, noised: States) -> States:
    """Return sum_j rho_j(x_k) G_j, where a noised state moves to; its leading axes may be more than the paths'."""
    signal = step.signal[..., None]
    inner = jnp.einsum("...kd,...d->...k", paths.right, noised)
    share = jax.nn.softmax(paths.log_weight + signal * inner - signal**2 * paths.fit)
    return jnp.einsum("...k,...kd->...d", share, paths.mean)


def expected(step: Schedule | Level, noised: States, aim: States) -> States:
    """Return D(x_k) of a noised state that moves to `aim`."""
    return step.signal[..., None] * noised + step.noise[..., None] ** 2 * aim


def eps_towards(step: Schedule, noised: States, aim: States) -> States:
    """Return the eps by which `diffusion.ddim_step` moves along the flow, x + (a_{k-1} - a_k) aim."""
    before = jnp.sqrt(1.0 - step.noise_before**2)
    shrink = jax.lax.rsqrt(step.alpha)
    moved = noised + (before - step.signal)[..., None] * aim
    return (moved - shrink[..., None] * noised) / (step.noise_before - shrink * step.noise)[..., None]


def shaped_noise(key: Key[Array, ""], paths: Paths) -> States:
    """Return noise of covariance V_c; the key is consumed."""
    noise = jax.random.normal(key, paths.centre.shape)
    return jnp.einsum("...de,...e->...d", factor(paths.covariance), noise)


def start_of(key: Key[Array, ""], paths: Paths, step: Schedule | Level) -> States:
    """Draw a noised state of the class's posterior; the key is consumed."""
    which_key, clean_key, noise_key = jax.random.split(key, 3)
    which = jax.random.categorical(which_key, paths.log_weight)
    mean = jnp.take_along_axis(paths.mean, which[..., None, None], axis=-2)[..., 0, :]
    root = factor(paths.covariance)
    clean, noise = (
        jnp.einsum("...de,...e->...d", root, jax.random.normal(key, mean.shape)) for key in (clean_key, noise_key)
    )
    return step.signal * (mean + clean) + step.noise * noise
