"""How much users like popular items beside their taste: each in a measure of their own (appeal), and by their mood.

Both are this library's own; sizes are those under which a planner was measured to beat every rule that looks one step ahead.
"""

import jax
import jax.numpy as jnp

from dsrm_jax.settings import check
from dsrm_jax.simulator.mechanism import Mechanism
from dsrm_jax.simulator.settings import AppealConfig, MoodConfig


def make_appeal(
    *, offset: float = AppealConfig.offset, mean: float = AppealConfig.mean, spread: float = AppealConfig.spread
) -> Mechanism:
    """Build appeal: click logits are offset + gamma_u on popular items, gamma_u ~ N(mean, spread), and offset on others.

    The keywords are fields of `AppealConfig` (`InputError` out of range); they may be traced. There is nothing to remember.
    """
    check(AppealConfig, "appeal", **locals())
    return Mechanism(
        "appeal",
        start=lambda key, appeal, world: (),
        step=lambda key, memory, appeal, slate, clicks, world: (),
        feel=lambda memory, appeal, items, world: offset + jnp.where(world.is_popular[items], appeal, 0.0),
        traits=lambda key, world: mean + spread * jax.random.normal(key, (world.num_users,)),
    )


def make_mood(*, spread: float = MoodConfig.spread, memory: float = MoodConfig.memory) -> Mechanism:
    """Build mood: the click logits of popular items move by m, an AR(1) process over the steps of a session, never observed.

    m' = memory m + sqrt(1 - memory^2) spread e, e ~ N(0, 1), so that m ~ N(0, spread) at every step, the first too. The keywords
    are fields of `MoodConfig`; they may be traced.

    Raises:
        InputError: a value out of range.
    """
    check(MoodConfig, "mood", **locals())

    return Mechanism(
        "mood",
        start=lambda key, trait, world: spread * jax.random.normal(key),
        step=lambda key, mood, trait, slate, clicks, world: (
            memory * mood + jnp.sqrt(1 - jnp.square(memory)) * spread * jax.random.normal(key)
        ),
        feel=lambda mood, trait, items, world: jnp.where(world.is_popular[items], mood, 0.0),
    )
