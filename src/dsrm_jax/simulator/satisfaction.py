"""Long-term satisfaction: what was shown lately wears users out, each beyond a tolerance of their own.

RecSim's long-term satisfaction (Ie et al. 2019, arXiv 1909.04847; google-research/recsim,
environments/long_term_satisfaction.py) with popular items in the place of clickbait: net exposure is a leaky average of the
popular share shown. There it lowers engagement linearly, which has a corner solution (never show what wears out); here it does
so only beyond a user's tolerance.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dsrm_jax.settings import check
from dsrm_jax.simulator.mechanism import Mechanism
from dsrm_jax.simulator.settings import SatisfactionConfig
from dsrm_jax.simulator.world import World


def exposure_after(
    exposure: Float[Array, ""], slate: Int[Array, "K"], world: World, *, memory: float | Float[Array, ""]
) -> Float[Array, ""]:
    """Return n' = memory n + (1 - memory) s, s the slate's popular share."""
    return memory * exposure + (1 - memory) * jnp.mean(world.is_popular[slate].astype(jnp.float32))


def make_satisfaction(
    *,
    memory: float = SatisfactionConfig.memory,
    start: float = SatisfactionConfig.start,
    slope: float = SatisfactionConfig.slope,
    lowest_tolerance: float = SatisfactionConfig.lowest_tolerance,
    highest_tolerance: float = SatisfactionConfig.highest_tolerance,
) -> Mechanism:
    """Build satisfaction: every click logit loses slope max(0, n - tau_u), n the net popular exposure before the slate.

    Tolerances tau_u are uniform between the two bounds. The keywords are fields of `SatisfactionConfig` (`InputError` out of
    range); they may be traced. The platform is shown n.
    """
    check(SatisfactionConfig, "satisfaction", **locals())

    def feel(exposure: Float[Array, ""], tolerance: Float[Array, ""], items: jax.Array, world: World) -> jax.Array:
        return jnp.broadcast_to(-slope * jnp.maximum(0.0, exposure - tolerance), items.shape)

    return Mechanism(
        "satisfaction",
        start=lambda key, tolerance, world: jnp.asarray(start, jnp.float32),
        step=lambda key, exposure, tolerance, slate, clicks, world: exposure_after(
            exposure, slate, world, memory=memory
        ),
        feel=feel,
        traits=lambda key, world: jax.random.uniform(
            key, (world.num_users,), minval=lowest_tolerance, maxval=highest_tolerance
        ),
        observe=lambda exposure: exposure[None],
    )
