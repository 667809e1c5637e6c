"""The planning bound: the best that anyone who knows a user could earn, by a backward dynamic program over a session's state.

Which items fill a slate does not change the future: given how many of its K items are popular, the likeliest clicks of each group
are best, since more clicks never hurt (patience falls by 2 - r) and what a session remembers follows the count alone. So the
state is (patience, net exposure n, mood), the action a count, and a table over grids of n and mood is the optimum up to the
error of linear interpolation; `action_values` looks one step ahead on the table, from the exact n and mood.

All functions are of ONE user; callers map them. Shapes: K slate size, C = K + 1 counts (P of them may be shown), N nodes of n, M
nodes of mood, L levels of patience in units of 1/K of a step, 0 to K max_len; below K the user has left.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int
from scipy import stats


@struct.dataclass
class User:
    """What a planner knows of a user."""

    popular: Float[Array, "K"]  # `(K,)` click logits of the likeliest popular items, best first
    tail: Float[Array, "K"]  # `(K,)` the same of the long tail
    threshold: Float[Array, ""]  # tau, the net exposure to popular items from which the user tires; infinity: never
    cost: Int[Array, "C"]  # `(C,)` int32 patience lost for each count beside that for what is not clicked, units of 1/K


class Effects(NamedTuple):
    """What is the same for all users of a world; the defaults are a world without any effect."""

    slate_size: int = 6
    max_len: int = 30
    slope: float = 0.0  # logits lost per unit of excess max(0, n - tau)
    decay: float = 0.8  # beta of n' = beta n + (1 - beta) s
    start: float = 0.4  # n at arrival
    mood_deviation: float = 0.0  # stationary standard deviation of the popular items' common logit
    mood_correlation: float = 0.8  # of one step's mood with the last one's


class Grid(NamedTuple):
    """Nodes of the table and what follows from a node."""

    exposure: Float[np.ndarray, "N"]  # evenly spaced in [0, 1]
    mood: Float[np.ndarray, "M"]  # evenly spaced around 0; one node, 0, where there is no mood
    following: Float[np.ndarray, "M M"]  # weights of the nodes that give the mean of the next step's interpolated table
    arriving: Float[np.ndarray, "M"]  # the same for the mood at arrival


def make_grid(effects: Effects, *, exposures: int = 41, moods: int = 25, width: float = 3.5) -> Grid:
    """Return evenly spaced nodes; moods reach `width` stationary deviations, beyond which the last node's value is taken."""
    exposure = np.linspace(0.0, 1.0, exposures)
    if effects.mood_deviation == 0:
        return Grid(exposure, np.zeros(1), np.ones((1, 1)), np.ones(1))
    mood = np.linspace(-width, width, moods) * effects.mood_deviation
    step = effects.mood_deviation * np.sqrt(1 - effects.mood_correlation**2)
    following = np.stack([hat_weights(mood, effects.mood_correlation * value, step) for value in mood])
    return Grid(exposure, mood, following, hat_weights(mood, 0.0, effects.mood_deviation))


def hat_weights(nodes: Float[np.ndarray, "M"], mean: float, deviation: float) -> Float[np.ndarray, "M"]:
    """Return weights w with sum_j w_j f_j = E f(x), x normal and f linear between its values f_j at the nodes, constant outside.

    Closed form: the integral of a piecewise linear function against a normal density is one of its distribution and density.
    """
    z = (nodes - mean) / deviation
    # the primitive of the distribution function: integral of Phi up to z is z Phi(z) + phi(z)
    primitive = deviation * (z * stats.norm.cdf(z) + stats.norm.pdf(z))
    slopes = np.diff(primitive) / np.diff(nodes)  # mean of Phi over each interval
    return np.diff(np.concatenate([[0.0], slopes, [1.0]]))


def count_logits(
    user: User, effects: Effects, exposure: Float[Array, ""], mood: Float[Array, ""]
) -> Float[Array, "C K"]:
    """Return the click logits of the best slate of each count, at one net exposure and mood."""
    k = jnp.arange(effects.slate_size)
    counts = jnp.arange(effects.slate_size + 1)[:, None]
    is_popular = k < counts
    logit = jnp.where(is_popular, user.popular[k] + mood, user.tail[jnp.where(is_popular, 0, k - counts)])
    return logit - effects.slope * jnp.maximum(exposure - user.threshold, 0.0)


def number_clicked(probability: Float[Array, "K"]) -> Float[Array, "C"]:
    """Return the distribution of how many of K independent clicks there are (Poisson binomial)."""
    found = jnp.zeros(probability.shape[0] + 1).at[0].set(1.0)
    for p in probability:
        found = found * (1 - p) + jnp.concatenate([jnp.zeros(1), found[:-1]]) * p
    return found


def outcomes(user: User, effects: Effects, exposure: Float[Array, ""], mood: Float[Array, ""]) -> Float[Array, "C C"]:
    """Return `(count, clicks)`: how likely each number of clicks is on the best slate of each count."""
    return jax.vmap(number_clicked)(jax.nn.sigmoid(count_logits(user, effects, exposure, mood)))


def next_exposure(effects: Effects, exposure: Float[Array, "..."]) -> Float[Array, "... C"]:
    """Return n' after a slate of each count."""
    share = jnp.arange(effects.slate_size + 1) / effects.slate_size
    return effects.decay * exposure[..., None] + (1 - effects.decay) * share


def losses(user: User, effects: Effects) -> Int[Array, "C C"]:
    """Return `(count, clicks)`: patience lost, units of 1/K."""
    return user.cost[:, None] + 2 * effects.slate_size - jnp.arange(effects.slate_size + 1)


def plan(
    user: User,
    effects: Effects,
    grid: Grid,
    shown: Int[Array, "P"],
    price: Float[Array, ""] | float = 0.0,
    after: Float[Array, "N"] | None = None,
) -> Float[Array, "L N M"]:
    """Return the table of what is still to be earned by who has `level` patience left, net exposure n, and today's mood.

    Args:
        user: whose.
        effects: the world's.
        grid: nodes.
        shown: `(P,)` int32, the counts that may be shown: of one alone the table is the value of that constant goal.
        price: taken from the return for the popular share that each slate shows beyond one half.
        after: `(N,)` what leaving is worth at net exposure n, as in a world in which users come back; None: nothing.

    Returns:
        Levels 0 .. K max_len; at levels below K the user has left.
    """
    size, levels = effects.slate_size, effects.slate_size * effects.max_len + 1
    exposure, mood = jnp.asarray(grid.exposure, jnp.float32), jnp.asarray(grid.mood, jnp.float32)
    chance = jax.vmap(lambda n: jax.vmap(lambda m: outcomes(user, effects, n, m))(mood))(exposure)  # (N, M, C, C)
    chance = jnp.transpose(chance, (2, 3, 0, 1))[shown]
    clicked = jnp.arange(size + 1) / size
    earned = jnp.tensordot(clicked, chance, (0, 1)) - (price * (shown / size - 0.5))[:, None, None]
    lower, weight = nodes_around(next_exposure(effects, exposure).T[shown], len(grid.exposure))  # (P, N)
    following = jnp.asarray(grid.following, jnp.float32)
    left = jnp.zeros(exposure.shape) if after is None else after
    left = jnp.broadcast_to(left[:, None], (len(grid.exposure), len(grid.mood)))

    def ahead(value: Float[Array, "N M"]) -> Float[Array, "P N M"]:
        """Return the mean of a level's table after each count, from each node."""
        mean = value @ following.T
        return mean[lower] * (1 - weight[..., None]) + mean[lower + 1] * weight[..., None]

    lost = losses(user, effects)[shown]
    row = jnp.arange(shown.shape[0])[:, None]

    def level(level: Int[Array, ""], tables: tuple[Array, Array]) -> tuple[Array, Array]:
        values, futures = tables
        future = futures[jnp.maximum(level - lost, 0), row]  # (P, C, N, M): after each count and number of clicks
        value = jnp.max(earned + jnp.sum(chance * future, axis=1), axis=0)
        return values.at[level].set(value), futures.at[level].set(ahead(value))

    values = jnp.broadcast_to(left, (levels, *left.shape)).astype(jnp.float32)
    futures = jnp.broadcast_to(ahead(left), (levels, shown.shape[0], *left.shape)).astype(jnp.float32)
    return jax.lax.fori_loop(size, levels, level, (values, futures))[0]


def nodes_around(x: Float[Array, "..."], nodes: int) -> tuple[Int[Array, "..."], Float[Array, "..."]]:
    """Return the node below and the weight of the one above, for x in [0, 1] between evenly spaced nodes."""
    place = x * (nodes - 1)
    lower = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, nodes - 2)
    return lower, place - lower


def action_values(
    user: User,
    effects: Effects,
    grid: Grid,
    means: Float[Array, "... L N M"],
    mine: tuple[Int[Array, ""], ...],
    level: Int[Array, ""],
    exposure: Float[Array, ""],
    mood: Float[Array, ""],
    price: Float[Array, ""] | float = 0.0,
) -> Float[Array, "C"]:
    """Return what each count is worth now, one step ahead of the table, from the exact net exposure and mood.

    `means` are tables of `plan` after the mean over the next mood (`mean_ahead`), by today's mood; `mine` is the index of this
    user's.
    """
    chance = outcomes(user, effects, exposure, mood)
    share = jnp.arange(effects.slate_size + 1) / effects.slate_size
    node, weight = nodes_around(next_exposure(effects, exposure)[:, None], len(grid.exposure))
    at = jnp.maximum(level - losses(user, effects), 0)

    def future(mood_node: Int[Array, ""] | int) -> Float[Array, "C C"]:
        below, above = means[(*mine, at, node, mood_node)], means[(*mine, at, node + 1, mood_node)]
        return below * (1 - weight) + above * weight

    if len(grid.mood) == 1:
        later = future(0)
    else:
        reach = float(grid.mood[-1])
        low, part = nodes_around(jnp.clip((mood + reach) / (2 * reach), 0.0, 1.0), len(grid.mood))
        later = future(low) * (1 - part) + future(low + 1) * part
    return chance @ share - price * (share - 0.5) + jnp.sum(chance * later, axis=1)


def mean_ahead(values: Float[Array, "L N M"], grid: Grid) -> Float[Array, "L N M"]:
    """Return the mean of a table over the next step's mood, by today's."""
    return values @ jnp.asarray(grid.following, jnp.float32).T


def at_arrival(values: Float[Array, "L N M"], effects: Effects, grid: Grid) -> Float[Array, ""]:
    """Return the table's value of a session that begins."""
    lower, weight = nodes_around(jnp.float32(effects.start), len(grid.exposure))
    row = values[-1, lower] * (1 - weight) + values[-1, lower + 1] * weight
    return row @ jnp.asarray(grid.arriving, jnp.float32)
