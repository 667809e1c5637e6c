"""Boredom by topic and influence of clicks: the two effects of SARDINE (Deffayet et al., ACM TORS 2024), as pure functions.

A user remembers the clicks of the last `window` steps, at most `kept` of them. A topic that holds `threshold` or more of them
bores for `timeout` steps. And each click draws the user's vector towards what was clicked. Both are as in the public repository
naver/sardine, `sardine/simulator.py` (`_update_user_state`, `_adjust_user_embedds`, `_clicked_item_influence`).

Shapes: K slate size, C topics, R clicks that are remembered at most, F factors.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.errors import InputError
from dsrm_jax.settings import check
from dsrm_jax.simulator.mechanism import Mechanism, categories_of
from dsrm_jax.simulator.response import FactorResponse
from dsrm_jax.simulator.settings import BoredomConfig, InfluenceConfig
from dsrm_jax.simulator.world import World
from dsrm_jax.types import PyTree


@struct.dataclass
class Boredom:
    """What one user was shown too much of."""

    item: Int[Array, "R"]  # `(R,)` int32 catalogue positions of the latest clicks, newest last
    age: Int[Array, "R"]  # `(R,)` int32, steps since each, 0 for the latest slate's; `window` and above: forgotten
    count: Int[Array, "C"]  # `(C,)` int32, of each topic the clicks that are remembered
    bored: Bool[Array, "C"]  # `(C,)` bool
    timeout: Int[Array, "C"]  # `(C,)` int32 in [1, timeout], steps that boredom still lasts; `timeout` where not bored


def start_boredom(*, num_topics: int, window: int, kept: int, timeout: int) -> Boredom:
    """Return the memory of a user who has clicked nothing."""
    return Boredom(
        item=jnp.zeros(kept, jnp.int32),
        age=jnp.full(kept, window, jnp.int32),
        count=jnp.zeros(num_topics, jnp.int32),
        bored=jnp.zeros(num_topics, bool),
        timeout=jnp.full(num_topics, timeout, jnp.int32),
    )


def bore(
    boredom: Boredom,
    slate: Int[Array, "K"],
    clicks: Bool[Array, "K"],
    topics: Bool[Array, "J C"],
    *,
    threshold: int,
    window: int,
    timeout: int,
) -> Boredom:
    """Return the memory after a slate: clicks age, boredom runs out, and topics that fill the window begin to bore.

    `slate` holds catalogue positions; `topics` marks the topics of each item of the catalogue (SARDINE: its main one alone). Of
    the clicks of one slate the lower slots are the newer. A topic that is bored of already is not bored of anew before its time
    is up.
    """
    kept = boredom.item.shape[0]
    item = jnp.concatenate([boredom.item, slate])
    age = jnp.concatenate([boredom.age + 1, jnp.where(clicks, 0, window)])
    remembered = age < window
    newer = jnp.cumsum(remembered[::-1])[::-1] - 1
    place = (kept - 1 - newer == jnp.arange(kept)[:, None]) & remembered
    item, age = jnp.sum(place * item, axis=1), jnp.where(jnp.any(place, axis=1), jnp.sum(place * age, axis=1), window)
    count = jnp.sum(topics[item] & (age < window)[:, None], axis=0, dtype=jnp.int32)

    left = boredom.timeout - boredom.bored
    still = boredom.bored & (left != 0)
    return Boredom(item, age, count, still | (count >= threshold), jnp.where(still, left, timeout))


def influence(
    vector: Float[Array, "F"],
    items: Float[Array, "K F"],
    clicks: Bool[Array, "K"],
    *,
    omega: float,
    scalar_mean: bool = False,
) -> Float[Array, "F"]:
    """Return a user's vector after a slate, omega u + (1 - omega) m at the norm that it had; m is the mean of the clicked items.

    The vectors of the slate's items are scaled so that norm 1 is as long as the user's. Without a click nothing moves.

    With `scalar_mean` m is instead one number, the mean over ALL entries of the clicked items' vectors, the same for every
    component: a FAULT of naver/sardine, `sardine/simulator.py`, `_clicked_item_influence` (`np.mean` without an axis), by which
    every click makes users like everything a little more. Its ids with influence need it for parity.
    """
    norm = jnp.maximum(jnp.linalg.norm(vector), 1e-12)
    mean = clicks @ items / jnp.maximum(jnp.sum(clicks), 1)
    drawn = omega * vector / norm + (1 - omega) * (jnp.mean(mean) if scalar_mean else mean)
    moved = drawn * norm / jnp.maximum(jnp.linalg.norm(drawn), 1e-12)
    return jnp.where(jnp.any(clicks), moved, vector)


@struct.dataclass
class Interest:
    """What one SARDINE user remembers: what bores, and the vector that clicks have moved."""

    boredom: Boredom
    vector: Float[Array, "F"]  # `(F,)` float32, the long-term one: what the user likes when nothing bores


def make_boredom(
    *,
    kind: Literal["churn", "topic"] = BoredomConfig.kind,
    threshold: int = BoredomConfig.threshold,
    window: int = BoredomConfig.window,
    kept: int = BoredomConfig.kept,
    timeout: int = BoredomConfig.timeout,
    loss: float = BoredomConfig.loss,
) -> Mechanism:
    """Build boredom over the categories of any world: what bores loses `loss` from its click logit.

    The keywords are fields of `BoredomConfig`. The platform is shown each category's remembered clicks over `threshold`, at most
    1, as SARDINE shows them.

    Raises:
        InputError: a value out of range, or the world's items have no categories.
    """
    check(BoredomConfig, "boredom", **locals())

    def feel(boredom: Boredom, trait: PyTree, items: Int[Array, "N"], world: World) -> Float[Array, "N"]:
        boring = jnp.any(boredom.bored & (categories_of(world)[items] | (kind == "churn")), axis=-1)
        return -loss * boring.astype(jnp.float32)

    return Mechanism(
        "boredom",
        start=lambda key, trait, world: start_boredom(
            num_topics=categories_of(world).shape[1], window=window, kept=kept, timeout=timeout
        ),
        step=lambda key, boredom, trait, slate, clicks, world: bore(
            boredom, slate, clicks, categories_of(world), threshold=threshold, window=window, timeout=timeout
        ),
        feel=feel,
        observe=lambda boredom: jnp.minimum(1.0, boredom.count / threshold),
    )


def make_influence(
    *, omega: float = InfluenceConfig.omega, scalar_mean: bool = InfluenceConfig.scalar_mean
) -> Mechanism:
    """Build influence of clicks (`influence`) in any world whose users answer by factors.

    The keywords are fields of `InfluenceConfig`, which may be traced. The platform is shown nothing of it.

    Raises:
        InputError: a value out of range, or the world's response is not a `FactorResponse`.
    """
    check(InfluenceConfig, "influence", **locals())

    def feel(
        vector: Float[Array, "F"], own: Float[Array, "F"], items: Int[Array, "N"], world: World
    ) -> Float[Array, "N"]:
        return factors_of(world).item[items] @ (vector - own)

    def step(
        key: jax.Array, vector: jax.Array, own: jax.Array, slate: jax.Array, clicks: jax.Array, world: World
    ) -> Float[Array, "F"]:
        return influence(vector, unit_items(world, slate), clicks, omega=omega, scalar_mean=scalar_mean)

    return Mechanism(
        "influence",
        start=lambda key, own, world: own,
        step=step,
        feel=feel,
        traits=lambda key, world: factors_of(world).user,
    )


def make_sardine(
    *,
    kind: Literal["churn", "topic"] = BoredomConfig.kind,
    threshold: int = BoredomConfig.threshold,
    window: int = BoredomConfig.window,
    kept: int = BoredomConfig.kept,
    timeout: int = BoredomConfig.timeout,
    omega: float = InfluenceConfig.omega,
    scalar_mean: bool = InfluenceConfig.scalar_mean,
) -> Mechanism:
    """Build SARDINE's users: what bores is taken out of the user's vector itself, which clicks move.

    With `kind` churn (`user_car` there, churn and return) the vector is zero while any topic bores; with topic (`user_tloi`,
    temporary loss of interest) its components of boring topics are zero, so that factors must be topics, one for each category.
    The other keywords are fields of `BoredomConfig` and `InfluenceConfig`. The platform is shown SARDINE's own observation, each
    topic's remembered clicks over `threshold`, at most 1.

    Raises:
        InputError: a value out of range, the world's response is not a `FactorResponse`, its items have no categories, or (of
            kind topic) not one for each factor.
    """
    check(BoredomConfig, "boredom", **{name: value for name, value in locals().items() if name in vars(BoredomConfig)})
    check(InfluenceConfig, "influence", omega=omega)

    def traits(key: jax.Array, world: World) -> Float[Array, "U F"]:
        user, num_topics = factors_of(world).user, categories_of(world).shape[1]
        if kind == "topic" and user.shape[1] != num_topics:
            raise InputError(
                f"users have {user.shape[1]} factors and items {num_topics} categories: boredom of kind topic takes "
                "components out of the user's vector, so expected one factor for each category; or use make_boredom"
            )
        return user

    def start(key: jax.Array, own: Float[Array, "F"], world: World) -> Interest:
        num_topics = categories_of(world).shape[1]
        return Interest(start_boredom(num_topics=num_topics, window=window, kept=kept, timeout=timeout), own)

    def feel(interest: Interest, own: Float[Array, "F"], items: Int[Array, "N"], world: World) -> Float[Array, "N"]:
        bored = interest.boredom.bored
        present = jnp.where(jnp.any(bored) if kind == "churn" else bored, 0.0, interest.vector)
        return factors_of(world).item[items] @ (present - own)

    def step(
        key: jax.Array,
        interest: Interest,
        own: Float[Array, "F"],
        slate: Int[Array, "K"],
        clicks: Bool[Array, "K"],
        world: World,
    ) -> Interest:
        topics = categories_of(world)
        boredom = bore(interest.boredom, slate, clicks, topics, threshold=threshold, window=window, timeout=timeout)
        if isinstance(omega, float | int) and omega == 1:
            return Interest(boredom, interest.vector)
        items = unit_items(world, slate)
        return Interest(boredom, influence(interest.vector, items, clicks, omega=omega, scalar_mean=scalar_mean))

    return Mechanism(
        "sardine",
        start=start,
        step=step,
        feel=feel,
        traits=traits,
        observe=lambda interest: jnp.minimum(1.0, interest.boredom.count / threshold),
    )


def factors_of(world: World) -> FactorResponse:
    """Return a world's response where it is one of factors, else raise `InputError`."""
    if not isinstance(world.response, FactorResponse):
        raise InputError(
            f"users answer by {type(world.response).__name__}, which has no vector for clicks to move: expected "
            "environment.response synthetic or fitted"
        )
    return world.response


def unit_items(world: World, items: Int[Array, "K"]) -> Float[Array, "K F"]:
    """Return the vectors of items, scaled so that the catalogue's longest has norm 1."""
    item = factors_of(world).item
    return item[items] / jnp.max(jnp.linalg.norm(item, axis=1))
