"""Interests that drift within a session: a part that comes and goes by itself, and one that clicks feed.

Shapes: C categories, K slate size, N items.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.settings import check
from dsrm_jax.simulator.mechanism import Mechanism, categories_of
from dsrm_jax.simulator.settings import DriftConfig
from dsrm_jax.simulator.world import World

RATE_DECAY = 0.9  # of the clicks and slots by category that a policy is shown
PRIOR = 0.5


@struct.dataclass
class Interests:
    """Where a user's interests stand, by category, and what the platform counts of their answers."""

    passing: Float[Array, "C"]  # click logit of the category, from an AR(1) process
    fed: Float[Array, "C"]  # in [-1, 1], what clicks have made of the interest
    shown: Float[Array, "C"]  # slots of the category, fading
    clicked: Float[Array, "C"]  # those of them that were clicked


def make_drift(
    *,
    spread: float = DriftConfig.spread,
    memory: float = DriftConfig.memory,
    malleability: float = DriftConfig.malleability,
    reach: float = DriftConfig.reach,
) -> Mechanism:
    r"""Build drift: an item's click logit moves by the mean over its categories of z_c + reach w_c.

    z is AR(1) over the steps of a session, z' = memory z + sqrt(1 - memory^2) spread e: stationary and never observed. Clicks on
    two items of one category, `lag` steps apart, then covary by about (p (1 - p))^2 spread^2 memory^lag, p their chance: by the
    defaults .0020, .0014, .0010, .0007 at lags 0 to 3, p = .46. In KuaiRand-Pure's histories long views of two videos with the
    same first tag covary more than those of others, each less its video's rate and its user's mean, by .0029, .0010, .0014 and
    .0007 (+- .0003) where 1 to 2, 3 to 5, 6 to 12 and 13 to 24 videos lie between, of which 6 are a step.

    w is RecSim's interest evolution (google-research/recsim, environments/interest_evolution.py), which begins at 0: every click
    on an item of a category moves its w by y (1 - abs(w)) (1 - w), y the malleability, up with the chance (w + 1) / 2 and else
    down. There one item a step is clicked; here a slate's clicks are told together, each from the w before it, and |w| stays at
    most 1.

    The keywords are fields of `DriftConfig`; they may be traced. A policy is shown each category's click rate, fading.

    Raises:
        InputError: a value out of range, or the world's items have no categories.
    """
    check(DriftConfig, "drift", **locals())

    def start(key: jax.Array, trait: tuple[()], world: World) -> Interests:
        num = categories_of(world).shape[1]
        nothing = jnp.zeros(num, jnp.float32)
        return Interests(spread * jax.random.normal(key, (num,)), nothing, nothing, nothing)

    def step(
        key: jax.Array,
        interests: Interests,
        trait: tuple[()],
        slate: Int[Array, "K"],
        clicks: Bool[Array, "K"],
        world: World,
    ) -> Interests:
        passing_key, flip_key = jax.random.split(key)
        held = categories_of(world)[slate]
        noise = jax.random.normal(passing_key, interests.passing.shape)
        passing = memory * interests.passing + jnp.sqrt(1 - jnp.square(memory)) * spread * noise
        up = jax.random.uniform(flip_key, held.shape) < (interests.fed + 1) / 2
        size = malleability * (1 - jnp.abs(interests.fed)) * (1 - interests.fed)
        moved = jnp.sum(jnp.where(held & clicks[:, None], jnp.where(up, size, -size), 0.0), axis=0)
        return Interests(
            passing,
            jnp.clip(interests.fed + moved, -1.0, 1.0),
            RATE_DECAY * interests.shown + jnp.sum(held, axis=0),
            RATE_DECAY * interests.clicked + jnp.sum(held & clicks[:, None], axis=0),
        )

    def feel(interests: Interests, trait: tuple[()], items: Int[Array, "N"], world: World) -> Float[Array, "N"]:
        own = categories_of(world)[items].astype(jnp.float32)
        return own @ (interests.passing + reach * interests.fed) / jnp.maximum(jnp.sum(own, axis=1), 1.0)

    return Mechanism(
        "drift",
        start=start,
        step=step,
        feel=feel,
        observe=lambda interests: (interests.clicked + PRIOR) / (interests.shown + 2 * PRIOR),
    )
