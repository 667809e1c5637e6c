"""What a platform itself knows of a session under way: shares and clicks of the two groups of items, fading with age.

Clicks are also kept weighted by how much popular content the user had seen by then: from both, who reads them can tell how users'
clicks fall with it, which is what their tolerance must be inferred from.

Shapes: K slate size, D decays; the two groups are the long tail and the popular one.
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.simulator.world import World

DECAYS = (0.5, 0.8, 0.95)
WEIGHED = 1  # of `DECAYS`, the one whose popular share weighs clicks: that of `satisfaction` and `retention`
START_SHARE = 0.4  # the popular share that a session starts from
PRIOR = 0.1  # slates of clicks, and as many of skips, that a group's rate starts from


@struct.dataclass
class Shown:
    """Leaky statistics of one session, and of the log that the user arrived with."""

    arrival_share: Float[Array, "..."]  # popular share of the logged events that the user arrived with
    share: Float[Array, "... D"]  # popular share of the slates, at each of `DECAYS`
    # slates shown, and slates clicked, of each group, `(..., 0)` as they are and `(..., 1)` weighted by the popular share of the
    # slates before them
    slots: Float[Array, "... D 2 2"]
    clicked: Float[Array, "... D 2 2"]


def arrival_share(world: World, row: Int[Array, ""], length: Int[Array, ""]) -> Float[Array, ""]:
    """Return the popular share of the `length` events before a log row, `START_SHARE` where there is none."""
    assert world.popular_rows is not None
    popular = world.popular_rows[row] - world.popular_rows[row - length]
    return jnp.where(length > 0, popular / jnp.maximum(length, 1), START_SHARE)


def start(arrival_share: Float[Array, ""]) -> Shown:
    """Return the statistics of a user who arrives."""
    nothing = jnp.zeros((len(DECAYS), 2, 2), jnp.float32)
    return Shown(arrival_share, jnp.full(len(DECAYS), START_SHARE, jnp.float32), nothing, nothing)


def step(shown: Shown, is_popular: Bool[Array, "K"], clicks: Bool[Array, "K"]) -> Shown:
    """Return the statistics after a slate: every average moves the share 1 - decay of the way, every count fades by it."""
    decay = jnp.array(DECAYS, jnp.float32)
    group = jnp.stack([~is_popular, is_popular])
    weight = jnp.stack([jnp.ones(()), shown.share[WEIGHED]])

    def count(old: Float[Array, "D 2 2"], slots: Bool[Array, "2 K"]) -> Float[Array, "D 2 2"]:
        return decay[:, None, None] * old + jnp.mean(slots.astype(jnp.float32), axis=1)[:, None] * weight

    return Shown(
        shown.arrival_share,
        decay * shown.share + (1 - decay) * jnp.mean(is_popular.astype(jnp.float32)),
        count(shown.slots, group),
        count(shown.clicked, group & clicks),
    )


def observe(shown: Shown) -> Float[Array, "34"]:
    """Return the arrival share, the shares shown, the groups' click rates at each decay, and the counts that they are of.

    The counts are shares of all slots of as many slates as a decay remembers.
    """
    rate = (shown.clicked[..., 0] + PRIOR) / (shown.slots[..., 0] + 2 * PRIOR)
    counts = jnp.stack([shown.slots, shown.clicked]) * (1 - jnp.array(DECAYS, jnp.float32))[:, None, None]
    return jnp.concatenate([shown.arrival_share[None], shown.share, rate.ravel(), counts.ravel()])
