"""Which share of the oracle's lead a purified state recovers, and what it gains over the raw one.

Everything is a ratio of two sums over sessions, its interval by the delta method over paired sessions.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from dsrm_jax.evaluation.metrics import interval

Sums = tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]
"""Numerators and denominators of N sessions: the metric is the ratio of their sums."""
Interval = dict[str, float | None]
"""`mean`, `low` and `high`; None for what is not known."""


def recovered(raw: Sequence[Sums], purified: Sequence[Sums], oracle: Sequence[Sums], *, confidence: float) -> Interval:
    """Return (purified - raw) / (oracle - raw) with its interval, by the delta method over paired sessions.

    Args:
        raw: of each seed. Entry i of all three belongs to the same user.
        purified: the same of the purified state.
        oracle: the same of the oracle state.
        confidence: level, in (0, 1).

    Returns:
        `mean`, `low` and `high` (`metrics.interval`); None where there is no headroom to recover, or no spread to tell from.
    """
    shares, errors = [], []
    for parts in zip(raw, purified, oracle, strict=True):
        rates, influences = zip(*(ratio_of_sums(*part) for part in parts), strict=True)
        lead = rates[2] - rates[0]
        if lead <= 0:
            return {"mean": None, "low": None, "high": None}
        share = (rates[1] - rates[0]) / lead
        moved = influences[1] - influences[0] - share * (influences[2] - influences[0])
        shares.append(share)
        errors.append(np.std(moved, ddof=1) / math.sqrt(len(moved)) / lead)
    return with_gaps(interval(shares, float(np.sqrt(np.mean(np.square(errors)))), confidence=confidence))


def gained(raw: Sequence[Sums], purified: Sequence[Sums], *, confidence: float) -> Interval:
    """Return purified - raw with its interval over paired sessions; arguments as in `recovered`."""
    gains, errors = [], []
    for parts in zip(raw, purified, strict=True):
        (first, before), (second, after) = (ratio_of_sums(*part) for part in parts)
        gains.append(second - first)
        errors.append(np.std(after - before, ddof=1) / math.sqrt(len(before)))
    return with_gaps(interval(gains, float(np.sqrt(np.mean(np.square(errors)))), confidence=confidence))


def ratio_of_sums(numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, np.ndarray]:
    """Return a ratio of sums and how far each session moves it, to first order and times N."""
    rate = float(np.sum(numerator) / np.sum(denominator))
    return rate, (numerator - rate * denominator) / np.mean(denominator)


def with_gaps(found: Mapping[str, float]) -> Interval:
    """Return an interval with None for what is not known."""
    return {key: value if math.isfinite(value) else None for key, value in found.items()}
