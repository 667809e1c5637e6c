"""A budget over the whole platform: the popular share of what all users are shown, held by one price.

Users do not feel it. The platform counts, exactly, in whole numbers over all users, and moves a price on popular exposure by
integral control (dual ascent on the budget, as pacing does with advertisers' budgets: Balseiro and Gur 2019, Management Science
65). A manager that pays the price gives each user the share that costs least.

Shapes: B lanes in parallel, W steps of the window.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from dsrm_jax.settings import check
from dsrm_jax.simulator.mechanism import Mechanism
from dsrm_jax.simulator.settings import PlatformConfig
from dsrm_jax.simulator.world import World


@struct.dataclass
class Platform:
    """What one lane holds: its own last slate until it is counted, and what all lanes know alike."""

    popular: Int[Array, "..."]  # popular items of the slate that was not counted yet
    slots: Int[Array, "..."]  # items of it; 0 where there is none
    window: Int[Array, "... W 2"]  # popular items and items shown to all users in the last W steps, oldest first
    price: Float[Array, "..."]  # of a popular share of 1


def window_share(platform: Platform, *, empty: float | Float[Array, ""]) -> Float[Array, "..."]:
    """Return the popular share of the window, `empty` where nothing was shown in it."""
    popular, slots = jnp.moveaxis(jnp.sum(platform.window, axis=-2), -1, 0)
    return jnp.where(slots > 0, popular / jnp.maximum(slots, 1), empty)


def make_platform(
    *,
    target: float = PlatformConfig.target,
    window: int = PlatformConfig.window,
    gain: float = PlatformConfig.gain,
    price: float = PlatformConfig.price,
    largest_price: float = PlatformConfig.largest_price,
) -> Mechanism:
    """Build the platform: after every step price += gain (p - target n) / (B K), held within +-`largest_price`.

    p of the n items shown to the users still there are popular; B K items would be shown to B users, so that what a few who are
    left get moves the price little. A policy is shown the window's share and the price; `fairness="platform"` charges a manager
    with it. The keywords are fields of `PlatformConfig` (`InputError` out of range); all but the window may be traced.
    """
    check(PlatformConfig, "platform", **locals())

    def start(key: jax.Array, trait: tuple[()], world: World) -> Platform:
        nothing = jnp.zeros((), jnp.int32)
        return Platform(nothing, nothing, jnp.zeros((window, 2), jnp.int32), jnp.asarray(price, jnp.float32))

    def couple(memory: Platform) -> Platform:
        popular, slots, most = jnp.sum(memory.popular), jnp.sum(memory.slots), jnp.max(memory.slots)
        error = (popular - target * slots) / jnp.maximum(memory.slots.shape[0] * most, 1)
        latest = jnp.broadcast_to(jnp.stack([popular, slots]), (*memory.slots.shape, 1, 2))
        counted = jnp.zeros_like(memory.slots)
        return Platform(
            counted,
            counted,
            jnp.concatenate([memory.window[:, 1:], latest], axis=1),
            jnp.clip(memory.price + gain * error, -largest_price, largest_price),
        )

    return Mechanism(
        "platform",
        start=start,
        step=lambda key, memory, trait, slate, clicks, world: replace(
            memory,
            popular=jnp.sum(world.is_popular[slate], dtype=jnp.int32),
            slots=jnp.full((), slate.shape[0], jnp.int32),
        ),
        observe=lambda memory: jnp.stack([window_share(memory, empty=target), memory.price]),
        couple=couple,
        price=lambda memory: memory.price,
    )
