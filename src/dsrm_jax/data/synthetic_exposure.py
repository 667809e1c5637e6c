"""Who sees what in a synthetic log: popularity, rows per user, and the logging policies."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

BLOCK_CELLS = 1 << 18


def popularity_weights(num_items: int, sigma: float, clip: float) -> np.ndarray:
    """Return exposure weights at the mid-quantiles of a lognormal whose head is cut: `(n,)` float64, ascending, summing to one.

    `sigma` is the standard deviation of the logarithm before the cut, `clip` the largest weight in units of the mean weight.
    """
    weights = np.exp(sigma * ndtri((np.arange(num_items) + 0.5) / num_items))
    for _ in range(50):  # each cut lowers the mean that the cut is measured in
        weights = np.minimum(weights, clip * weights.mean())
    return weights / weights.sum()


def rows_per_user(num_users: int, rows: int, levels: tuple[float, ...], quantiles: tuple[float, ...]) -> np.ndarray:
    """Return row counts of a given quantile function: `(n,)` int64, ascending up to rounding, at least 1, summing to `rows`.

    `levels` ascend from 0 to 1 and `quantiles`, at least 1, are the function's values there; between levels their logarithm is
    interpolated.
    """
    raw = np.exp(np.interp((np.arange(num_users) + 0.5) / num_users, levels, np.log(quantiles)))
    low, high = 0.0, rows / raw.sum()
    for _ in range(60):  # the scale at which rows suffice, although nobody has less than one
        scale = 0.5 * (low + high)
        low, high = (low, scale) if np.maximum(1.0, scale * raw).sum() > rows else (scale, high)
    wanted = np.maximum(1.0, low * raw)
    counts = np.floor(wanted).astype(np.int64)
    by_remainder = np.argsort(counts - wanted, kind="stable")
    counts[by_remainder[: rows - int(counts.sum())]] += 1
    return counts


@dataclass(frozen=True, eq=False)
class AliasTable:
    """Walker's table: independent draws from a fixed distribution at two look-ups each."""

    accept: np.ndarray  # `(n,)` float32, probability that a uniformly drawn index stays
    other: np.ndarray  # `(n,)` int32, what it becomes otherwise


def alias_table(weights: np.ndarray) -> AliasTable:
    """Build the table of a distribution from its weights, `(n,)` non-negative, not all zero."""
    n = len(weights)
    scaled = (weights * (n / weights.sum())).tolist()
    accept, other = [1.0] * n, list(range(n))
    small = [i for i, weight in enumerate(scaled) if weight < 1.0]
    large = [i for i, weight in enumerate(scaled) if weight >= 1.0]
    while small and large:
        low, high = small.pop(), large[-1]
        accept[low], other[low] = scaled[low], high
        scaled[high] -= 1.0 - scaled[low]
        if scaled[high] < 1.0:
            small.append(large.pop())
    return AliasTable(np.array(accept, np.float32), np.array(other, np.int32))


def draw(rng: np.random.Generator, table: AliasTable, size: int) -> np.ndarray:
    """Return `(size,)` int32 independent indices."""
    index = rng.integers(0, len(table.accept), size, dtype=np.int32)
    stays = rng.random(size, dtype=np.float32) < table.accept[index]
    return np.where(stays, index, table.other[index])


def user_blocks(start: np.ndarray, num_items: int) -> list[tuple[int, int]]:
    """Cut the users of `(U + 1,)` row offsets into ranges `(first, last)` whose blocks of users times items stay in the cache.

    Ranges without rows are left out.
    """
    step = max(2, BLOCK_CELLS // num_items)
    users = len(start) - 1
    blocks = [(first, min(first + step, users)) for first in range(0, users, step)]
    return [(first, last) for first, last in blocks if start[first] < start[last]]


def block_product(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Return `user @ item`, `(b, F)` by `(F, I)`, two rows at a time.

    So small a product stays below the size from which BLAS libraries start threads, whose hand-over costs
    several times the product itself.
    """
    out = np.empty((len(user), item.shape[1]), np.float32)
    for row in range(0, len(user), 2):
        np.matmul(user[row : row + 2], item, out=out[row : row + 2])
    return out


def popular_rows(
    rng: np.random.Generator,
    start: np.ndarray,
    weights: np.ndarray,
    excluded_users: np.ndarray,
    excluded_items: np.ndarray,
) -> np.ndarray:
    """Draw each row's item, `(N,)` int32, by popularity alone, keeping a block of users and items out of the log.

    `start` are `(U + 1,)` row offsets, `weights` the `(I,)` probability of each item; the excluded users, ascending, are never
    shown the excluded items.
    """
    shown = draw(rng, alias_table(weights), int(start[-1]))
    others = weights.copy()
    others[excluded_items] = 0.0
    table, free = alias_table(others), np.ones(len(shown), bool)
    for user in excluded_users:
        rows = slice(start[user], start[user + 1])
        shown[rows] = draw(rng, table, rows.stop - rows.start)
        free[rows] = False
    show_each_item(rng, shown, np.flatnonzero(weights), np.flatnonzero(free))
    return shown


def selected_rows(
    rng: np.random.Generator,
    start: np.ndarray,
    weights: np.ndarray,
    user_factors: np.ndarray,
    item_factors: np.ndarray,
    *,
    candidates: int,
    strength: float,
) -> np.ndarray:
    """Draw each row's item, `(N,)` int32, in two stages: candidates by popularity, then one of them by the user's taste.

    `start` are `(U + 1,)` row offsets and factors `(U, F)` and `(I, F)` float32. The first stage draws `candidates` items, with
    replacement, by their `(I,)` weights; the second is a softmax of `strength` times the inner product.
    """
    table, num_items = alias_table(weights), len(weights)
    item = np.ascontiguousarray(item_factors.T)
    shown = np.empty(start[-1], np.int32)
    for first, last in user_blocks(start, num_items):
        rows = slice(start[first], start[last])
        size = int(start[last] - start[first])
        drawn = draw(rng, table, size * candidates)
        row = np.repeat(np.arange(last - first, dtype=np.int32), np.diff(start[first : last + 1]) * candidates)
        taste = np.take(block_product(user_factors[first:last], item), row * np.int32(num_items) + drawn)
        # Of independent exponentials over their rates the smallest is a draw in proportion to the rates.
        with np.errstate(over="ignore"):  # an infinite time only loses the race
            race = np.exp(np.multiply(taste, np.float32(-strength), out=taste), out=taste)
            race *= rng.standard_exponential(len(drawn), dtype=np.float32)
        winner = race.reshape(size, candidates).argmin(axis=1)
        shown[rows] = drawn[np.arange(size) * candidates + winner]
    show_each_item(rng, shown, np.flatnonzero(weights), np.arange(len(shown)))
    return shown


def uniform_rows(rng: np.random.Generator, num_rows: int, items: np.ndarray) -> np.ndarray:
    """Return `(num_rows,)` uniformly random items, each at least once where there are rows enough."""
    shown = items[rng.integers(0, len(items), num_rows, dtype=np.int32)]
    show_each_item(rng, shown, items, np.arange(num_rows))
    return shown


def complete_block(
    rng: np.random.Generator, num_users: int, users: np.ndarray, items: np.ndarray, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Show every user of a block every item once, in random order, but for pairs dropped at random.

    Of `(m,)` ascending users and `(j,)` items `rows` pairs stay; the result is `(U + 1,)` row offsets and `(rows,)` int32 items.
    """
    shown = rng.permuted(np.broadcast_to(items, (len(users), len(items))), axis=1).ravel()
    keep = np.ones(len(shown), bool)
    keep[rng.choice(len(shown), len(shown) - rows, replace=False)] = False
    counts = np.zeros(num_users, np.int64)
    counts[users] = keep.reshape(len(users), -1).sum(axis=1)
    return np.concatenate([[0], np.cumsum(counts)]), shown[keep]


def show_each_item(rng: np.random.Generator, shown: np.ndarray, items: np.ndarray, rows: np.ndarray) -> None:
    """Let random rows show the items that no row shows, in place.

    A log's vocabulary is what it shows: without this the number of items would vary with the seed. `shown` is the `(N,)` item of
    each row, `items` must be shown, and at most 1 % of the `rows` that may change do.
    """
    seen = np.zeros(int(max(shown.max(), items.max())) + 1, bool)
    seen[shown] = True
    missing = items[~seen[items]][: len(rows) // 100]
    shown[rng.choice(rows, len(missing), replace=False)] = missing
