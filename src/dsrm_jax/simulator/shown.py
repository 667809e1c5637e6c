"""What a platform itself knows of a session under way: shares and click rates of the two groups of items, fading with age.

Shapes: K slate size.
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.simulator.world import World

SHARE_DECAYS = (0.5, 0.8, 0.95)
RATE_DECAYS = (0.8, 0.95)
START_SHARE = 0.4  # the popular share that a session starts from
PRIOR = 0.5  # clicks, and as many skips, that a group's rate starts from


@struct.dataclass
class Shown:
    """Leaky statistics of one session, and of the log that the user arrived with."""

    arrival_share: Float[Array, "..."]  # popular share of the logged events that the user arrived with
    share: Float[Array, "... 3"]  # popular share of the slates, at each of `SHARE_DECAYS`
    slots: Float[Array, "... 2 2"]  # slots of the long tail and of the popular group, at each of `RATE_DECAYS`
    clicked: Float[Array, "... 2 2"]  # those of them that were clicked


def arrival_share(world: World, row: Int[Array, ""], length: Int[Array, ""]) -> Float[Array, ""]:
    """Return the popular share of the `length` events before a log row, `START_SHARE` where there is none."""
    assert world.popular_rows is not None
    popular = world.popular_rows[row] - world.popular_rows[row - length]
    return jnp.where(length > 0, popular / jnp.maximum(length, 1), START_SHARE)


def start(arrival_share: Float[Array, ""]) -> Shown:
    """Return the statistics of a user who arrives."""
    nothing = jnp.zeros((2, 2), jnp.float32)
    return Shown(arrival_share, jnp.full(len(SHARE_DECAYS), START_SHARE, jnp.float32), nothing, nothing)


def step(shown: Shown, is_popular: Bool[Array, "K"], clicks: Bool[Array, "K"]) -> Shown:
    """Return the statistics after a slate: every average moves the share 1 - decay of the way, every count fades by it."""
    decay, fading = jnp.array(SHARE_DECAYS, jnp.float32), jnp.array(RATE_DECAYS, jnp.float32)[:, None]
    group = jnp.stack([~is_popular, is_popular])
    return Shown(
        shown.arrival_share,
        decay * shown.share + (1 - decay) * jnp.mean(is_popular.astype(jnp.float32)),
        fading * shown.slots + jnp.sum(group, axis=1),
        fading * shown.clicked + jnp.sum(group & clicks, axis=1),
    )


def observe(shown: Shown) -> Float[Array, "8"]:
    """Return the arrival share, the shares shown, and the click rates of long tail and popular group at each decay."""
    rate = (shown.clicked + PRIOR) / (shown.slots + 2 * PRIOR)
    return jnp.concatenate([shown.arrival_share[None], shown.share, rate.ravel()])
