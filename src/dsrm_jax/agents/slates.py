"""Plackett-Luce slates: draw them, score them, take their mode.

A slate of K distinct items is filled slot by slot. Slot k belongs to a group of items (popular, long tail, or any) and draws an
item i of its group that no earlier slot took, with probability exp(s_i - R_k), where R_k is the logsumexp of the scores still to
be had. `num_popular` gives the groups: the first `num_popular` slots are popular and the rest long tail (quota), or every slot
draws from the whole catalogue where it is None (penalty).

Scores come as an array, or as `FactoredScores`, which are never multiplied out for a large catalogue. A score of -inf bars an
item: it is taken only where the slot's group has nothing else left. Where only barred items are left in a group their order is
arbitrary and their log-probability 0. An `excluded` item (`View.excluded`) is never taken: a group that has too few others gives
its slots to the other group.

Shapes: B users, J items, K slate size.
"""

from typing import TypeAlias

import chex
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from dsrm_jax.agents.block_slates import FactoredScores, blocks_log_prob, blocks_mode, draw_blocks
from dsrm_jax.agents.settings import Head
from dsrm_jax.agents.whole_slates import Excluded, draw_whole, whole_log_prob, whole_mode

__all__ = ["Excluded", "FactoredScores", "greedy_slate", "head_slots", "sample_slate", "slate_log_prob", "take_turns"]

# Draws from the whole product are faster at 33,000 items still, its gradients slower from 10,000 on. An update of DSRM-HRL (16
# draws of 64 slates, 4 gradients of 512) takes as long either way at 10,000 items, and 1.6 times as long with the product at
# 16,384 (one busy CPU core, E = 20, K = 6).
LARGEST_WHOLE = 12_000

Scores: TypeAlias = Float[Array, "B J"] | FactoredScores


def head_slots(head: Head, users: int, *, slate_size: int) -> Int[Array, "B"] | None:
    """Return how many slots of each user's slate are popular: half of them, an odd one the long tail's; None: any number."""
    return jnp.full((users,), slate_size // 2, jnp.int32) if head == "half" else None


def sample_slate(
    key: PRNGKeyArray,
    scores: Scores,
    is_popular: Bool[Array, "J"],
    num_popular: Int[Array, "B"] | None,
    *,
    slate_size: int,
    excluded: Excluded = None,
    block_size: int | None = None,
) -> tuple[Int[Array, "B K"], Float[Array, "B K"]]:
    """Draw Plackett-Luce slates and their log-probabilities.

    Args:
        key: typed PRNG key; consumed.
        scores: `(B, J)` float32 logits, one row per user, or their factors; -inf bars an item.
        is_popular: `(J,)` bool, the popular group.
        num_popular: `(B,)` int32, how many slots (the first ones) are popular; clipped to what the groups can
            fill. None: every slot draws from the whole catalogue.
        slate_size: K, in [1, J].
        excluded: `(B, J)` bool, items that no slate may hold, at least K of a row False; None: every item may be shown. Factors
            are multiplied out for it, since it has an entry for each user and item itself.
        block_size: items of a block that factors are read by, above 0; None: at most `block_slates.BLOCK_SIZE`, or the whole
            product where the catalogue has at most `LARGEST_WHOLE` items.

    Returns:
        `(slate, log_prob)`: `(B, K)` int32 catalogue positions, distinct in each row; `(B, K)` float32 log-probability of each
        slot's item given the slots before it, equal to `slate_log_prob`. Their sum over K is the slate's.

    Raises:
        ValueError: where `slate_size` is not in [1, J].
    """
    scores = _checked(scores, is_popular, num_popular, slate_size, block_size, excluded)
    if isinstance(scores, FactoredScores):
        return draw_blocks(key, scores, is_popular, num_popular, slate_size=slate_size, block_size=block_size)
    return draw_whole(key, scores, is_popular, num_popular, slate_size=slate_size, excluded=excluded)


def slate_log_prob(
    scores: Scores,
    slate: Int[Array, "B K"],
    is_popular: Bool[Array, "J"],
    num_popular: Int[Array, "B"] | None,
    *,
    block_size: int | None = None,
) -> Float[Array, "B K"]:
    """Return the log-probability of each slot's item given the slots before it, differentiable in `scores`.

    Reverse mode only; a slate's log-probability is the sum over its slots.

    Args:
        scores: as in `sample_slate`.
        slate: `(B, K)` int32 catalogue positions in [0, J).
        is_popular: `(J,)` bool, the popular group.
        num_popular: `(B,)` int32 or None, as in `sample_slate`.
        block_size: as in `sample_slate`.

    Returns:
        `(B, K)` float32, at most 0; -inf, with zero gradient, at a slot whose item is of the wrong group or
        already taken (the slate has probability zero).
    """
    scores = _checked(scores, is_popular, num_popular, slate.shape[1], block_size)
    if isinstance(scores, FactoredScores):
        return blocks_log_prob(scores, slate, is_popular, num_popular, block_size=block_size)
    return whole_log_prob(scores, slate, is_popular, num_popular)


def greedy_slate(
    scores: Scores,
    is_popular: Bool[Array, "J"],
    num_popular: Int[Array, "B"] | None,
    *,
    slate_size: int,
    excluded: Excluded = None,
    block_size: int | None = None,
) -> Int[Array, "B K"]:
    """Return the mode slot by slot: the best item left of the slot's group, ties to the smaller position.

    Args:
        scores: as in `sample_slate`.
        is_popular: `(J,)` bool, the popular group.
        num_popular: `(B,)` int32 or None, as in `sample_slate`.
        slate_size: K, in [1, J].
        excluded: as in `sample_slate`; where fewer than K of a row are False, the slots beyond them hold anything.
        block_size: as in `sample_slate`.

    Returns:
        `(B, K)` int32 catalogue positions, distinct in each row.

    Raises:
        ValueError: where `slate_size` is not in [1, J].
    """
    scores = _checked(scores, is_popular, num_popular, slate_size, block_size, excluded)
    if isinstance(scores, FactoredScores):
        return blocks_mode(scores, is_popular, num_popular, slate_size=slate_size, block_size=block_size)
    return whole_mode(scores, is_popular, num_popular, slate_size=slate_size, excluded=excluded)


def take_turns(slate: Int[Array, "B K"], is_popular: Bool[Array, "J"]) -> Int[Array, "B K"]:
    """Return slates whose groups take turns, so that the start of each is balanced as the whole is.

    Of a group's n items in a slate the j-th moves to (j - 1/2) / n of the way, the popular one first where two meet: among any
    first m slots a group has its share of m, to within one. Inside a group the order stays.
    """
    popular = is_popular[slate]
    place = jnp.where(popular, jnp.cumsum(popular, axis=1), jnp.cumsum(~popular, axis=1))
    size = jnp.where(popular, jnp.sum(popular, axis=1, keepdims=True), jnp.sum(~popular, axis=1, keepdims=True))
    # (2 place - 1) / size in whole numbers: sizes of one row are two, and a fraction's order is that of its cross product
    other = jnp.maximum(slate.shape[1] - size, 1)
    order = jnp.argsort(2 * (2 * place - 1) * other + ~popular, axis=1, stable=True)
    return jnp.take_along_axis(slate, order, axis=1)


def _checked(
    scores: Scores,
    is_popular: Bool[Array, "J"],
    num_popular: Int[Array, "B"] | None,
    slate_size: int,
    block_size: int | None,
    excluded: Excluded = None,
) -> Scores:
    """Check arguments; return factors of a small catalogue, or beside a mask, multiplied out."""
    batch, num_items = scores.shape
    chex.assert_shape(is_popular, (num_items,))
    if num_popular is not None:
        chex.assert_shape(num_popular, (batch,))
    if excluded is not None:
        chex.assert_shape(excluded, (batch, num_items))
    if not 1 <= slate_size <= num_items:
        raise ValueError(f"slate_size must be in [1, {num_items}], the catalogue's size, and is {slate_size}")
    small = excluded is not None or (block_size is None and num_items <= LARGEST_WHOLE)
    return scores.whole() if small and isinstance(scores, FactoredScores) else scores
