"""Plackett-Luce slates of scores that are one array, users by items: what `slates` does with catalogues of thousands.

Speed. Random numbers and sorts over the catalogue cost more than scoring it, so a draw is a two-step inverse CDF over blocks of
about 64 items, and the log-probability of a known slate takes one pass over the catalogue forward and one backward.

Accuracy. Mass is only ever added, never subtracted: blocks that lose an item are summed again, and R_k is built from the items
that no slot took plus the picks of slots k, k + 1, ... Scores of any finite size are therefore safe.

Shapes: B users, J items, K slate size, G groups; C blocks of L items.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from dsrm_jax.types import PyTree

_NUM_BLOCKS = 64  # near the square root of a catalogue of thousands, and a multiple of every vector width
_LARGEST_TRIANGLE = 512  # beyond it the quadratic work of summing by a matrix product shows
_SHORT = 32  # elements of a row that are reduced at once
Popular: TypeAlias = Bool[Array, "J"] | None  # None: there are no groups
Counts: TypeAlias = Int[Array, "B"] | None
Excluded: TypeAlias = Bool[Array, "B J"] | None  # None: every item may be shown
Slate: TypeAlias = Int[Array, "B K"]
Slots: TypeAlias = Float[Array, "B K"]
PerGroup: TypeAlias = Float[Array, "G B"]
Residuals: TypeAlias = tuple[jax.Array, Slate, Popular, Slate, PerGroup, Slots, jax.Array]

FLOOR = -8e37  # stands for -inf: far below any score, yet barred items keep finite differences


def draw_whole(
    key: PRNGKeyArray,
    scores: Float[Array, "B J"],
    is_popular: Bool[Array, "J"],
    num_popular: Int[Array, "B"] | None,
    *,
    slate_size: int,
    excluded: Excluded = None,
) -> tuple[Int[Array, "B K"], Float[Array, "B K"]]:
    """`slates.sample_slate` of an array."""
    batch = scores.shape[0]
    blocked, member = _blocks(scores, is_popular, num_popular, excluded)
    depth, num_blocks = blocked.shape[1:]
    slot_group = slot_groups(is_popular, num_popular, batch, slate_size, excluded)
    # One flat draw: the bits of a (K, 2, B) draw, at a quarter of its compile time.
    uniform = jax.random.uniform(key, (slate_size * 2 * batch,)).reshape(slate_size, 2, batch)

    def fill(carry: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        mass, left = carry  # log-mass left in each block, (G, B, C); scores left, (B, L, C)
        group, (block_uniform, row_uniform) = inputs
        block_mass = jnp.where(group[:, None] == 0, mass[0], mass[-1])
        peak = jnp.max(block_mass, axis=1, keepdims=True)
        weight = jnp.exp(block_mass - peak)
        block = inverse_cdf(weight, block_uniform)
        column = jnp.take_along_axis(left, block[:, None, None], axis=2)[:, :, 0]
        column = jnp.where(member[group, :, block], column, -jnp.inf)
        row = inverse_cdf(jnp.exp(column - jnp.max(column, axis=1, keepdims=True)), row_uniform)
        log_total = peak[:, 0] + jnp.log(jnp.sum(weight, axis=1))
        log_prob = jnp.take_along_axis(column, row[:, None], axis=1)[:, 0] - log_total
        rest = logsumexp(jnp.where(jnp.arange(depth) == row[:, None], -jnp.inf, column), axis=1)
        drawn = (jnp.arange(mass.shape[0])[:, None] == group)[:, :, None] & (jnp.arange(num_blocks) == block[:, None])
        carry = jnp.where(drawn, rest[:, None], mass), put_by_row(left, (row, block), -jnp.inf)
        return carry, (row * num_blocks + block, log_prob)

    carry = _block_logsumexp(blocked, member), blocked
    _, (slate, log_prob) = jax.lax.scan(fill, carry, (slot_group.T, uniform))
    return slate.T.astype(jnp.int32), log_prob.T


def whole_log_prob(
    scores: Float[Array, "B J"],
    slate: Int[Array, "B K"],
    is_popular: Bool[Array, "J"],
    num_popular: Int[Array, "B"] | None,
) -> Float[Array, "B K"]:
    """`slates.slate_log_prob` of an array."""
    slot_group = slot_groups(is_popular, num_popular, scores.shape[0], slate.shape[1])
    labels = None if num_popular is None else is_popular
    return _log_prob(scores, slate, labels, slot_group)


@jax.custom_vjp
def _log_prob(scores: jax.Array, slate: Slate, is_popular: Popular, slot_group: Slate) -> Slots:
    return _log_prob_forward(scores, slate, is_popular, slot_group)[0]


def _log_prob_forward(
    scores: jax.Array, slate: Slate, is_popular: Popular, slot_group: Slate
) -> tuple[Slots, Residuals]:
    picked = jnp.maximum(jnp.take_along_axis(scores, slate, axis=1), FLOOR)
    taken = put_by_row(jnp.zeros(scores.shape, bool), (slate,), True)
    peak, rest = group_logsumexp(jnp.where(taken, -jnp.inf, jnp.maximum(scores, FLOOR)), is_popular)
    item_group = item_groups(is_popular, slate)
    log_mass, possible = slot_mass(picked, slate, item_group, slot_group, rest)
    log_prob = jnp.where(possible, picked - log_mass, -jnp.inf)
    return log_prob, (scores, slate, is_popular, slot_group, peak, log_mass, possible)


def _log_prob_backward(residuals: Residuals, cotangent: Slots) -> tuple[jax.Array, None, None, None]:
    scores, slate, is_popular, slot_group, peak, log_mass, possible = residuals
    picked = jnp.maximum(jnp.take_along_axis(scores, slate, axis=1), FLOOR)
    item_group, repeated = item_groups(is_popular, slate), repeats(slate)
    total, at_picks = slot_pull(
        jnp.where(possible, cotangent, 0.0), picked, repeated, item_group, slot_group, log_mass, peak
    )
    total = jax.lax.optimization_barrier(total)
    gradient = -jnp.exp(scores - by_item(peak, is_popular)) * by_item(total, is_popular)
    once = jnp.where(repeated, scores.shape[1], slate)  # outside the catalogue, where nothing is written
    gradient = put_by_row(gradient, (once,), at_picks)
    return gradient, None, None, None


_log_prob.defvjp(_log_prob_forward, _log_prob_backward)


def repeats(slate: Slate) -> Bool[Array, "B K"]:
    """Whether an earlier slot has taken each slot's item."""
    same = slate[:, :, None] == slate[:, None, :]
    return jnp.any(same & ~_not_after(slate.shape[1]), axis=2)


def slot_mass(
    picked: Slots, slate: Slate, item_group: Slate, slot_group: Slate, rest: PerGroup
) -> tuple[Slots, Bool[Array, "B K"]]:
    """Log of the mass R that each slot draws from, and whether the slot's item was to be had."""
    not_after = _not_after(slate.shape[1])
    repeated = repeats(slate)
    counts = not_after & (item_group[:, None, :] == slot_group[:, :, None]) & ~repeated[:, None, :]
    later_picks = jnp.where(counts, picked[:, None, :], -jnp.inf)
    rest_of_group = jnp.where(slot_group == 0, rest[0][:, None], rest[-1][:, None])
    log_mass = logsumexp(jnp.concatenate([later_picks, rest_of_group[:, :, None]], axis=2), axis=2)
    return log_mass, (item_group == slot_group) & ~repeated


def slot_pull(
    cotangent: Slots,
    picked: Slots,
    repeated: Bool[Array, "B K"],
    item_group: Slate,
    slot_group: Slate,
    log_mass: Slots,
    reference: PerGroup,
) -> tuple[PerGroup, Slots]:
    """Pull a cotangent of the slots' log-probabilities, 0 at impossible slots, back to the scores.

    d log p_k / d s_j = -exp(s_j - R_k) for an item j that no slot took: one coefficient per group.

    Returns:
        `(total, at_picks)`: the cotangent of s_j is -exp(s_j - reference) total of j's group; that of the item which a slot took
        is `at_picks`, 0 at slots that repeat an item.
    """
    totals = []
    for group in range(reference.shape[0]):
        share = jnp.exp(jnp.minimum(reference[group][:, None] - log_mass, 0.0))
        totals.append(jnp.sum(jnp.where(slot_group == group, cotangent * share, 0.0), axis=1))
    # The item that slot m took was still to be had at the slots k <= m of its group.
    had = _not_after(picked.shape[1]).T & (item_group[:, :, None] == slot_group[:, None, :])
    had &= ~repeated[:, :, None]
    share = jnp.where(had, jnp.exp(jnp.minimum(picked[:, :, None] - log_mass[:, None, :], 0.0)), 0.0)
    return jnp.stack(totals), cotangent - jnp.sum(share * cotangent[:, None, :], axis=2)


def _not_after(slate_size: int) -> Bool[Array, "K K"]:
    """Whether the slot of the row is not after that of the column."""
    return jnp.triu(jnp.ones((slate_size, slate_size), bool))


def group_logsumexp(scores: Float[Array, "B J"], is_popular: Popular) -> tuple[PerGroup, PerGroup]:
    """Peak (0 where there is no mass) and logsumexp of each group's scores.

    The forms below are the ones that XLA vectorises on a CPU: sums over `where` are several times slower than the product.
    """
    if is_popular is None:
        peak = finite(row_max(scores))
        total = jnp.sum(jnp.exp(scores - peak[:, None]), axis=1)
        return peak[None], (peak + jnp.log(total))[None]
    outside = jnp.where(jnp.stack([is_popular, ~is_popular]), 0.0, -jnp.inf)
    peak = jnp.stack([finite(row_max(scores + bar)) for bar in outside])
    weight = jnp.exp(scores - by_item(peak, is_popular))
    member = jnp.stack([is_popular, ~is_popular], axis=1).astype(scores.dtype)
    total = jnp.dot(weight, member, precision=jax.lax.Precision.HIGHEST)
    return peak, peak + jnp.log(total.T)


def by_item(values: PerGroup, is_popular: Popular) -> Float[Array, "B J"] | Float[Array, "B 1"]:
    """Spread per-group values over the items."""
    if is_popular is None:
        return values[0][:, None]
    return jnp.where(is_popular, values[0][:, None], values[1][:, None])


def whole_mode(
    scores: Float[Array, "B J"],
    is_popular: Bool[Array, "J"],
    num_popular: Int[Array, "B"] | None,
    *,
    slate_size: int,
    excluded: Excluded = None,
) -> Int[Array, "B K"]:
    """`slates.greedy_slate` of an array."""
    scores = _without(jnp.where(scores == 0, 0.0, jnp.maximum(scores, FLOOR)), excluded)  # top_k puts -0.0 below 0.0
    if num_popular is None:
        return jax.lax.top_k(scores, slate_size)[1]
    popular = jax.lax.top_k(jnp.where(is_popular, scores, -jnp.inf), slate_size)[1]
    tail = jax.lax.top_k(jnp.where(is_popular, -jnp.inf, scores), slate_size)[1]
    return join_groups(popular, tail, slot_groups(is_popular, num_popular, scores.shape[0], slate_size, excluded))


def join_groups(popular: Slate, tail: Slate, slot_group: Slate) -> Slate:
    """Fill the slots from each group's best items in their order."""
    rank_in_tail = jnp.maximum(jnp.cumsum(slot_group, axis=1) - 1, 0)
    return jnp.where(slot_group == 0, popular, jnp.take_along_axis(tail, rank_in_tail, axis=1))


def _memberships(is_popular: Popular, num_items: int) -> Bool[Array, "G J"]:
    """The popular group and the long tail, or everything where there are no groups."""
    if is_popular is None:
        return jnp.ones((1, num_items), bool)
    return jnp.stack([is_popular, ~is_popular])


def item_groups(is_popular: Popular, slate: Slate) -> Slate:
    """Group of each item of a slate."""
    if is_popular is None:
        return jnp.zeros(slate.shape, jnp.int32)
    return jnp.where(is_popular[slate], 0, 1)


def slot_groups(
    is_popular: Bool[Array, "J"], num_popular: Counts, batch: int, slate_size: int, excluded: Excluded = None
) -> Slate:
    """Group that each slot draws from: 0 popular (or any), 1 long tail; no group gets more slots than it has items."""
    if num_popular is None:
        return jnp.zeros((batch, slate_size), jnp.int32)
    popular_items = jnp.sum(is_popular, dtype=jnp.int32)
    tail_items = is_popular.shape[0] - popular_items
    if excluded is not None:
        popular_items = jnp.sum(is_popular & ~excluded, axis=1, dtype=jnp.int32)
        tail_items = jnp.sum(~is_popular & ~excluded, axis=1, dtype=jnp.int32)
    count = jnp.maximum(jnp.minimum(num_popular, popular_items), slate_size - tail_items)
    return (jnp.arange(slate_size) >= count[:, None]).astype(jnp.int32)


def _without(scores: Float[Array, "B J"], excluded: Excluded) -> Float[Array, "B J"]:
    """Put excluded items below all others, barred ones too."""
    return scores if excluded is None else jnp.where(excluded, -jnp.inf, scores)


def _blocks(
    scores: Float[Array, "B J"], is_popular: Bool[Array, "J"], num_popular: Counts, excluded: Excluded
) -> tuple[Float[Array, "B L C"], Bool[Array, "G L C"]]:
    """Scores and groups in blocks; block c holds items c, c + C, c + 2C, ..."""
    batch, num_items = scores.shape
    num_blocks = min(_NUM_BLOCKS, num_items)
    length = -(-num_items // num_blocks)
    padding = length * num_blocks - num_items
    left = _without(jnp.maximum(scores, FLOOR), excluded)
    blocked = jnp.pad(left, ((0, 0), (0, padding)), constant_values=-jnp.inf)
    masks = _memberships(None if num_popular is None else is_popular, num_items)
    member = jnp.pad(masks, ((0, 0), (0, padding)))
    return blocked.reshape(batch, length, num_blocks), member.reshape(-1, length, num_blocks)


def _block_logsumexp(blocked: Float[Array, "B L C"], member: Bool[Array, "G L C"]) -> Float[Array, "G B C"]:
    """Log-mass of each group in each block; -inf where a block has none of it."""
    return jnp.stack([logsumexp(jnp.where(mask, blocked, -jnp.inf), axis=1) for mask in member])


def put_by_row(
    x: Shaped[Array, "B ..."], index: tuple[jax.Array, ...], values: jax.Array | float
) -> Shaped[Array, "B ..."]:
    """Return x with each row's values at its own places, which drop out beyond its end.

    Rows are mapped over and not indexed: XLA knows then that no row reads another, and users may lie on different devices.
    """

    def put(row: jax.Array, places: tuple[jax.Array, ...], value: jax.Array | float) -> jax.Array:
        return row.at[places].set(value, mode="drop")

    return jax.vmap(put, in_axes=(0, 0, None if jnp.ndim(values) == 0 else 0))(x, index, values)


def finite(peak: jax.Array) -> jax.Array:
    """Replace -inf, the log of no mass, by 0."""
    return jnp.where(peak > -jnp.inf, peak, 0.0)


def logsumexp(x: jax.Array, axis: int) -> jax.Array:
    """Logsumexp that gives -inf, not NaN, for no mass at all."""
    peak = jnp.max(x, axis=axis, keepdims=True)
    total = jnp.sum(jnp.exp(x - finite(peak)), axis=axis)
    return jnp.squeeze(peak, axis) + jnp.log(total)


def inverse_cdf(weight: Float[Array, "B N"], uniform: Float[Array, "B"]) -> Int[Array, "B"]:
    """Draw one index per row in proportion to non-negative weights; a zero weight is never drawn.

    On a CPU a product with a triangular matrix is faster than `cumsum`, and `min` than `argmax`.
    """
    size = weight.shape[1]
    if size <= _LARGEST_TRIANGLE:
        upto = jnp.triu(jnp.ones((size, size), weight.dtype))
        cumulative = jnp.dot(weight, upto, precision=jax.lax.Precision.HIGHEST)
    else:
        cumulative = jnp.cumsum(weight, axis=1)
    cumulative = jnp.where(weight > 0, cumulative, -jnp.inf)
    threshold = uniform * jnp.max(cumulative, axis=1)
    return jnp.min(jnp.where(cumulative > threshold[:, None], jnp.arange(size), size - 1), axis=1)


def row_max(x: Float[Array, "B J"]) -> Float[Array, "B"]:
    """Return the maximum of each row, by folding it in halves: on a CPU XLA vectorises `maximum`, and not its reduction."""
    while x.shape[-1] > _SHORT:
        half = -(-x.shape[-1] // 2)
        x = jnp.maximum(x[..., :half], x[..., -half:])
    return jnp.max(x, axis=-1)
