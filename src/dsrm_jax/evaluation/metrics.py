"""The paper's metrics from complete sessions, with confidence intervals over seeds and sessions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dsrm_jax.data.sources import gini
from dsrm_jax.evaluation.sessions import Sessions
from dsrm_jax.simulator.leave import expected_length

METRICS = ("length", "reward", "return", "ad", "slate_ad", "broken", "gini", "coverage")


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval: `low` and `high` bound it at the level asked for."""

    mean: float
    low: float
    high: float


def session_metrics(sessions: Sessions, *, slate_size: int, max_len: int) -> dict[str, float]:
    """Return the metrics of one seed's sessions.

    Args:
        sessions: of one seed, as host arrays.
        slate_size: K.
        max_len: T0, for the closed form.

    Returns:
        `length` (Len), `reward` (R_each: clicks per shown item over all slates), `return` (R_cum: mean over sessions of their
        summed rewards), `ad` (Absolute Difference of what a batch shows in one step, abs(2p - 1), averaged over steps with the
        slates shown as weights), `slate_ad` (mean over slates of abs(2s - 1)), `broken` (p: share of slates at or above the
        bound), `gini` (of item exposure over the catalogue, unshown items included), `coverage` (share of the catalogue
        shown at least once) and `closed_form` (the length that reward and broken predict).
    """
    slates = np.sum(sessions.length)
    reward = np.sum(sessions.clicks) / (slates * slate_size)
    broken = np.sum(sessions.broken) / slates
    shown = np.asarray(sessions.step_slates, np.float64)
    share = np.asarray(sessions.step_popular) / np.maximum(shown * slate_size, 1)
    counts = np.asarray(sessions.item_count)
    return {
        "length": float(np.mean(sessions.length)),
        "reward": float(reward),
        "return": float(np.mean(sessions.clicks) / slate_size),
        "ad": float(np.sum(shown * np.abs(2 * share - 1)) / np.sum(shown)),
        "slate_ad": float(np.sum(sessions.imbalance) / slates),
        "broken": float(broken),
        "gini": float(gini(counts)),
        "coverage": float(np.mean(counts > 0)),
        "closed_form": float(expected_length(max_len, reward, broken)),
    }


def interval(per_seed: Sequence[float], session_error: float, *, confidence: float) -> Interval:
    """Return the mean over seeds and an interval that neither seeds nor sessions make too narrow.

    The half-width is the larger of Student's t interval over the seeds' means (they vary with the seed and with their
    sessions) and the normal interval of the sessions pooled over seeds; with one seed only the second is there.

    Args:
        per_seed: the metric of each seed.
        session_error: standard error of one seed's metric from its sessions alone; 0 where it is not known.
        confidence: level, in (0, 1).
    """
    values = np.asarray(per_seed, np.float64)
    num_seeds = len(values)
    half = float(stats.norm.ppf((1 + confidence) / 2)) * session_error / np.sqrt(num_seeds)
    if num_seeds > 1:
        t = float(stats.t.ppf((1 + confidence) / 2, num_seeds - 1))
        half = max(half, t * float(np.std(values, ddof=1)) / np.sqrt(num_seeds))
    mean = float(np.mean(values))
    return Interval(mean, mean - half, mean + half)


def session_errors(sessions: Sessions, *, slate_size: int) -> dict[str, float]:
    """Return each metric's standard error from the spread of one seed's sessions.

    Per-session sums give those of `length` and `return`, and by the delta method of the ratios `reward`, `broken` and
    `slate_ad`; `ad`, `gini` and `coverage` belong to the whole set of sessions and get 0: their spread over seeds counts.
    """
    length = np.asarray(sessions.length, np.float64)
    root = np.sqrt(len(length))

    def ratio(total: np.ndarray, scale: float = 1.0) -> float:
        value = np.sum(total) / np.sum(length)
        return float(np.std(total - value * length) / (root * np.mean(length) * scale))

    return {
        "length": float(np.std(length) / root),
        "return": float(np.std(sessions.clicks) / (slate_size * root)),
        "reward": ratio(np.asarray(sessions.clicks, np.float64), slate_size),
        "broken": ratio(np.asarray(sessions.broken, np.float64)),
        "slate_ad": ratio(np.asarray(sessions.imbalance, np.float64)),
        "ad": 0.0,
        "gini": 0.0,
        "coverage": 0.0,
    }


def summarise_seeds(
    per_seed: Sequence[Sessions], *, slate_size: int, max_len: int, confidence: float
) -> dict[str, object]:
    """Return a method's result: intervals per metric, the closed form of Len, and each seed's own numbers.

    Args:
        per_seed: one `Sessions` per seed, host arrays.
        slate_size: K.
        max_len: T0.
        confidence: level of the intervals.

    Returns:
        Metric name to `{"mean", "low", "high"}`; `closed_form` to a number; `seeds` to a list of `session_metrics`; and
        `sessions`, how many there were in all.
    """
    seeds = [session_metrics(s, slate_size=slate_size, max_len=max_len) for s in per_seed]
    errors = [session_errors(s, slate_size=slate_size) for s in per_seed]
    result: dict[str, object] = {}
    for name in METRICS:
        error = float(np.sqrt(np.mean([e[name] ** 2 for e in errors])))
        found = interval([s[name] for s in seeds], error, confidence=confidence)
        result[name] = {"mean": found.mean, "low": found.low, "high": found.high}
    result["closed_form"] = float(np.mean([s["closed_form"] for s in seeds]))
    result["seeds"] = seeds
    result["sessions"] = int(sum(len(s.length) for s in per_seed))
    return result
