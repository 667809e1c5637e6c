"""Rules that know the users: which items fill a slate, and how many of them are popular.

All fill a slate with the likeliest clicks of each group; they differ in how many slots are popular, and so in how far they look.

Shapes: U users, B sessions in parallel, K slate size, C = K + 1 counts, N and M nodes, L levels of patience.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dsrm_jax.simulator.environment import EnvState, Observation
from dsrm_jax.training.rollout import Act
from experiments.worlds import planning
from experiments.worlds.planning import Effects, Grid, User

TIRING = ("satisfaction", "retention")  # mechanisms that remember a net exposure, and whose trait is its threshold


class Items(NamedTuple):
    """Catalogue positions of each user's likeliest clicks of either group, best first."""

    popular: Int[Array, "U K"]
    tail: Int[Array, "U K"]


class Now(NamedTuple):
    """Where one session stands."""

    level: Int[Array, ""]  # patience left, units of 1/K of a step
    exposure: Float[Array, ""]  # net exposure n before the slate
    mood: Float[Array, ""]
    visit: Int[Array, ""]  # sessions of this user before this one, where users come back


# (user, the world's effects, where the session stands, one number) -> (C,) what each count is worth
Worth = Callable[[User, Effects, Now, Float[Array, ""]], Float[Array, "C"]]


def now(env: EnvState) -> Now:
    """Read where sessions `(B,)` stand, truth that no policy sees."""
    memory, zero = env.memory or {}, jnp.zeros(env.time.shape, jnp.float32)
    exposure = next((memory[name] for name in TIRING if name in memory), zero)
    visit = jnp.zeros_like(env.time) if env.visits is None else env.visits - 1
    return Now(env.temper, exposure, memory.get("mood", zero), visit)


def fill(items: Items, user: Int[Array, "B"], count: Int[Array, "B"]) -> Int[Array, "B K"]:
    """Return slates with `count` popular items, each group's best."""
    slot, count = jnp.arange(items.popular.shape[1]), count[:, None]
    tail = jnp.take_along_axis(items.tail[user], jnp.maximum(slot - count, 0), axis=1)
    return jnp.where(slot < count, items.popular[user], tail)


def by_count(
    worth: Worth,
    effects: Effects,
    users: User,
    items: Items,
    numbers: Float[Array, "U"],
    price: Float[Array, ""] | float = 0.0,
) -> Act:
    """Return the rule that shows the count that is worth most, the smaller of equals; every user has a number of their own.

    `price` is what the rule pays for the popular share that a slate shows beyond one half.
    """
    charge = price * (jnp.arange(effects.slate_size + 1) / effects.slate_size - 0.5)

    def act(key: jax.Array, env: EnvState, observation: Observation) -> tuple[Int[Array, "B K"], tuple[()]]:
        mine = jax.tree.map(lambda x: x[env.user], users)
        values = jax.vmap(lambda user, at, number: worth(user, effects, at, number))(mine, now(env), numbers[env.user])
        return fill(items, env.user, jnp.argmax(values - charge, axis=1).astype(jnp.int32)), ()

    return act


def clicks_of(user: User, effects: Effects, exposure: Float[Array, ""], mood: Float[Array, ""]) -> Float[Array, "C"]:
    """Return the mean click of the best slate of each count."""
    return jnp.mean(jax.nn.sigmoid(planning.count_logits(user, effects, exposure, mood)), axis=1)


def constant(user: User, effects: Effects, at: Now, number: Float[Array, ""]) -> Float[Array, "C"]:
    """A constant goal: `number` popular items in every slate."""
    return -jnp.abs(jnp.arange(effects.slate_size + 1) - number)


def myopic(user: User, effects: Effects, at: Now, number: Float[Array, ""]) -> Float[Array, "C"]:
    """Click-myopic: most clicks on this slate, whatever it costs."""
    return clicks_of(user, effects, at.exposure, at.mood)


def priced(user: User, effects: Effects, at: Now, number: Float[Array, ""]) -> Float[Array, "C"]:
    """Myopic less `number` times what the slate leaves behind: excess net exposure, and patience it costs beside clicks."""
    excess = jnp.maximum(planning.next_exposure(effects, at.exposure) - user.threshold, 0.0)
    return myopic(user, effects, at, number) - number * (excess + user.cost / effects.slate_size)


def aware(user: User, effects: Effects, at: Now, number: Float[Array, ""]) -> Float[Array, "C"]:
    """One-step-aware: the patience it costs beside clicks, and the next slate's clicks.

    Patience is worth r / (2 - r) clicks a step, r the myopic slate's; the next mood is taken to be the mean one.
    """
    first = myopic(user, effects, at, number)
    worth = jnp.max(first) / (2 - jnp.max(first))
    mood = effects.mood_correlation * at.mood
    after = planning.next_exposure(effects, at.exposure)
    second = jax.vmap(lambda n: jnp.max(clicks_of(user, effects, n, mood)))(after)
    return (1 + worth) * (first + second) - worth * user.cost / effects.slate_size


def draw_distinct(key: jax.Array, num_items: int, size: int, lanes: int) -> Int[Array, "B K"]:
    """Draw sets of items, all equally likely (Floyd's algorithm); the key is consumed."""
    drawn = jnp.full((lanes, size), -1, jnp.int32)
    keys = jax.random.split(key, size)
    for slot, last in enumerate(range(num_items - size, num_items)):
        pick = jax.random.randint(keys[slot], (lanes,), 0, last + 1)
        drawn = drawn.at[:, slot].set(jnp.where(jnp.any(drawn == pick[:, None], axis=1), last, pick))
    return drawn


def planned(
    effects: Effects,
    grid: Grid,
    users: User,
    items: Items,
    means: Float[Array, "U V L N M"],
    price: Float[Array, ""] | float = 0.0,
) -> Act:
    """Return the rule that looks one step ahead on each user's table; V tables where users come back, one elsewhere."""

    def act(key: jax.Array, env: EnvState, observation: Observation) -> tuple[Int[Array, "B K"], tuple[()]]:
        mine = jax.tree.map(lambda x: x[env.user], users)

        def count(user: User, at: Now, index: Int[Array, ""]) -> Int[Array, ""]:
            mine = index, at.visit
            values = planning.action_values(user, effects, grid, means, mine, at.level, at.exposure, at.mood, price)
            return jnp.argmax(values).astype(jnp.int32)

        return fill(items, env.user, jax.vmap(count)(mine, now(env), env.user)), ()

    return act
