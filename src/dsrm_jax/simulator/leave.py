"""When a simulated user leaves: temper, in exact integer units of 1/K of a step.

A session starts with a temper of `max_len` steps. A step costs 2 - r, r the slate's mean click, plus `ad_penalty` where the slate
leans too far to one group of items; the user leaves once less than one step's worth is left (KuaiSim's rule, made fairness-aware
by the paper). With K shown items r is a multiple of 1/K, so K times the temper is an integer and no comparison ever rounds. It
follows the clicks, whatever the reward is.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from dsrm_jax.types import PyTree

BOUND_TOLERANCE = 1e-4


class Leave(NamedTuple):
    """When a user leaves, as pure functions of one user."""

    start: Callable[[], PyTree]  # `() -> memory`, a pytree of arrays: what the rule remembers of a session that begins
    # `(memory, clicks (K,) bool, num_popular () int32) -> (memory, left () bool)` after each slate
    step: Callable[[PyTree, Bool[Array, "K"], Int[Array, ""]], tuple[PyTree, Bool[Array, ""]]]
    # `(num_popular () int32) -> () bool`, whether a slate counts as off balance; None: by the environment's `ad_bound`
    broken: Callable[[Int[Array, ""]], Bool[Array, ""]] | None = None
    # `(memory, amount () int32) -> (memory, left () bool)`, what a mechanism's `cost`, in units of 1/K of a step, takes; None:
    # such mechanisms and this rule do not go together
    charge: Callable[[PyTree, Int[Array, ""]], tuple[PyTree, Bool[Array, ""]]] | None = None


def make_temper(*, slate_size: int, max_len: int, ad_bound: float | Array, ad_penalty: int) -> Leave:
    """Build the paper's rule: temper, lost by every slate, most by those that are not clicked or off balance.

    The keywords are fields of `EnvironmentConfig`, which says what they mean; `ad_bound` may be traced.
    """
    unbalanced = unbalanced_slates(slate_size, ad_bound)

    def start() -> Int[Array, ""]:
        return jnp.asarray(slate_size * max_len, jnp.int32)

    def step(
        temper: Int[Array, ""], clicks: Bool[Array, "K"], num_popular: Int[Array, ""]
    ) -> tuple[Int[Array, ""], Bool[Array, ""]]:
        num_clicks = jnp.sum(clicks, dtype=jnp.int32)
        loss = jnp.clip(2 * slate_size - num_clicks, 0, 2 * slate_size)
        temper = temper - (loss + slate_size * ad_penalty * unbalanced[num_popular].astype(jnp.int32))
        return temper, temper < slate_size

    def charge(temper: Int[Array, ""], amount: Int[Array, ""]) -> tuple[Int[Array, ""], Bool[Array, ""]]:
        return temper - amount, temper - amount < slate_size

    return Leave(start, step, lambda num_popular: unbalanced[num_popular], charge)


def make_stay() -> Leave:
    """Build the rule of users who never leave by themselves: mechanisms or the cap on a session's steps end it."""
    return Leave(start=lambda: (), step=lambda memory, clicks, num_popular: (memory, jnp.zeros((), bool)))


def unbalanced_slates(slate_size: int, ad_bound: float | Array) -> Bool[Array, "K+1"]:
    """Mark the numbers n of popular items with which a slate breaks the bound, |2n - K| >= ad_bound K.

    The bound is read as the decimal that was written: .28 is 28/100, whereas `.28 * 50` in floats exceeds 14 and would let a
    slate pass that breaks it. A traced bound (a sweep over it) is compared in float32 with a tolerance of 1e-4, which decides the
    same for every bound of at most three decimals and K to 500.

    With an even K the balanced slate n = K/2 breaks no positive bound. With an odd K no slate is balanced, and a bound of at most
    1/K (any bound, if K is 1) marks every slate. Above 1 no slate breaks it.

    The result is `(K + 1,)` bool, indexed by the number of popular items.
    """
    imbalance = np.abs(2 * np.arange(slate_size + 1) - slate_size)
    if isinstance(ad_bound, jax.core.Tracer):
        return jnp.asarray(imbalance, jnp.float32) >= ad_bound * slate_size - BOUND_TOLERANCE
    least = Fraction(str(np.asarray(ad_bound))) * slate_size
    return jnp.asarray([int(value) >= least for value in imbalance])


def expected_length(max_len: float, reward: float, penalty_rate: float) -> float:
    """Return the mean session length, in steps, to be expected from a policy's mean reward per step, in [0, 1].

    E[Len] is close to (T0 - 1) / (2 - reward + penalty) + 1/2, T0 being `max_len`: for independent clicks and K of 6 or 10 it is
    0.06 steps too short on average and never 0.3 off. `penalty_rate` is the mean extra temper lost per step: `ad_penalty` times
    the share of steps with an unbalanced slate.
    """
    return (max_len - 1) / (2 - reward + penalty_rate) + 0.5
