"""From recorded sessions to numbers: what a state earns, and which share of the oracle's lead a purifier recovers.

Everything is a ratio of two sums over sessions, its interval by the delta method over paired sessions.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from dsrm_jax.config import Config
from dsrm_jax.evaluation.metrics import interval
from dsrm_jax.evaluation.recovered import Interval, Sums, gained, ratio_of_sums, recovered, with_gaps
from dsrm_jax.types import Json
from experiments.headroom.sessions import Recorded

LEAST_PRESENT = 30  # sessions still under way below which a step's share says nothing


def summarise(per_seed: Sequence[Recorded], config: Config) -> Json:
    """Return `reward` (R_each) and `length` (Len) as intervals, `ad` (mean over seeds) and `steps`, R_each of each step."""
    confidence, slots = config.evaluation.confidence, config.environment.slate_size
    reward = [ratio_of_sums(*_sums(r, slots, "reward")) for r in per_seed]
    length = [ratio_of_sums(*_sums(r, slots, "length")) for r in per_seed]

    def spread(values: Sequence[tuple[float, Float[np.ndarray, "N"]]]) -> Interval:
        errors = [np.var(influence, ddof=1) / len(influence) for _, influence in values]
        return with_gaps(interval([v for v, _ in values], math.sqrt(np.mean(errors)), confidence=confidence))

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
    config: Config, recorded: Mapping[str, Mapping[int, list[Recorded]]], names: Sequence[str], lengths: Sequence[int]
) -> Json:
    """Return `recovered` and `gain` of each purifier, by history length, and `ahead`: the same less the first purifier."""
    slots, confidence = config.environment.slate_size, config.evaluation.confidence
    shares: dict[str, Json] = {name: {} for name in names}
    gains: dict[str, Json] = {name: {} for name in names}
    ahead: dict[str, Json] = {name: {} for name in names[1:]}
    for name in names:
        for n in lengths:
            triple = [recorded[state][n] for state in ("raw", name, "oracle")]
            steps = range(min(int(np.sum(np.sum(r.present, axis=0) >= LEAST_PRESENT)) for rs in triple for r in rs))

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
            if name in ahead:
                pair = [recorded[names[0]][n], recorded[name][n]]
                ahead[name][str(n)] = {
                    metric: gained(*parts(metric, triple=pair), confidence=confidence)
                    for metric in ("reward", "length")
                }
    return {"recovered": shares, "gain": gains, "ahead": ahead}


def overall_rate(per_seed: Sequence[Recorded], config: Config) -> float:
    """Return R_each, the mean over seeds."""
    slots = config.environment.slate_size
    return float(np.mean([ratio_of_sums(*_sums(r, slots, "reward"))[0] for r in per_seed]))


def _sums(sessions: Recorded, slots: int, metric: str, step: int | None = None) -> Sums:
    """Return each session's share in the numerator and the denominator of a metric, of one step or of all."""
    clicks, present = np.asarray(sessions.clicks, np.float64), np.asarray(sessions.present, np.float64)
    if step is not None:
        clicks, present = clicks[:, step : step + 1], present[:, step : step + 1]
    length = np.sum(present, axis=1)
    if metric == "length":
        return length, np.ones_like(length)
    return np.sum(clicks, axis=1), slots * length
