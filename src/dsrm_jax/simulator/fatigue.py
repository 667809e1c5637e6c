"""Fatigue: what was shown lately is clicked less, the item itself and whatever shares its categories.

The exposure effect of CIRS (Gao et al. 2022, arXiv 2204.01266; chongminggao/CIRS-codes) and DORL: e = sum over what was shown
before of gamma exp(-age / tau), by which the reward is divided, r / (1 + e). There it weighs distances between items; here an
item counts for itself and for its categories, each with a weight of its own, and the odds of a click are divided.

Shapes: K slate size, S slots remembered, C categories, N items.
"""

from functools import partial

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.settings import check
from dsrm_jax.simulator.mechanism import Mechanism, categories_of
from dsrm_jax.simulator.settings import FatigueConfig, NoRepeatsConfig
from dsrm_jax.simulator.world import World


@struct.dataclass
class Exposure:
    """What was shown in a session, the older the less it counts."""

    item: Int[Array, "S"]  # catalogue positions, oldest first; -1 where there is none
    weight: Float[Array, "S"]  # decay to the power of the slot's age in steps; 0 where there is none
    category: Float[Array, "C"]  # sum over all that was shown of decay to the power of its age, by category


def forget(slots: int, num_categories: int) -> Exposure:
    """Return the exposure of a session that begins."""
    return Exposure(
        jnp.full(slots, -1, jnp.int32), jnp.zeros(slots, jnp.float32), jnp.zeros(num_categories, jnp.float32)
    )


def show(
    exposure: Exposure,
    slate: Int[Array, "K"],
    categories: Bool[Array, "J C"] | None,
    *,
    decay: float | Float[Array, ""],
) -> Exposure:
    """Return the exposure after a slate: all counts fade by `decay`, its items count 1, the oldest slots are forgotten."""
    num_slots, size = exposure.item.shape[0], slate.shape[0]
    category = exposure.category
    if categories is not None:
        category = decay * category + jnp.sum(categories[slate], axis=0, dtype=jnp.float32)
    return Exposure(
        jnp.concatenate([exposure.item, slate])[-num_slots:],
        jnp.concatenate([decay * exposure.weight, jnp.ones(size, jnp.float32)])[-num_slots:],
        category,
    )


def item_counts(exposure: Exposure, items: Int[Array, "N"]) -> Float[Array, "N"]:
    """Return the faded number of times that each item was shown."""
    same = items[:, None] == exposure.item[None, :]
    return jnp.sum(jnp.where(same, exposure.weight, 0.0), axis=1)


def category_counts(exposure: Exposure, items: Int[Array, "N"], categories: Bool[Array, "J C"]) -> Float[Array, "N"]:
    """Return the faded number of showings of each item's categories, the mean over them; 0 without any."""
    own = categories[items].astype(jnp.float32)
    return own @ exposure.category / jnp.maximum(jnp.sum(own, axis=1), 1.0)


def make_fatigue(
    *,
    item: float = FatigueConfig.item,
    category: float = FatigueConfig.category,
    decay: float = FatigueConfig.decay,
    slots: int = FatigueConfig.slots,
) -> Mechanism:
    """Build fatigue: click odds are divided by 1 + `item` times `item_counts` + `category` times `category_counts`.

    The keywords are fields of `FatigueConfig`; all but the slots may be traced. A policy is shown each category's count over
    the number of items of a slate that never changes, (1 - decay) times the count.

    Raises:
        InputError: a value out of range, or the world's items have no categories.
    """
    check(FatigueConfig, "fatigue", **locals())

    def feel(exposure: Exposure, trait: tuple[()], items: Int[Array, "N"], world: World) -> Float[Array, "N"]:
        effect = item * item_counts(exposure, items)
        return -jnp.log1p(effect + category * category_counts(exposure, items, categories_of(world)))

    return Mechanism(
        "fatigue",
        start=lambda key, trait, world: forget(slots, categories_of(world).shape[1]),
        step=lambda key, exposure, trait, slate, clicks, world: show(
            exposure, slate, categories_of(world), decay=decay
        ),
        feel=feel,
        observe=lambda exposure: (1 - decay) * exposure.category,
    )


def make_no_repeats(*, slots: int = NoRepeatsConfig.slots, loss: float = NoRepeatsConfig.loss) -> Mechanism:
    """Build the rule that nothing is clicked twice: an item among the last `slots` shown in the session loses `loss` from its
    logit.

    With slots for all of a session's items nothing can be repeated in it. The keywords are fields of `NoRepeatsConfig`
    (`InputError` out of range). A policy is shown the share of slots that held an item not shown before, of those filled so
    far.
    """
    check(NoRepeatsConfig, "no_repeats", **locals())
    forgotten = partial(show, categories=None, decay=1.0)

    def feel(exposure: Exposure, trait: tuple[()], items: Int[Array, "N"], world: World) -> Float[Array, "N"]:
        return jnp.where(item_counts(exposure, items) > 0, -loss, 0.0)

    def novel(exposure: Exposure) -> Float[Array, "1"]:
        same = exposure.item[:, None] == exposure.item[None, :]
        repeated = jnp.any(jnp.tril(same, k=-1), axis=1)
        filled = exposure.weight > 0
        return (jnp.sum(filled & ~repeated) / jnp.maximum(jnp.sum(filled), 1))[None]

    return Mechanism(
        "no_repeats",
        start=lambda key, trait, world: forget(slots, 0),
        step=lambda key, exposure, trait, slate, clicks, world: forgotten(exposure, slate),
        feel=feel,
        observe=novel,
    )
