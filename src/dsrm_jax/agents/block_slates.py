"""Plackett-Luce slates of catalogues too large for a score per user and item: what `slates` does with `FactoredScores`.

The same distribution as `whole_slates`, from the factors of the scores instead of the scores: a catalogue is read block by
block, each block's scores are reduced at once to what is needed of them, and the few blocks that an item is taken from are read
again. Beside the factors themselves memory grows with users times (blocks + items of a block, and their factors where each
user reads a block of its own). With the default block size that is at most half of users times items.

* Draw: one pass gives the log-mass of every block and group; each slot draws a block by inverse CDF, then an item inside it.
* Log-probability: one pass sums the items that no slot took, one more in reverse mode gives the gradient.
* Mode: a group's K best items lie in the K blocks with its best maxima.

The rules of accuracy are those of `whole_slates`: mass is only ever added, never subtracted. A block that lost an item is summed
again without it.

Shapes: B users, J items, E factors, K slate size, G groups; C blocks of L items.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from dsrm_jax.agents import whole_slates
from dsrm_jax.agents.whole_slates import (
    FLOOR,
    PerGroup,
    Popular,
    Slate,
    Slots,
    by_item,
    group_logsumexp,
    inverse_cdf,
    logsumexp,
)
from dsrm_jax.types import PyTree

Residuals = tuple["FactoredScores", Slate, Popular, Slate, PerGroup, Slots, jax.Array]
BLOCK_SIZE = (
    1024  # of 512 to 4,096 within a tenth of the fastest at a million items; scores of 64 users fit a core's cache
)


@struct.dataclass
class FactoredScores:
    """Scores of B users for J items that are not multiplied out: query . vector + bias."""

    query: Float[Array, "B E"]  # `(B, E)` float32
    vectors: Float[Array, "J E"]  # `(J, E)` float32
    bias: Float[Array, "J"] | None = None  # `(J,)` float32, -inf bars an item; None: 0

    @property
    def shape(self) -> tuple[int, int]:
        """`(B, J)`, that of `whole`."""
        return self.query.shape[0], self.vectors.shape[0]

    def whole(self) -> Float[Array, "B J"]:
        """Return the scores as one array."""
        return _multiply(self.query, self.vectors, self.bias)


def draw_blocks(
    key: PRNGKeyArray,
    scores: FactoredScores,
    is_popular: Bool[Array, "J"],
    num_popular: Int[Array, "B"] | None,
    *,
    slate_size: int,
    block_size: int | None = None,
) -> tuple[Int[Array, "B K"], Float[Array, "B K"]]:
    """`slates.sample_slate` of factors; the bits of a draw depend on `block_size`, its distribution does not."""
    batch = scores.shape[0]
    labels = None if num_popular is None else is_popular
    blocks = _blocks(scores, labels, block_size or _own_size(scores))
    slot_group = whole_slates.slot_groups(is_popular, num_popular, batch, slate_size)
    uniform = jax.random.uniform(key, (slate_size * 2 * batch,)).reshape(slate_size, 2, batch)

    def mass_of(block: _Blocks) -> Float[Array, "G B"]:
        return group_logsumexp(_read(scores.query, block), block.is_popular)[1]

    def fill(carry: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        mass, slate = carry  # log-mass left in each block, (G, B, C); items taken, -1 where there is none yet
        slot, group, (block_uniform, item_uniform) = inputs
        block_mass = jnp.where(group[:, None] == 0, mass[0], mass[-1])
        peak = jnp.max(block_mass, axis=1, keepdims=True)
        weight = jnp.exp(block_mass - peak)
        index = inverse_cdf(weight, block_uniform)
        own, left = _read_own(scores.query, blocks, index, group)
        left = jnp.where(_taken(slate, own), -jnp.inf, left)
        row = inverse_cdf(jnp.exp(left - jnp.max(left, axis=1, keepdims=True)), item_uniform)
        # Both factors are of the draw as it was made, so that no rounding between the passes makes the product exceed 1.
        log_prob = _own(block_mass, index) - (peak[:, 0] + jnp.log(jnp.sum(weight, axis=1)))
        log_prob = jnp.minimum(log_prob, 0.0) + _own(left, row) - logsumexp(left, axis=1)
        rest = jnp.where(jnp.arange(left.shape[1]) == row[:, None], -jnp.inf, left)
        drawn = (jnp.arange(mass.shape[0])[:, None] == group)[:, :, None] & (blocks.first == own.first[:, None])
        mass = jnp.where(drawn, logsumexp(rest, axis=1)[:, None], mass)
        return (mass, slate.at[:, slot].set(own.first + row)), log_prob

    mass = jnp.moveaxis(jax.lax.map(mass_of, blocks), 0, -1)
    start = mass, jnp.full((batch, slate_size), -1, jnp.int32)
    (_, slate), log_prob = jax.lax.scan(fill, start, (jnp.arange(slate_size), slot_group.T, uniform))
    return slate, log_prob.T


def blocks_log_prob(
    scores: FactoredScores,
    slate: Int[Array, "B K"],
    is_popular: Bool[Array, "J"],
    num_popular: Int[Array, "B"] | None,
    *,
    block_size: int | None = None,
) -> Float[Array, "B K"]:
    """`slates.slate_log_prob` of factors, differentiable in all of them; what is not asked for is not computed under `jit`."""
    slot_group = whole_slates.slot_groups(is_popular, num_popular, slate.shape[0], slate.shape[1])
    labels = None if num_popular is None else jnp.asarray(is_popular)
    return _log_prob(block_size, scores, slate, labels, slot_group)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_prob(
    block_size: int | None, scores: FactoredScores, slate: Slate, is_popular: Popular, slot_group: Slate
) -> Slots:
    return _log_prob_forward(block_size, scores, slate, is_popular, slot_group)[0]


def _log_prob_forward(
    block_size: int | None, scores: FactoredScores, slate: Slate, is_popular: Popular, slot_group: Slate
) -> tuple[Slots, Residuals]:
    def mass_of(block: _Blocks) -> Float[Array, "G B"]:
        left = jnp.where(_taken(slate, block), -jnp.inf, _read(scores.query, block))
        return group_logsumexp(left, block.is_popular)[1]

    blocks = _blocks(scores, is_popular, block_size)
    rest = logsumexp(jax.lax.map(mass_of, blocks), axis=0)
    picked = _read_picked(scores.query, blocks, slate)
    item_group = whole_slates.item_groups(is_popular, slate)
    log_mass, possible = whole_slates.slot_mass(picked, slate, item_group, slot_group, rest)
    log_prob = jnp.where(possible, picked - log_mass, -jnp.inf)
    return log_prob, (scores, slate, is_popular, slot_group, rest, log_mass, possible)


def _log_prob_backward(
    block_size: int | None, residuals: Residuals, cotangent: Slots
) -> tuple[FactoredScores, None, None, None]:
    scores, slate, is_popular, slot_group, rest, log_mass, possible = residuals
    rest = whole_slates.finite(rest)
    blocks = _blocks(scores, is_popular, block_size)
    total, at_picks = whole_slates.slot_pull(
        jnp.where(possible, cotangent, 0.0),
        _read_picked(scores.query, blocks, slate),
        whole_slates.repeats(slate),
        whole_slates.item_groups(is_popular, slate),
        slot_group,
        log_mass,
        rest,
    )

    def pull_block(query_bar: jax.Array, block: _Blocks) -> tuple[jax.Array, PyTree]:
        product, pull = jax.vjp(_multiply, scores.query, block.vectors, block.bias)
        out = _taken(slate, block) | (_positions(block) >= block.num_items)
        share = jnp.exp(jnp.where(out, -jnp.inf, product) - by_item(rest, block.is_popular))
        query_more, *item_bars = pull(-share * by_item(total, block.is_popular))
        return query_bar + query_more, item_bars

    query_bar, item_bars = jax.lax.scan(pull_block, jnp.zeros_like(scores.query), blocks)
    query_bar += jnp.einsum("bk,bke->be", at_picks, _flat(blocks.vectors)[slate], precision=jax.lax.Precision.HIGHEST)
    vectors_bar, bias_bar = jax.tree.map(lambda x: _flat(x)[: scores.shape[1]], tuple(item_bars))
    vectors_bar = vectors_bar.at[slate].add(at_picks[..., None] * scores.query[:, None])
    if bias_bar is not None:
        bias_bar = bias_bar.at[slate].add(at_picks)
    return FactoredScores(query_bar, vectors_bar, bias_bar), None, None, None


_log_prob.defvjp(_log_prob_forward, _log_prob_backward)


def blocks_mode(
    scores: FactoredScores,
    is_popular: Bool[Array, "J"],
    num_popular: Int[Array, "B"] | None,
    *,
    slate_size: int,
    block_size: int | None = None,
) -> Int[Array, "B K"]:
    """`slates.greedy_slate` of factors."""
    labels = None if num_popular is None else is_popular
    blocks = _blocks(scores, labels, block_size or _own_size(scores))
    groups = (0,) if num_popular is None else (0, 1)

    def maxima_of(block: _Blocks) -> Float[Array, "G B"]:
        read = _read(scores.query, block)
        return jnp.stack([jnp.max(_of_group(read, block, group), axis=1) for group in groups])

    maxima = jnp.moveaxis(jax.lax.map(maxima_of, blocks), 0, -1)
    best = [_best_items(scores.query, blocks, maxima[group], group, slate_size=slate_size) for group in groups]
    if num_popular is None:
        return best[0]
    slot_group = whole_slates.slot_groups(is_popular, num_popular, scores.shape[0], slate_size)
    return whole_slates.join_groups(best[0], best[1], slot_group)


def _best_items(
    query: jax.Array, blocks: "_Blocks", maxima: Float[Array, "B C"], group: int, *, slate_size: int
) -> Slate:
    """Return the best K items of one group in order, from each block's maximum.

    An item outside the K best blocks has K items before it: their maxima. Blocks are read in the order of the catalogue, and
    `top_k` takes the first of equals, so ties go to the smaller position.
    """
    chosen = jnp.sort(jax.lax.top_k(maxima, min(slate_size, maxima.shape[1]))[1], axis=1)
    batch = query.shape[0]

    def merge(best: tuple[jax.Array, Slate], index: jax.Array) -> tuple[tuple[jax.Array, Slate], None]:
        own, read = _read_own(query, blocks, index, jnp.full(batch, group))
        value = jnp.concatenate([best[0], read], axis=1)
        item = jnp.concatenate([best[1], _positions(own)], axis=1)
        value, order = jax.lax.top_k(value, slate_size)
        return (value, jnp.take_along_axis(item, order, axis=1)), None

    start = jnp.full((batch, slate_size), -jnp.inf), jnp.zeros((batch, slate_size), jnp.int32)
    return jax.lax.scan(merge, start, chosen.T)[0][1]


@struct.dataclass
class _Blocks:
    """A catalogue in C blocks of L neighbours, the last one padded; or one block, or one for each user."""

    first: Array  # `(C,)` int32, position of each block's first item
    vectors: Array  # `(C, L, E)` float32
    bias: Array | None  # `(C, L)` float32 or None
    is_popular: Array | None  # `(C, L)` bool; None where there are no groups
    num_items: int = struct.field(pytree_node=False)  # J


def _own_size(scores: FactoredScores) -> int:
    """Return the block size at which one block read for each user takes at most half the numbers of the whole product."""
    num_items, num_factors = scores.vectors.shape
    return max(1, min(BLOCK_SIZE, num_items // (2 * num_factors)))


def _blocks(scores: FactoredScores, is_popular: Popular, block_size: int | None) -> _Blocks:
    num_items = scores.shape[1]
    size = min(block_size or BLOCK_SIZE, num_items)
    num_blocks = -(-num_items // size)

    def split(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, num_blocks * size - num_items), *((0, 0),) * (x.ndim - 1)))
        return padded.reshape(num_blocks, size, *x.shape[1:])

    vectors, bias, labels = jax.tree.map(split, (scores.vectors, scores.bias, is_popular))
    return _Blocks(jnp.arange(num_blocks, dtype=jnp.int32) * size, vectors, bias, labels, num_items)


def _multiply(query: jax.Array, vectors: jax.Array, bias: jax.Array | None) -> Float[Array, "B J"]:
    """Return the scores of all users for the given items, in full precision: blocks are read twice and must come out alike."""
    product = jnp.dot(query, vectors.T, precision=jax.lax.Precision.HIGHEST)
    return product if bias is None else product + bias


def _read(query: jax.Array, block: _Blocks) -> Float[Array, "B L"]:
    """Return one block's scores, those of barred items floored; -inf beyond the end of the catalogue."""
    scores = jnp.maximum(_multiply(query, block.vectors, block.bias), FLOOR)
    scores = jnp.where(scores == 0, 0.0, scores)  # top_k puts -0.0 below 0.0
    return jnp.where(_positions(block) < block.num_items, scores, -jnp.inf)


def _read_own(
    query: jax.Array, blocks: _Blocks, index: Int[Array, "B"], group: Int[Array, "B"]
) -> tuple[_Blocks, Float[Array, "B L"]]:
    """Return one block for each user and its scores; -inf for items of another group."""
    own = jax.tree.map(lambda x: x[index], blocks)
    read = jax.vmap(lambda q, block: _read(q[None], block)[0])(query, own)
    return own, _of_group(read, own, group[:, None])


def _read_picked(query: jax.Array, blocks: _Blocks, slate: Slate) -> Slots:
    """Return the scores of the slots' items, those of barred items floored.

    They are looked up in the blocks, so that no second copy of the factors need be kept.
    """
    vectors, bias = jax.tree.map(lambda x: _flat(x)[slate], (blocks.vectors, blocks.bias))
    picked = jnp.einsum("be,bke->bk", query, vectors, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(picked if bias is None else picked + bias, FLOOR)


def _own(x: Float[Array, "B N"], index: Int[Array, "B"]) -> Float[Array, "B"]:
    """Return each row's entry at its own index."""
    return jnp.take_along_axis(x, index[:, None], axis=1)[:, 0]


def _flat(x: jax.Array) -> jax.Array:
    """Join blocks and items of blocks, `(C, L, ...)` to `(C L, ...)`."""
    return x.reshape(-1, *x.shape[2:])


def _of_group(read: Float[Array, "B L"], block: _Blocks, group: int | jax.Array) -> Float[Array, "B L"]:
    """Replace the scores of items outside a group (0: popular or any, 1: long tail) by -inf."""
    if block.is_popular is None:
        return read
    return jnp.where(block.is_popular == (group == 0), read, -jnp.inf)


def _positions(block: _Blocks) -> Int[Array, "*B L"]:
    """Return catalogue positions of one block, or of one for each user."""
    return block.first[..., None] + jnp.arange(block.vectors.shape[-2], dtype=jnp.int32)


def _taken(slate: Slate, block: _Blocks) -> Bool[Array, "B L"]:
    """Return which items of a block stand in each user's slate."""
    position = jnp.atleast_2d(_positions(block))
    taken = jnp.zeros((), bool)
    for slot in range(slate.shape[1]):  # a reduction over an axis of slots would not be vectorised on a CPU
        taken = taken | (slate[:, slot, None] == position)
    return taken
