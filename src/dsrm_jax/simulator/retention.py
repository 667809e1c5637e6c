"""Retention: users who leave come back the likelier the less what they were shown has worn them out, and remember it.

KuaiSim's cross-session environment (Zhao et al. 2023, arXiv 2309.12645) lets a session's satisfaction decide when a user is
back, at most 30 sessions long. There it is the mean reward, which adds nothing to plan; here it is the net popular exposure
beyond a tolerance.
"""

import jax
import jax.numpy as jnp

from dsrm_jax.settings import check
from dsrm_jax.simulator.mechanism import Mechanism
from dsrm_jax.simulator.satisfaction import exposure_after
from dsrm_jax.simulator.settings import RetentionConfig


def make_retention(
    *,
    memory: float = RetentionConfig.memory,
    start: float = RetentionConfig.start,
    base: float = RetentionConfig.base,
    slope: float = RetentionConfig.slope,
    lowest_tolerance: float = RetentionConfig.lowest_tolerance,
    highest_tolerance: float = RetentionConfig.highest_tolerance,
    visits: int = RetentionConfig.visits,
) -> Mechanism:
    """Build retention: who leaves is back with the chance sigmoid(base - slope max(0, n - tau_u)), n as in `satisfaction`.

    They come back with fresh temper and the n they left with, for at most `visits` sessions; tau_u is uniform between the two
    bounds. Clicks do not follow n. The keywords are fields of `RetentionConfig` (`InputError` out of range); all but the visits
    may be traced. A policy is shown n.
    """
    check(RetentionConfig, "retention", **locals())

    return Mechanism(
        "retention",
        start=lambda key, tolerance, world: jnp.asarray(start, jnp.float32),
        step=lambda key, exposure, tolerance, slate, clicks, world: exposure_after(
            exposure, slate, world, memory=memory
        ),
        returns=lambda exposure, tolerance: jax.nn.sigmoid(base - slope * jnp.maximum(0.0, exposure - tolerance)),
        visits=visits,
        traits=lambda key, world: jax.random.uniform(
            key, (world.num_users,), minval=lowest_tolerance, maxval=highest_tolerance
        ),
        observe=lambda exposure: exposure[None],
    )
