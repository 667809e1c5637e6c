"""From recorded sessions to numbers: what a state earns, and which share of the oracle's lead a purifier recovers.

Everything is a ratio of two sums over sessions, its interval by the delta method over paired sessions.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from dsrm_jax.config import Config
from dsrm_jax.evaluation.metrics import interval
from dsrm_jax.types import Json
from experiments.headroom.sessions import Recorded

LEAST_PRESENT = 30  # sessions still under way below which a step's share says nothing

Sums = tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]
"""Numerators and denominators of N sessions: the metric is the ratio of their sums."""
Interval = dict[str, float | None]
"""`mean`, `low` and `high`; None for what is not known."""


def recovered(
    raw: Sequence[Sums], purified: Sequence[Sums], oracle: Sequence[Sums], *, confidence: float
) -> Interval:
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
        rates, influences = zip(*(_ratio(*part) for part in parts), strict=True)
        lead = rates[2] - rates[0]
        if lead <= 0:
            return {"mean": None, "low": None, "high": None}
        share = (rates[1] - rates[0]) / lead
        moved = influences[1] - influences[0] - share * (influences[2] - influences[0])
        shares.append(share)
        errors.append(np.std(moved, ddof=1) / math.sqrt(len(moved)) / lead)
    return _plain(interval(shares, float(np.sqrt(np.mean(np.square(errors)))), confidence=confidence))


def gained(raw: Sequence[Sums], purified: Sequence[Sums], *, confidence: float) -> Interval:
    """Return purified - raw with its interval over paired sessions; arguments as in `recovered`."""
    gains, errors = [], []
    for parts in zip(raw, purified, strict=True):
        (first, before), (second, after) = (_ratio(*part) for part in parts)
        gains.append(second - first)
        errors.append(np.std(after - before, ddof=1) / math.sqrt(len(before)))
    return _plain(interval(gains, float(np.sqrt(np.mean(np.square(errors)))), confidence=confidence))


def summarise(per_seed: Sequence[Recorded], config: Config) -> Json:
    """Return `reward` (R_each) and `length` (Len) as intervals, `ad` (mean over seeds) and `steps`, R_each of each step."""
    confidence, slots = config.evaluation.confidence, config.environment.slate_size
    reward = [_ratio(*_sums(r, slots, "reward")) for r in per_seed]
    length = [_ratio(*_sums(r, slots, "length")) for r in per_seed]

    def spread(values: Sequence[tuple[float, Float[np.ndarray, "N"]]]) -> Interval:
        errors = [np.var(influence, ddof=1) / len(influence) for _, influence in values]
        return _plain(interval([v for v, _ in values], math.sqrt(np.mean(errors)), confidence=confidence))

    balance = []
    for r in per_seed:
        shown = slots * np.maximum(np.sum(r.present, axis=0), 1)
        step_ad = np.abs(2 * np.sum(r.popular, axis=0) / shown - 1)
        balance.append(np.sum(step_ad * shown * np.any(r.present, axis=0)) / (slots * np.sum(r.present)))
    present = sum(np.sum(r.present, axis=0) for r in per_seed)
    clicks = sum(np.sum(r.clicks, axis=0) for r in per_seed)
    steps = int(np.sum(present >= LEAST_PRESENT * len(per_seed)))
    return {
        "reward": spread(reward),
        "length": spread(length),
        "ad": float(np.mean(balance)),
        "steps": [float(x) for x in clicks[:steps] / (slots * present[:steps])],
    }


def comparisons(
    config: Config,
    recorded: Mapping[str, Mapping[int, list[Recorded]]],
    names: Sequence[str],
    lengths: Sequence[int],
) -> Json:
    """Return `recovered` and `gain` of each purifier, by history length."""
    slots, confidence = config.environment.slate_size, config.evaluation.confidence
    shares: dict[str, Json] = {name: {} for name in names}
    gains: dict[str, Json] = {name: {} for name in names}
    for name in names:
        for n in lengths:
            triple = [recorded[state][n] for state in ("raw", name, "oracle")]
            steps = range(
                min(int(np.sum(np.sum(r.present, axis=0) >= LEAST_PRESENT)) for rs in triple for r in rs)
            )

            def parts(
                metric: str, step: int | None = None, triple: Iterable[list[Recorded]] = triple
            ) -> list[list[Sums]]:
                return [[_sums(r, slots, metric, step) for r in per_seed] for per_seed in triple]

            shares[name][str(n)] = {
                metric: recovered(*parts(metric), confidence=confidence) for metric in ("reward", "length")
            } | {"steps": [recovered(*parts("reward", t), confidence=confidence) for t in steps]}
            gains[name][str(n)] = {
                metric: gained(*parts(metric)[:2], confidence=confidence) for metric in ("reward", "length")
            } | {"steps": [gained(*parts("reward", t)[:2], confidence=confidence) for t in steps]}
    return {"recovered": shares, "gain": gains}


def overall_rate(per_seed: Sequence[Recorded], config: Config) -> float:
    """Return R_each, the mean over seeds."""
    slots = config.environment.slate_size
    return float(np.mean([_ratio(*_sums(r, slots, "reward"))[0] for r in per_seed]))


def _sums(sessions: Recorded, slots: int, metric: str, step: int | None = None) -> Sums:
    """Return each session's share in the numerator and the denominator of a metric, of one step or of all."""
    clicks, present = np.asarray(sessions.clicks, np.float64), np.asarray(sessions.present, np.float64)
    if step is not None:
        clicks, present = clicks[:, step : step + 1], present[:, step : step + 1]
    length = np.sum(present, axis=1)
    if metric == "length":
        return length, np.ones_like(length)
    return np.sum(clicks, axis=1), slots * length


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, np.ndarray]:
    """Return a ratio of sums and how far each session moves it, to first order and times N."""
    rate = float(np.sum(numerator) / np.sum(denominator))
    return rate, (numerator - rate * denominator) / np.mean(denominator)


def _plain(found: Mapping[str, float]) -> Interval:
    """Return an interval with None for what is not known."""
    return {key: value if math.isfinite(value) else None for key, value in found.items()}
