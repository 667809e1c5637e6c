"""What a purifier learns to reconstruct, and what it may look at meanwhile: the choices of `purifier.target`.

Nothing here knows more than the training log. Shapes: B histories of H slots, D state dimensions.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from dsrm_jax.errors import unknown_name
from dsrm_jax.simulator.world import History, SessionStarts

TARGETS = ("full", "split_half", "inverse_propensity", "popularity_corruption", "random_exposure")
PROPENSITY_EXPONENT = 0.5
POPULARITY_ROWS = 500_000


@struct.dataclass
class Visited:
    """Histories that a policy made in the training simulator.

    Attributes:
        history: `(M, H)`.
        user: `(M,)` int32, users of the training world.
    """

    history: History
    user: Int[Array, "M"]


def halves(
    key: Key[Array, ""], history: History, starts: SessionStarts, *, thin: bool
) -> tuple[Bool[Array, "B H"], Bool[Array, "B H"]]:
    """Split events into two random halves, one to look at and one to reconstruct.

    Args:
        key: typed PRNG key; consumed.
        history: B histories.
        starts: the training log's rows, for popularity.
        thin: keep events of the second half with probability min(1, (median / pop)^.5) only, pop being how often the log shows
            the item and the median one over the histories' events: over draws a sum weighted by clipped inverse propensities.

    Returns:
        `(first, second)`, disjoint.
    """
    half_key, thin_key = jax.random.split(key)
    first = jax.random.bernoulli(half_key, 0.5, history.item.shape)
    if not thin:
        return first, ~first
    exposure = jnp.maximum(exposures(starts, history.item), 1.0)
    chance = (jnp.median(exposure) / exposure) ** PROPENSITY_EXPONENT
    return first, ~first & (jax.random.uniform(thin_key, first.shape) < chance)


def exposures(starts: SessionStarts, item: Int[Array, "..."]) -> Float[Array, "..."]:
    """Return how often a sample of the log shows each item, scaled to the whole log."""
    rows = starts.item.shape[0]
    stride = max(rows // POPULARITY_ROWS, 1)
    sample = jnp.sort(starts.item[::stride])
    count = jnp.searchsorted(sample, item, side="right") - jnp.searchsorted(sample, item, side="left")
    return count * float(stride)


def corrupted(
    key: Key[Array, ""], history: History, starts: SessionStarts, rate: Float[Array, "B 1"]
) -> History:
    """Replace a share of the events by rows drawn from the whole log: what everybody is shown, and anybody's clicks on it.

    Args:
        key: typed PRNG key; consumed.
        history: B histories.
        starts: the training log's rows.
        rate: probability that an event is replaced, in [0, 1].
    """
    which_key, row_key = jax.random.split(key)
    slots = history.item.shape[-1]
    present = jnp.arange(slots) >= slots - history.length[..., None]
    replaced = present & (jax.random.uniform(which_key, history.item.shape) < rate)
    rows = jax.random.randint(row_key, history.item.shape, 0, starts.user.shape[0])
    return History(
        item=jnp.where(replaced, starts.item[rows], history.item),
        click=jnp.where(replaced, starts.click[rows], history.click),
        length=history.length,
    )


def every_second(fresh: Any, logged: Any) -> Any:
    """Return rows of two batches in turn: the first from `logged`, the second from `fresh`."""

    def mix(new: jax.Array, old: jax.Array) -> jax.Array:
        odd = jnp.arange(old.shape[0]) % 2 == 1
        return jnp.where(odd.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(mix, fresh, logged)


def check_target(target: str) -> None:
    """Raise `InputError` with the nearest valid name where a target does not exist."""
    if target not in TARGETS:
        raise unknown_name("purifier target", target, TARGETS)
