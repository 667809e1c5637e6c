"""Tolerance: a slate too far from the popular share that a user is at ease with costs temper.

HER4IF (github.com/1163710212/HER4IF, env/KREnvironment_WholeSession_GPU.py) leaves this rule commented out beside the one that
the paper took over, with the user's own popular ratio as the centre. Here the centre shows in the log that the user arrives with,
and in nothing else: who wants it must infer it there.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import stats

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
) -> Mechanism:
    """Build tolerance: `penalty` steps of temper where abs(s - c_u) reaches `bound`, s the slate's popular share.

    The centres c_u are those quantiles of N(mean, spread), held within [0, 1], at which the users' popular shares lie among all
    users' (their own logged rows', `popular_shares`; equal shares share a centre). The keywords are fields of `ToleranceConfig`;
    bound, mean and spread may be traced.

    Raises:
        InputError: a value out of range.
    """
    check(ToleranceConfig, "tolerance", **locals())

    def cost(memory: tuple[()], centre: Float[Array, ""], slate: Int[Array, "K"], world: World) -> Int[Array, ""]:
        share = jnp.mean(world.is_popular[slate].astype(jnp.float32))
        return penalty * slate.shape[0] * (jnp.abs(share - centre) >= bound).astype(jnp.int32)

    def centres(key: jax.Array, world: World) -> Float[Array, "U"]:
        share = popular_shares(world)
        quantile = stats.norm.ppf((stats.rankdata(share) - 0.5) / len(share))
        return jnp.clip(mean + spread * jnp.asarray(quantile, jnp.float32), 0.0, 1.0)

    return Mechanism(
        "tolerance",
        start=lambda key, centre, world: (),
        step=lambda key, memory, centre, slate, clicks, world: (),
        cost=cost,
        traits=centres,
    )


def popular_shares(world: World) -> Float[np.ndarray, "U"]:
    """Return the popular share of each user's logged rows; of a user without any the mean of the others'."""
    assert world.popular_rows is not None
    first = np.asarray(world.starts.first)
    popular, rows = np.diff(np.asarray(world.popular_rows)[first]), np.diff(first)
    return np.where(rows > 0, popular / np.maximum(rows, 1), popular.sum() / max(rows.sum(), 1))
