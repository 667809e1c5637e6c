"""Fair of Eq. (4): how evenly a slate spreads exposure."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.agent import Rollout
from dsrm_jax.errors import InputError

MEMORY = 0.99  # an update's exposure counts fade by this factor with every later update


@struct.dataclass
class ShownCounts:
    """How often each item was shown, lately: `count` is `(J,)` float32, fading with age."""

    count: Float[Array, "J"]


def start_counts(num_items: int) -> ShownCounts:
    """Return the counts of a policy that has shown nothing yet."""
    return ShownCounts(jnp.zeros(num_items, jnp.float32))


def observe_slates(shown: ShownCounts, slate: Int[Array, "..."]) -> ShownCounts:
    """Return the counts after the slates of one rollout were shown."""
    return ShownCounts((MEMORY * shown.count).at[slate.reshape(-1)].add(1.0))


def item_gini(count: Float[Array, "J"]) -> Float[Array, ""]:
    """Return the Gini coefficient of exposure over items, in [0, 1); 0 where nothing was shown.

    G = sum_i (2 i - J - 1) x_(i) / (J sum x), with x_(i) the i-th smallest count.
    """
    size = count.shape[0]
    rank = 2.0 * jnp.arange(1, size + 1) - size - 1
    return jnp.sum(rank * jnp.sort(count)) / (size * jnp.maximum(jnp.sum(count), 1e-9))


def marginal_gini(count: Float[Array, "J"]) -> Float[Array, "J"]:
    """Return how fast the item Gini grows with each item's exposure, times the total exposure.

    From the definition in `item_gini`: (2 i - J - 1) / J - G, with i the item's rank, the middle one among equals. It lies in
    (-2, 1); showing a rarely shown item lowers the Gini, showing a favourite raises it.
    """
    size = count.shape[0]
    ordered = jnp.sort(count)
    below = jnp.searchsorted(ordered, count, side="left")
    upto = jnp.searchsorted(ordered, count, side="right")
    rank = 0.5 * (below + upto + 1).astype(jnp.float32)
    return (2.0 * rank - size - 1) / size - item_gini(count)


def slate_fairness(shown: ShownCounts, rollout: Rollout, *, kind: str) -> Float[Array, "T B"]:
    """Return Fair of every slate of a rollout.

    Args:
        shown: counts before the rollout (kind="gini").
        rollout: for its slates and popular shares.
        kind: `balance` is -abs(2s - 1), in [-1, 0]; `gini` is minus the mean over the slate of `marginal_gini`; `platform` is
            minus what the platform charges for the slate, its price times s (`Rollout.price`).

    Raises:
        InputError: `platform` in a world whose platform charges nothing.
    """
    if kind == "platform":
        if rollout.price is None:
            raise InputError(
                "agent.fairness is platform, and in this world no platform has a price: choose --world platform, or add it to "
                "world.mechanisms"
            )
        return -rollout.price * rollout.popular_share
    if kind == "balance":
        return -jnp.abs(2.0 * rollout.popular_share - 1.0)
    marginal: jax.Array = marginal_gini(shown.count)
    return -jnp.mean(marginal[rollout.slate], axis=-1)
