"""Learning curves of finished points, and the numbers that decide what is said about them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from dsrm_jax.cli.figures import running_mean
from dsrm_jax.files import from_json_value
from dsrm_jax.types import Json

SPAN = 15  # updates of the running mean
LATE = 0.5  # share of training, from its end, that counts as late


def read_curve(folder: Path, metric: str) -> tuple[Int[np.ndarray, "N"], Float[np.ndarray, "N S"]] | None:
    """Return steps `(N,)` and the smoothed metric of each seed `(N, S)` of a point; None where it kept no curve.

    Args:
        folder: of the point.
        metric: of `metrics.jsonl`; `length` and `return` are weighted by the sessions that ended.
    """
    path = folder / "metrics.jsonl"
    if not path.exists():
        return None
    rows = [from_json_value(json.loads(line)) for line in path.read_text().splitlines() if line]
    if not rows or metric not in rows[0]:
        return None
    values = np.array([row[metric] for row in rows], np.float64)
    of_sessions = metric in ("length", "return")
    weight = np.array([row["sessions"] for row in rows], np.float64) if of_sessions else np.ones_like(values)
    return np.array([row["step"] for row in rows]), running_mean(values, weight, SPAN)


def pooled_curve(
    folder: Path, names: Sequence[str], metric: str
) -> tuple[Int[np.ndarray, "N"], Float[np.ndarray, "N S"]] | None:
    """Return `read_curve` of a row's points, the policies of all data seeds beside each other."""
    found = [curve for name in names if (curve := read_curve(folder / name, metric)) is not None]
    if not found:
        return None
    length = min(len(steps) for steps, _ in found)
    return found[0][0][:length], np.concatenate([curves[:length] for _, curves in found], axis=1)


def curve_facts(curves: Float[np.ndarray, "N S"]) -> dict[str, float]:
    """Return what can be said about a metric's course over training.

    Args:
        curves: `(N, S)` smoothed, of each seed; NaN before anything was measured.

    Returns:
        * `seed_spread`: mean over the late half of the standard deviation over seeds;
        * `roughness`: mean over seeds of the standard deviation of late steps from the late straight line;
        * `largest_fall`: largest drop below an earlier value of the mean over seeds;
        * `largest_rise`: the same upwards;
        * `late_level`: mean of the late half;
        * `settled`: share of training after which the mean over seeds stays within a tenth of its whole range of its last value.
    """
    mean = np.nanmean(curves, axis=1)
    mean = mean[np.isfinite(mean)]
    late = curves[-max(2, round(LATE * len(curves))) :]
    time = np.arange(len(late))
    lines = [np.polyval(np.polyfit(time, seed, 1), time) for seed in late.T]
    away = np.abs(mean - mean[-1]) > 0.1 * np.ptp(mean)
    return {
        "seed_spread": float(np.mean(np.std(late, axis=1, ddof=1))) if curves.shape[1] > 1 else float("nan"),
        "roughness": float(np.mean(np.std(late.T - np.array(lines), axis=1))),
        "largest_fall": float(np.max(np.maximum.accumulate(mean) - mean)),
        "largest_rise": float(np.max(mean - np.minimum.accumulate(mean))),
        "late_level": float(np.mean(late)),
        "settled": float((np.flatnonzero(away)[-1] + 1) / len(mean)) if away.any() else 0.0,
    }


def mean_facts(facts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the means of `curve_facts` of several data seeds; empty where there is none."""
    return {name: float(np.mean([of_seed[name] for of_seed in facts])) for name in facts[0]} if facts else {}


def all_curve_facts(folder: Path, metrics: tuple[str, ...] = ("length", "slate_ad", "ad")) -> Json:
    """Return `curve_facts` of several metrics of a point, those it kept."""
    found = {name: read_curve(folder, name) for name in metrics}
    return {name: curve_facts(curve[1]) for name, curve in found.items() if curve is not None}
