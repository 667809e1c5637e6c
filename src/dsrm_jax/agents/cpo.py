r"""Constrained policy optimisation (Achiam et al. 2017): the analytic step and the line search that follows it.

At the current parameters, with g the gradient of the reward's loss, b that of the cost, H the Fisher matrix, delta the trust
region and c the amount by which the cost exceeds its limit,

$$\min_x\ g^T x \quad \text{s.t.} \quad b^T x + c \le 0, \quad \tfrac{1}{2} x^T H x \le \delta.$$

The dual is that of their section 6.1 and appendix.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.agents.conjugate_gradient import Matvec, conjugate_gradient

TINY = 1e-12  # squared length of a gradient, in the Fisher metric, that counts as none
ROUNDING = 1e-6  # float32 differences below this share of their operands are rounding


class Case(IntEnum):
    """Which case of the dual problem a step belongs to."""

    INFEASIBLE = 1
    """No step of the trust region meets the limit: lower the cost alone, as far as the region reaches."""
    INSIDE = 2
    """Every step of the trust region meets the limit: the unconstrained step."""
    SLACK = 3
    """The unconstrained step meets the limit."""
    ACTIVE = 4
    """The best step lies on the limit and on the region's border."""
    NO_COST_GRADIENT = 5
    """Nothing changes the cost: the unconstrained step."""
    NO_REWARD_GRADIENT = 6
    """Nothing changes the reward: no step, or the shortest that meets the limit."""


class Dual(NamedTuple):
    """The multipliers of trust region (above 0) and cost (at least 0), and the `Case`.

    The step is x = -(1/lam) H^-1 (g + nu b), without g in cases I and VI.
    """

    lam: Float[Array, ""]
    nu: Float[Array, ""]
    case: Int[Array, ""]


def dual(
    q: Float[Array, ""], r: Float[Array, ""], s: Float[Array, ""], c: Float[Array, ""], delta: float | Float[Array, ""]
) -> Dual:
    """Solve the dual problem in closed form: the unconstrained step where it meets the limit, else the one on the limit.

    That rule equals Achiam's projection on two intervals, and divides by neither c nor r.

    Args:
        q: g' H^-1 g, at least 0.
        r: g' H^-1 b.
        s: b' H^-1 b, at least 0.
        c: by how much the cost exceeds its limit; negative where there is room.
        delta: trust region, a bound on x' H x / 2, above 0.

    Returns:
        Multipliers and case, finite for all finite arguments.
    """
    no_cost, no_reward = s <= TINY, q <= TINY
    safe_q, safe_s = jnp.where(no_reward, 1.0, q), jnp.where(no_cost, 1.0, s)
    # g's length off b, and what the region has left beyond the way to the limit; floors only ever shorten the step
    off = jnp.maximum(q - r * r / safe_s, ROUNDING * safe_q)
    left = 2.0 * delta - c * c / safe_s
    free_lam = jnp.sqrt(safe_q / (2.0 * delta))
    limit_lam = jnp.sqrt(off / jnp.maximum(left, ROUNDING * 2.0 * delta))
    limit_nu = jnp.maximum((limit_lam * c - r) / safe_s, 0.0)

    number = jax.Array | float
    outcomes: list[tuple[jax.Array, tuple[number, number, Case]]] = [
        (no_cost & no_reward, (1.0, 0.0, Case.NO_REWARD_GRADIENT)),
        (no_cost, (free_lam, 0.0, Case.NO_COST_GRADIENT)),
        ((left < 0) & (c > 0), (jnp.sqrt(safe_s / (2.0 * delta)), 1.0, Case.INFEASIBLE)),
        (no_reward & (c <= 0), (1.0, 0.0, Case.NO_REWARD_GRADIENT)),
        (no_reward, (safe_s / jnp.where(c > 0, c, 1.0), 1.0, Case.NO_REWARD_GRADIENT)),
        ((left <= 0) & (c <= 0), (free_lam, 0.0, Case.INSIDE)),
        (free_lam * c <= r, (free_lam, 0.0, Case.SLACK)),
    ]
    lam, nu, case = limit_lam, limit_nu, jnp.asarray(int(Case.ACTIVE), jnp.int32)
    for holds, (its_lam, its_nu, its_case) in reversed(outcomes):
        lam, nu = jnp.where(holds, its_lam, lam), jnp.where(holds, its_nu, nu)
        case = jnp.where(holds, int(its_case), case)
    return Dual(lam, nu, case)


@struct.dataclass
class Step:
    """A proposed change of the parameters; `lam`, `nu` and `case` as in `Dual`."""

    x: Float[Array, "N"]
    lam: Float[Array, ""]
    nu: Float[Array, ""]
    case: Int[Array, ""]


def cpo_step(
    g: Float[Array, "N"],
    b: Float[Array, "N"],
    c: Float[Array, ""],
    fisher_vector_product: Matvec,
    delta: float | Float[Array, ""],
    *,
    iterations: int = 10,
    tolerance: float = 1e-6,
) -> Step:
    """Return the minimiser of g'x subject to b'x + c <= 0 and x'Hx / 2 <= delta; where there is none, the way back.

    Args:
        g: gradient of the reward's loss, which is to fall.
        b: gradient of the cost, in the units of c.
        c: by how much the cost exceeds its limit.
        fisher_vector_product: v -> H v, H positive definite (damped).
        delta: trust region, above 0.
        iterations: of each of the two conjugate-gradient solves, at most.
        tolerance: of each of them, relative.

    Returns:
        The step; zero where neither gradient is left.
    """
    by_reward, by_cost = jax.vmap(
        lambda v: conjugate_gradient(fisher_vector_product, v, iterations=iterations, tolerance=tolerance)
    )(jnp.stack([g, b]))
    lam, nu, case = dual(g @ by_reward, g @ by_cost, b @ by_cost, c, delta)
    ignored = (case == Case.INFEASIBLE) | (case == Case.NO_REWARD_GRADIENT)
    x = -(jnp.where(ignored, 0.0, by_reward) + nu * by_cost) / lam
    return Step(x, lam, nu, case)


class Outcome(NamedTuple):
    """What a line search weighs, of one candidate: the reward's loss, a surrogate of the cost in the units of c, of which only
    differences count, and the KL divergence from the old policy in nats.
    """

    loss: Float[Array, ""]
    cost: Float[Array, ""]
    kl: Float[Array, ""]


class Found(NamedTuple):
    """The very parameters that passed the test of `backtrack`, or the old ones; the share of the step taken, 0 where none was."""

    theta: Float[Array, "N"]
    accepted: Bool[Array, ""]
    shrink: Float[Array, ""]


def backtrack(
    evaluate: Callable[[Float[Array, "N"]], Outcome],
    theta: Float[Array, "N"],
    x: Float[Array, "N"],
    *,
    c: Float[Array, ""],
    delta: float | Float[Array, ""],
    decay: float = 0.8,
    iterations: int = 10,
) -> Found:
    """Shorten a step until its true consequences are acceptable; what is returned is what was tested.

    Acceptable (Achiam et al. 2017, section 6.3): the KL divergence is at most delta, the cost rises by no more than the
    room under its limit, max(-c, 0), and, unless the limit is broken already (c > 0), the reward's loss falls.

    Args:
        evaluate: outcome of any parameters.
        theta: old parameters.
        x: full step.
        c: by how much the cost exceeds its limit.
        delta: trust region, nats.
        decay: factor between two trials, in (0, 1).
        iterations: trials at most.

    Returns:
        The first acceptable candidate, or the old parameters.
    """
    before = evaluate(theta)
    room = jnp.maximum(-c, 0.0)

    def unfinished(carry: tuple[jax.Array, Found]) -> jax.Array:
        count, found = carry
        return (count < iterations) & ~found.accepted

    def trial(carry: tuple[jax.Array, Found]) -> tuple[jax.Array, Found]:
        count, _ = carry
        shrink = jnp.asarray(decay, theta.dtype) ** count
        candidate = theta + shrink * x
        after = evaluate(candidate)
        # comparisons with a NaN are False: a candidate that overflows is never taken
        good = (after.kl <= delta) & (after.cost - before.cost <= room)
        good &= (after.loss < before.loss) | ((c > 0) & jnp.isfinite(after.loss))
        return count + 1, Found(jnp.where(good, candidate, theta), good, jnp.where(good, shrink, 0.0))

    nothing = Found(theta, jnp.zeros((), bool), jnp.zeros((), theta.dtype))
    return jax.lax.while_loop(unfinished, trial, (jnp.zeros((), jnp.int32), nothing))[1]
