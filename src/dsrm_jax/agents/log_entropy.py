"""DORL's entropy penaliser: how undecided the training log was about what follows the last items shown.

For k = 1 ... window, P_E(k) of a tuple of k consecutive items, order forgotten, is the entropy of the item that followed it in
the log over the log of how many different ones did; 1 where the tuple was never seen or was always followed by one item.
P_E = sum_k P_E(k) (Gao et al. 2023, section 4.2).

Shapes: N log rows, W window, C entries kept, R recent events, K slate size.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt32

CAPACITY = 2**18  # tuples kept for each k, the most frequent ones; a megabyte of keys and one of values
_NOTHING = np.uint32(2**32 - 1)  # key of an empty entry, whose value is 1 as if it were absent


@struct.dataclass
class LogEntropy:
    """P_E(k) of every tuple that the log says something about, k = 1 ... W; all others have 1."""

    key: UInt32[Array, "W C"]  # `(W, C)` uint32, hashes of the tuples, ascending
    value: Float[Array, "W C"]  # `(W, C)` float32 in [0, 1]


def fit_log_entropy(
    item: Int[Array, "N"], user: Int[Array, "N"], *, window: int, capacity: int = CAPACITY
) -> LogEntropy:
    """Count what followed each tuple of the log.

    Args:
        item: catalogue position of every row, -1 outside the catalogue: such rows neither condition nor follow, and
            the rows on either side of one are no neighbours.
        user: `(N,)` int32, the rows of a user next to each other and in time order.
        window: W, at least 1.
        capacity: C; where more tuples have a value below 1, those seen most often are kept.
    """
    chex.assert_equal_shape([item, user])
    capacity = max(1, min(capacity, item.shape[0]))
    tables = []
    for length in range(1, window + 1):
        num_rows = max(item.shape[0] - length, 0)
        tuples = jnp.stack([item[i : num_rows + i] for i in range(length)], axis=-1)
        following = item[length:]
        whole = (user[:num_rows] == user[length:]) & (following >= 0) & jnp.all(tuples >= 0, axis=-1)
        tables.append(_table(tuple_key(tuples), following, whole, capacity=capacity))
    key, value = zip(*tables, strict=True)
    return LogEntropy(jnp.stack(key), jnp.stack(value))


def tuple_key(items: Int[Array, "... k"]) -> UInt32[Array, "..."]:
    """Return a hash of a tuple of items, whatever their order: no two single items share one, and tuples hardly ever."""
    ordered = jnp.sort(items, axis=-1).astype(jnp.uint32)
    key = jnp.zeros(items.shape[:-1], jnp.uint32)
    for i in range(items.shape[-1]):
        key = _mix(key * jnp.uint32(0x9E3779B1) + ordered[..., i])
    return key


def slate_entropy(table: LogEntropy, past: Int[Array, "... R"], slate: Int[Array, "... K"]) -> Float[Array, "... K"]:
    """Return P_E of showing each item of a slate: the tuples end in the item itself.

    The items of a slate are shown at once, so each is conditioned on what came before the slate, not on its neighbours.

    Args:
        table: from `fit_log_entropy`.
        past: catalogue positions of the last events, oldest first; -1 for none, or one outside the catalogue. At least W - 1.
        slate: catalogue positions.

    Returns:
        In [0, W].
    """
    total = jnp.zeros(slate.shape, jnp.float32)
    for k in range(table.key.shape[0]):
        before = past[..., past.shape[-1] - k :]
        before = jnp.broadcast_to(before[..., None, :], (*slate.shape, k))
        tuples = jnp.concatenate([before, slate[..., None]], axis=-1)
        total += _look_up(table.key[k], table.value[k], tuples)
    return total


def lowest_entropy(table: LogEntropy) -> Float[Array, ""]:
    """Return a bound below every P_E of the table."""
    return jnp.sum(jnp.min(table.value, axis=1))


def _look_up(key: jax.Array, value: jax.Array, tuples: jax.Array) -> Float[Array, "..."]:
    wanted = tuple_key(tuples)
    entry = jnp.minimum(jnp.searchsorted(key, wanted), key.shape[0] - 1)
    known = (key[entry] == wanted) & jnp.all(tuples >= 0, axis=-1)
    return jnp.where(known, value[entry], 1.0)


def _table(
    key: UInt32[Array, "M"], following: Int[Array, "M"], whole: Bool[Array, "M"], *, capacity: int
) -> tuple[UInt32[Array, "C"], Float[Array, "C"]]:
    """Return the keys, ascending, and normalised entropies of the tuples whose entropy is below 1.

    Sorted, equal tuples are neighbours, and among them those with equal successors: counts are lengths of runs.
    """
    size = key.shape[0]
    if size == 0:
        return jnp.full(capacity, _NOTHING, jnp.uint32), jnp.ones(capacity)
    order = jnp.lexsort((following, key, ~whole))
    key, following, whole = key[order], following[order], whole[order]
    start = jnp.arange(size) == 0
    new_tuple = whole & (start | (key != jnp.roll(key, 1)))
    new_pair = whole & (new_tuple | (following != jnp.roll(following, 1)))
    # Rows that are not whole come last: they fall into the last run, with weight 0.
    run, pair = jnp.cumsum(new_tuple) - 1, jnp.cumsum(new_pair) - 1
    nothing = jnp.zeros(size, jnp.float32)
    weight = whole.astype(jnp.float32)
    total = nothing.at[run].add(weight)
    support = nothing.at[run].add(new_pair.astype(jnp.float32))
    count = nothing.at[pair].add(weight)[pair]
    spread = nothing.at[run].add(jnp.where(new_pair, count * jnp.log2(jnp.maximum(count, 1.0)), 0.0))
    # - sum p log p over the successors of a tuple = log n - (1 / n) sum c log c
    entropy = jnp.log2(jnp.maximum(total, 1.0)) - spread / jnp.maximum(total, 1.0)
    value = jnp.where(support > 1, entropy / jnp.log2(jnp.maximum(support, 2.0)), 1.0)
    seen, kept = jax.lax.top_k(jnp.where(value < 1.0, total, 0.0), min(capacity, size))
    of_run = jnp.zeros(size, jnp.uint32).at[jnp.where(new_tuple, run, size)].set(key, mode="drop")
    kept_key = jnp.where(seen > 0, of_run[kept], _NOTHING)
    kept_value = jnp.where(seen > 0, jnp.maximum(value[kept], 0.0), 1.0)
    padding = capacity - kept.shape[0]
    kept_key = jnp.pad(kept_key, (0, padding), constant_values=_NOTHING)
    kept_value = jnp.pad(kept_value, (0, padding), constant_values=1.0)
    order = jnp.argsort(kept_key)
    return kept_key[order], kept_value[order]


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Scramble 32 bits, one to one (xor-shifts and odd multipliers)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
