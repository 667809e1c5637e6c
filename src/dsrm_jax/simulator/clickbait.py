"""Clickbait against substance: what is clicked for its bait wears satisfaction down, and patience with it.

RecSim's long-term satisfaction as it is (google-research/recsim, environments/long_term_satisfaction.py): a click moves the net
positive exposure, e' = memory e - 2 (b - 1/2) + noise, b the item's clickbait in [0, 1]; satisfaction is sigmoid(sensitivity e).
There it scales engagement; here it scales the patience that a slate costs (and `satisfaction` has what it does to clicks).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.settings import check
from dsrm_jax.simulator.mechanism import Mechanism
from dsrm_jax.simulator.settings import ClickbaitConfig
from dsrm_jax.simulator.world import World


def clickbait(world: World, items: Int[Array, "N"]) -> Float[Array, "N"]:
    """Return how much of each item is bait, in (0, 1): the more popular the more, sigmoid of standardised log-popularity."""
    return jax.nn.sigmoid(world.log_popularity[items])


def make_clickbait(
    *,
    memory: float = ClickbaitConfig.memory,
    sensitivity: float = ClickbaitConfig.sensitivity,
    noise: float = ClickbaitConfig.noise,
    gain: float = ClickbaitConfig.gain,
    cost: float = ClickbaitConfig.cost,
) -> Mechanism:
    """Build clickbait: a slate costs round(`cost` K (1 - satisfaction)) / K steps of temper beside the paper's.

    e starts uniform within +-1/2 of 1 / (1 - memory), as there, and moves by each slate's clicks, bait taken in the mean over
    them; without a click it stays. Bait is clicked the more: click logits gain `gain` (b - 1/2). The keywords are fields of
    `ClickbaitConfig`; they may be traced. Satisfaction is not observed.

    Raises:
        InputError: a value out of range.
    """
    check(ClickbaitConfig, "clickbait", **locals())

    def satisfied(exposure: Float[Array, ""]) -> Float[Array, ""]:
        return jax.nn.sigmoid(sensitivity * exposure)

    def step(
        key: jax.Array,
        exposure: Float[Array, ""],
        trait: tuple[()],
        slate: Int[Array, "K"],
        clicks: Bool[Array, "K"],
        world: World,
    ) -> Float[Array, ""]:
        num_clicks = jnp.sum(clicks)
        bait = jnp.sum(jnp.where(clicks, clickbait(world, slate), 0.0)) / jnp.maximum(num_clicks, 1)
        moved = memory * exposure - 2 * (bait - 0.5) + noise * jax.random.normal(key)
        return jnp.where(num_clicks > 0, moved, exposure)

    def lost(exposure: Float[Array, ""], trait: tuple[()], slate: Int[Array, "K"], world: World) -> Int[Array, ""]:
        return jnp.round(cost * slate.shape[0] * (1 - satisfied(exposure))).astype(jnp.int32)

    return Mechanism(
        "clickbait",
        start=lambda key, trait, world: jax.random.uniform(key, minval=-0.5, maxval=0.5) / (1 - memory),
        step=step,
        feel=lambda exposure, trait, items, world: gain * (clickbait(world, items) - 0.5),
        cost=lost,
    )
