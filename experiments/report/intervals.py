"""Intervals over data seeds, training seeds and users, and Holm's correction.

A number is measured in D worlds (data seeds), by S trained policies in each (training seeds), on N users of each. Two intervals
are made of it: the hierarchical bootstrap's, which draws data seeds, training seeds within them and users within those, and
Student's t over the data seeds' means. With few data seeds the first is too narrow (of three: `tests/experiments/report/
test_intervals.py` says by how much), so an interval here is the wider of the two.

Shapes: D data seeds, S training seeds, N users, B draws, M sums.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy import stats

DRAWS = 1_000
CONFIDENCE = 0.95
FEWEST_DATA_SEEDS = 3  # below, nothing is said of other worlds
# of each data seed, of each of its training seeds: a number, or `(B,)` numbers of resampled users
Nested = Sequence[Sequence[float]] | Sequence[Sequence[Float[np.ndarray, "B"]]]


@dataclass(frozen=True)
class Cell:
    """A measured number with its interval.

    Attributes:
        value: the mean over data seeds.
        low: lower bound; equal to the number where no interval is known.
        high: upper bound.
        data_seeds: D; 0 where the number is of no data that could have been drawn otherwise.
    """

    value: float
    low: float
    high: float
    data_seeds: int = 0

    @classmethod
    def of(cls, entry: Mapping[str, float]) -> "Cell":
        """Read `{"mean", "low", "high"}` and, if it is there, `data_seeds`."""
        mean = float(entry["mean"])
        low, high = (float(entry[k]) if np.isfinite(entry[k]) else mean for k in ("low", "high"))
        return cls(mean, low, high, int(entry.get("data_seeds", 0)))

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    def scaled(self, factor: float) -> "Cell":
        """Return the number times a known factor, whose sign turns the interval round."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Cell(self.value * factor, low, high, self.data_seeds)

    def p_value(self, threshold: float) -> float:
        """Return the two-sided probability, were the threshold the truth, of a mean as far from it; 0 of an exact number.

        By Student's t with D - 1 degrees of freedom, or the normal distribution of a number of one real log, its standard error
        what the wider side of the interval is made of.
        """
        away = abs(self.value - threshold)
        if self.half == 0:
            return 0.0
        law = stats.t(max(self.data_seeds - 1, 1)) if self.data_seeds else stats.norm
        error = max(self.value - self.low, self.high - self.value) / law.ppf((1 + CONFIDENCE) / 2)
        return float(2 * law.sf(away / error))


def hierarchical(
    values: Nested, resampled: Nested | None = None, *, confidence: float = CONFIDENCE, same_users: bool = False
) -> Cell:
    """Return the mean over data seeds with the wider of the two intervals.

    Args:
        values: of each data seed, of each training seed, the number.
        resampled: the same, `(B,)` each, with users drawn anew; None: users tell no spread.
        confidence: level, in (0, 1).
        same_users: whether the training seeds of a data seed met the same users (`nested_draws`).
    """
    means = np.array([np.mean(of_seed) for of_seed in values])
    mean, upper = float(means.mean()), (1 + confidence) / 2
    if not np.isfinite(mean):
        return Cell(mean, mean, mean, len(means))
    drawn = nested_draws(values if resampled is None else resampled, same_users=same_users)
    low, high = (float(x) for x in np.quantile(drawn, [1 - upper, upper]))
    if len(means) > 1:
        half = float(stats.t.ppf(upper, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means)))
        low, high = min(low, mean - half), max(high, mean + half)
    return Cell(mean, low, high, len(means))


def nested_draws(
    values: Nested, *, draws: int = DRAWS, seed: int = 0, same_users: bool = False
) -> Float[np.ndarray, "B"]:
    """Return `(B,)` means of data seeds drawn with replacement, and of training seeds drawn within each.

    Each drawn training seed has users of its own: its `(B,)` numbers are read from a place of its own on. Where all training
    seeds of a data seed met the `same_users`, and their numbers are of the same draws of them, a drawn data seed has one place.
    """
    generator = np.random.default_rng(seed)
    total = np.zeros(draws)
    for _ in values:
        which = generator.integers(len(values), size=draws)
        of_draw = np.zeros(draws)
        for number, of_seed in enumerate(values):
            chosen = np.flatnonzero(which == number)
            table = np.stack([np.broadcast_to(np.asarray(x, np.float64), (draws,)) for x in of_seed])
            picked = [(generator.integers(len(of_seed), size=len(chosen)), generator.integers(draws)) for _ in of_seed]
            for one, place in picked:
                from_place = chosen + (picked[0][1] if same_users else place)
                of_draw[chosen] += table[one, from_place % draws] / len(of_seed)
        total += of_draw
    return total / len(values)


@lru_cache(maxsize=32)
def user_counts(num_users: int, cell: int, draws: int = DRAWS) -> Float[np.ndarray, "B N"]:
    """Return how often each draw takes each user; the same for the same `cell`, so that differences stay paired."""
    generator = np.random.default_rng([cell, num_users])
    return generator.multinomial(num_users, np.full(num_users, 1 / num_users), size=draws).astype(np.float32)


def resampled_sums(sums: Float[np.ndarray, "M N"], cell: int) -> Float[np.ndarray, "M B"]:
    """Return sums over users drawn with replacement, the users of one data and training seed, its number `cell`."""
    return np.asarray(sums, np.float32) @ user_counts(sums.shape[1], cell).T


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: to reject where they are below a level errs at all with at most that probability."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = np.zeros(len(p_values)), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted.tolist()


def difference_of_means(first: Cell, second: Cell) -> Cell:
    """Return the difference of two independent numbers; the half-widths of their intervals add as squares."""
    value, half = first.value - second.value, float(np.hypot(first.half, second.half))
    return Cell(value, value - half, value + half, min(first.data_seeds, second.data_seeds))
