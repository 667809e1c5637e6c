"""Constrained policy optimisation of a Gaussian policy (Achiam et al. 2017): one step, whatever the policy acts on.

CPO with sampled gradients settles above its limit: the step leans on the very noise that makes the cost look lower. A margin that
follows the excess (`next_margin`) takes that bias out; a rate of 0 is CPO as printed.

Shapes: N samples, E action dimensions, P parameters.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.cpo import Case, Outcome, backtrack, cpo_step
from dsrm_jax.agents.ppo import gaussian_log_prob, normalise
from dsrm_jax.types import PyTree

GaussianPolicy = Callable[[PyTree, PyTree], tuple[Float[Array, "N E"], Float[Array, "E"]]]


@struct.dataclass
class PolicyBatch:
    """What one constrained step learns from."""

    inputs: PyTree  # `(N, ...)`, what the policy saw
    action: Float[Array, "N E"]  # what it drew
    log_prob: Float[Array, "N"]  # under the policy that drew it
    advantage: Float[Array, "N"]  # of the reward, any scale: it is normalised
    cost_advantage: Float[Array, "N"]  # in the units of `excess`: centred, never scaled, which would move the limit
    excess: Float[Array, ""]  # c, mean cost of a step minus its limit, plus the margin


def constrained_step(
    policy: GaussianPolicy,
    params: PyTree,
    batch: PolicyBatch,
    *,
    max_kl: float | Float[Array, ""],
    damping: float | Float[Array, ""],
    solver_iterations: int = 10,
    backtracks: int = 10,
    fisher_stride: int = 1,
) -> tuple[PyTree, dict[str, jax.Array]]:
    """Improve a Gaussian policy by one CPO step (Achiam et al. 2017, Algorithm 1).

    Args:
        policy: `(params, inputs) -> (mean (N, E), log_std (E,))`.
        params: of the policy that acted.
        batch: N samples of it.
        max_kl: trust region, in nats.
        damping: added to the diagonal of the Fisher matrix.
        solver_iterations: conjugate-gradient iterations per solve.
        backtracks: trials of the line search.
        fisher_stride: the Fisher matrix is averaged over every so-manieth sample.

    Returns:
        New parameters (the old ones where no shortened step is acceptable) and scalars: `case` (`cpo.Case`), `lam`, `nu`,
        `accepted`, `shrink`, and `kl` in nats.
    """
    theta, unravel = ravel_pytree(params)
    old_mean, old_log_std = policy(params, batch.inputs)
    advantage = normalise(batch.advantage)
    cost_advantage = batch.cost_advantage - jnp.mean(batch.cost_advantage)

    def surrogates(theta: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        mean, log_std = policy(unravel(theta), batch.inputs)
        ratio = jnp.exp(gaussian_log_prob(batch.action, mean, log_std) - batch.log_prob)
        return jnp.stack([-jnp.mean(ratio * advantage), jnp.mean(ratio * cost_advantage)]), (mean, log_std)

    def evaluate(theta: jax.Array) -> Outcome:
        (loss, cost), (mean, log_std) = surrogates(theta)
        return Outcome(loss, cost, jnp.mean(gaussian_kl(old_mean, old_log_std, mean, log_std)))

    _, pull, _ = jax.vjp(surrogates, theta, has_aux=True)
    (gradients,) = jax.vmap(pull)(jnp.eye(2))
    some = jax.tree.map(lambda x: x[::fisher_stride], batch.inputs)
    step = cpo_step(
        gradients[0],
        gradients[1],
        batch.excess,
        fisher_product(policy, params, some, damping=damping),
        max_kl,
        iterations=solver_iterations,
        tolerance=1e-4,
    )
    found = backtrack(evaluate, theta, step.x, c=batch.excess, delta=max_kl, iterations=backtracks)
    return unravel(found.theta), {
        "case": step.case,
        "lam": step.lam,
        "nu": step.nu,
        "accepted": found.accepted,
        "shrink": found.shrink,
        "kl": evaluate(found.theta).kl,
    }


def gaussian_kl(
    mean: Float[Array, "... E"],
    log_std: Float[Array, "E"],
    other_mean: Float[Array, "... E"],
    other_log_std: Float[Array, "E"],
) -> Float[Array, "..."]:
    r"""Return KL(first || second) of diagonal Gaussians in nats, summed over the last axis.

    $$\sum_n \log \frac{\sigma'_n}{\sigma_n} + \frac{\sigma_n^2 + (\mu_n - \mu'_n)^2}{2 \sigma_n'^2} - \tfrac{1}{2}.$$
    """
    spread = jnp.exp(2 * (log_std - other_log_std))
    shift = jnp.square((mean - other_mean) * jnp.exp(-other_log_std))
    return jnp.sum(other_log_std - log_std + 0.5 * (spread + shift - 1.0), axis=-1)


def fisher_product(
    policy: GaussianPolicy, params: PyTree, inputs: PyTree, *, damping: float | Float[Array, ""]
) -> Callable[[Float[Array, "P"]], Float[Array, "P"]]:
    """Return v -> (F + damping I) v on flattened parameters, F the mean Fisher matrix of a Gaussian policy over the inputs.

    F is the Gauss-Newton matrix J' M J: J differentiates (mean, log_std) by the parameters, and M is the Gaussian's own Fisher
    matrix, 1 / std^2 for means and 2 for log-deviations. It equals the Hessian of the mean KL divergence, at the price of one
    product with J and one with J'. `damping` is above 0.
    """
    flat, unravel = ravel_pytree(params)

    def distribution(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
        return policy(unravel(theta), inputs)

    (mean, log_std), push = jax.linearize(distribution, flat)
    pull = jax.linear_transpose(push, flat)
    precision = jnp.exp(-2 * log_std) / mean.shape[0]

    def product(v: Float[Array, "P"]) -> Float[Array, "P"]:
        mean_change, log_std_change = push(v)
        return pull((mean_change * precision, 2.0 * log_std_change))[0] + damping * v

    return product


def next_margin(
    margin: Float[Array, ""], excess: Float[Array, ""], case: Int[Array, ""], *, rate: float | Float[Array, ""]
) -> Float[Array, ""]:
    """Return by how much the limit is tightened next: up by rate x excess, down half as fast, never below 0.

    It stands still where the limit was out of reach (case I): that is no bias, and the margin would grow for as long as the way
    back takes.

    Args:
        margin: so far, at least 0, in units of cost per step.
        excess: mean cost minus the limit, without the margin.
        case: `cpo.Case` of the step just taken.
        rate: at least 0.
    """
    change = rate * jnp.where(excess > 0, excess, 0.5 * excess)
    return jnp.where(case == Case.INFEASIBLE, margin, jnp.maximum(margin + change, 0.0))
