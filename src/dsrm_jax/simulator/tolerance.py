"""Tolerance: a slate too far from the popular share that a user is at ease with costs temper.

HER4IF (github.com/1163710212/HER4IF, env/KREnvironment_WholeSession_GPU.py) leaves this rule commented out beside the one that
the paper took over, with the user's own popular ratio as the centre. Here the platform is told the popular share of a few
choices that the user made elsewhere, and of the centre nothing else: who wants it must infer it from there. The log cannot tell
it, whose popular shares are what policies showed. Tied to them the centre was all but unknown on arrival (the last 50 events of
the synthetic logs left 97 and 78 % of its variance), and the extremes were users with few rows, who rarely arrive.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dsrm_jax.settings import check
from dsrm_jax.simulator.mechanism import Mechanism
from dsrm_jax.simulator.settings import ToleranceConfig
from dsrm_jax.simulator.world import World


def make_tolerance(
    *,
    bound: float = ToleranceConfig.bound,
    penalty: int = ToleranceConfig.penalty,
    mean: float = ToleranceConfig.mean,
    spread: float = ToleranceConfig.spread,
    choices: int = ToleranceConfig.choices,
) -> Mechanism:
    """Build tolerance: `penalty` steps of temper where abs(s - c_u) reaches `bound`, s the slate's popular share.

    The centres c_u are N(mean, spread), held within [0, 1]. A policy is shown which share of `choices` independent choices, each
    of a popular item with the chance c_u, were of one: drawn anew when the user arrives, the same all session. The keywords are
    fields of `ToleranceConfig`; all but `choices` may be traced.

    Raises:
        InputError: a value out of range.
    """
    check(ToleranceConfig, "tolerance", **locals())

    def cost(
        memory: Float[Array, ""], centre: Float[Array, ""], slate: Int[Array, "K"], world: World
    ) -> Int[Array, ""]:
        share = jnp.mean(world.is_popular[slate].astype(jnp.float32))
        return penalty * slate.shape[0] * (jnp.abs(share - centre) >= bound).astype(jnp.int32)

    return Mechanism(
        "tolerance",
        start=lambda key, centre, world: jnp.mean((jax.random.uniform(key, (choices,)) < centre).astype(jnp.float32)),
        step=lambda key, memory, centre, slate, clicks, world: memory,
        cost=cost,
        traits=lambda key, world: jnp.clip(mean + spread * jax.random.normal(key, (world.num_users,)), 0.0, 1.0),
        observe=lambda memory: memory[None],
    )
