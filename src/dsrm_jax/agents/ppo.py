"""The pieces of proximal policy optimisation (Schulman et al. 2017), as pure functions.

Objectives and losses are element-wise: the caller masks, weighs and averages. Diagnostics are scalars. `old_log_prob` is finite.
"""

import math

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from dsrm_jax.errors import InputError


def clipped_surrogate(
    log_prob: Float[Array, "..."],
    old_log_prob: Float[Array, "..."],
    advantage: Float[Array, "..."],
    clip: float | Float[Array, ""],
) -> Float[Array, "..."]:
    r"""Return the clipped objective, to be maximised (Schulman et al. 2017, Eq. 7).

    $$L^{CLIP} = \min\big(\rho A,\ \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A\big), \qquad
      \rho = \exp(\log \pi(a) - \log \pi_{old}(a)).$$

    Its gradient is zero where the ratio has moved past the clip (epsilon, above 0) in the direction that the advantage favours.
    """
    chex.assert_equal_shape([log_prob, old_log_prob, advantage])
    ratio = jnp.exp(log_prob - old_log_prob)
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)


def value_loss(values: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Return $\frac{1}{2} (V - \mathrm{target})^2$, element-wise (Schulman et al. 2017, Eq. 9).

    The values are not clipped around the old ones: that variant depends on the rewards' scale, and its
    benefit has not been reproduced (Andrychowicz et al. 2021, section 3.2).
    """
    chex.assert_equal_shape([values, target])
    return 0.5 * jnp.square(values - target)


def sampled_entropy(log_prob: Float[Array, "..."], old_log_prob: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Estimate the policy's entropy from its samples: $-\rho \log \pi(a)$, element-wise.

    For actions whose exact entropy is out of reach, such as slates. With a drawn from the old policy the mean
    is the entropy H and the mean gradient is that of H. Without the ratio $\rho$ the mean gradient at the old
    policy would be zero, since $E[\nabla \log \pi] = 0$: a bonus of plain $-\log \pi(a)$ only adds noise.
    """
    chex.assert_equal_shape([log_prob, old_log_prob])
    return -jnp.exp(log_prob - old_log_prob) * log_prob


def gaussian_sample(
    key: PRNGKeyArray, mean: Float[Array, "... N"], log_std: Float[Array, "... N"]
) -> Float[Array, "... N"]:
    """Draw from a diagonal Gaussian; `log_std` broadcasts to `mean`; the key is consumed."""
    return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)


def gaussian_log_prob(
    x: Float[Array, "... N"], mean: Float[Array, "... N"], log_std: Float[Array, "... N"]
) -> Float[Array, "..."]:
    r"""Return the log-density of a diagonal Gaussian, summed over its last axis.

    $$\log p(x) = -\sum_n \tfrac{1}{2} \Big(\frac{x_n - \mu_n}{\sigma_n}\Big)^2 + \log \sigma_n
      + \tfrac{1}{2} \log 2\pi.$$
    """
    score = (x - mean) * jnp.exp(-log_std)
    return -jnp.sum(0.5 * jnp.square(score) + log_std + 0.5 * math.log(2.0 * math.pi), axis=-1)


def gaussian_entropy(log_std: Float[Array, "... N"]) -> Float[Array, "..."]:
    r"""Return a diagonal Gaussian's entropy in nats, $\sum_n \log \sigma_n + \tfrac{1}{2} \log 2\pi e$."""
    return jnp.sum(log_std + 0.5 * math.log(2.0 * math.pi * math.e), axis=-1)


def normalise(
    advantage: Float[Array, "..."], mask: Bool[Array, "..."] | None = None, *, epsilon: float = 1e-8
) -> Float[Array, "..."]:
    """Shift and scale to zero mean and unit (population) standard deviation over all elements.

    Args:
        advantage: any shape.
        mask: same shape; only True elements count, and the others come back as 0. None: all count.
        epsilon: added to the standard deviation, so that constant advantages become 0.
    """
    if mask is None:
        centred = advantage - jnp.mean(advantage)
        return centred / (jnp.sqrt(jnp.mean(jnp.square(centred))) + epsilon)
    chex.assert_equal_shape([advantage, mask])
    count = jnp.maximum(jnp.sum(mask), 1)
    mean = jnp.sum(jnp.where(mask, advantage, 0.0)) / count
    centred = jnp.where(mask, advantage - mean, 0.0)
    return centred / (jnp.sqrt(jnp.sum(jnp.square(centred)) / count) + epsilon)


def minibatch_indices(key: PRNGKeyArray, n: int, minibatches: int) -> Int[Array, "M N/M"]:
    """Deal a random permutation of n samples into minibatches of equal size, each sample in one row; the key is consumed.

    Raises:
        InputError: where M does not divide n.
    """
    if minibatches < 1 or n % minibatches:
        raise InputError(
            f"agent.minibatches is {minibatches}, and must divide the {n} samples of a rollout "
            "(training.num_users x training.rollout_length): choose a divisor"
        )
    return jax.random.permutation(key, n).astype(jnp.int32).reshape(minibatches, n // minibatches)


def epoch_indices(key: PRNGKeyArray, n: int, *, epochs: int, minibatches: int) -> Int[Array, "EM N/M"]:
    """Return `minibatch_indices` of several epochs, one after the other; the key is consumed."""
    keys = jax.random.split(key, epochs)
    return jnp.concatenate([minibatch_indices(epoch_key, n, minibatches) for epoch_key in keys])


def approx_kl(log_prob: Float[Array, "..."], old_log_prob: Float[Array, "..."]) -> Float[Array, ""]:
    r"""Estimate KL(old || new) in nats by the mean of $\rho - 1 - \log \rho$ over samples of the old policy.

    Unbiased, never negative, and of lower variance than $-\log \rho$ (Schulman 2020, "Approximating KL divergence").
    """
    chex.assert_equal_shape([log_prob, old_log_prob])
    log_ratio = log_prob - old_log_prob
    return jnp.mean(jnp.expm1(log_ratio) - log_ratio)


def explained_variance(values: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, ""]:
    r"""Return $1 - \mathrm{Var}(\mathrm{target} - V) / \mathrm{Var}(\mathrm{target})$; 0 where the target is constant.

    1 is perfect, 0 as good as a constant, negative worse.
    """
    chex.assert_equal_shape([values, target])
    variance = jnp.var(target)
    unexplained = jnp.var(target - values)
    return jnp.where(variance > 0, 1.0 - unexplained / jnp.where(variance > 0, variance, 1.0), 0.0)
