"""A configuration's runs on several data seeds as one row: every metric with its interval, and paired differences of two rows.

Shapes: D data seeds, S training seeds, N sessions, B draws of users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dsrm_jax.errors import InputError
from dsrm_jax.files import read_arrays
from dsrm_jax.types import Json
from experiments.report.intervals import Cell, hierarchical, resampled_sums

# of sums over sessions, so that users can be drawn anew: Len, R_cum, R_each, imbalance of slates, their share off balance,
# the long tail's share of what is shown, and how much users differ in Len (standard deviation)
OF_SUMS = ("length", "return", "reward", "slate_ad", "broken", "tail", "spread")
# of a seed: mean Len of the tenth of its sessions that are shortest, share of sessions as long as sessions can be
OF_SESSIONS = ("worst_tenth", "clipped")
OF_SEED = ("ad", "gini", "coverage")  # of what all sessions of a seed were shown together
METRICS = (*OF_SUMS, *OF_SESSIONS, *OF_SEED)
Run = tuple[int, int]  # data seed and place of the training seed: runs with the same one meet the same users


@dataclass(frozen=True)
class Numbers:
    """What the runs of one row gave.

    Attributes:
        values: metric to run to number.
        resampled: metric of `OF_SUMS` to run to `(B,)` numbers, users drawn anew.
    """

    values: Mapping[str, Mapping[Run, float]]
    resampled: Mapping[str, Mapping[Run, Float[np.ndarray, "B"]]]

    def cell(self, metric: str) -> Cell:
        """Return a metric with its interval."""
        return _cell(self.values[metric], self.resampled.get(metric))

    def less(self, other: "Numbers", metric: str) -> Cell | None:
        """Return the paired difference over the runs of both; None where they share no run."""
        mine, theirs = self.values[metric], other.values[metric]
        runs = [run for run in mine if run in theirs]
        if not runs:
            return None
        gaps = {run: mine[run] - theirs[run] for run in runs}
        if metric not in self.resampled or metric not in other.resampled:
            return _cell(gaps, None)
        first, second = self.resampled[metric], other.resampled[metric]
        return _cell(gaps, {run: first[run] - second[run] for run in runs})


def numbers_of(folder: Path, results: Mapping[int, Json], *, slate_size: int, max_len: int) -> Numbers:
    """Read the runs of one configuration.

    Args:
        folder: of the points.
        results: data seed to the point's `result.json`; sessions lie beside it, or are left out: then users tell no spread.
        slate_size: K.
        max_len: longest session.
    """
    values: dict[str, dict[Run, float]] = {name: {} for name in METRICS}
    resampled: dict[str, dict[Run, Float[np.ndarray, B]]] = {name: {} for name in OF_SUMS}
    for data_seed, document in results.items():
        sessions = _sessions(folder / document["name"] / "sessions.npz")
        result = document["result"]
        if sessions is None:
            for name in METRICS:
                if name in result:
                    values[name][data_seed, 0] = float(result[name]["mean"])
            continue
        for place in range(len(sessions["length"])):
            run, mine = (data_seed, place), {name: np.asarray(x[place], np.float64) for name, x in sessions.items()}
            sums, number = _sums(mine), len(mine["length"])
            drawn = _of_sums(resampled_sums(sums, 100 * data_seed + place).astype(np.float64), number, slate_size)
            for name, value in _of_sums(sums.sum(axis=1), number, slate_size).items():
                values[name][run], resampled[name][run] = float(value), drawn[name].astype(np.float32)
            values["worst_tenth"][run] = float(np.sort(mine["length"])[: max(number // 10, 1)].mean())
            values["clipped"][run] = float(np.mean(mine["length"] >= max_len))
            for name in OF_SEED:
                if name in result["seeds"][place]:
                    values[name][run] = float(result["seeds"][place][name])
    kept = {name: found for name, found in values.items() if found}
    return Numbers(kept, {name: found for name, found in resampled.items() if found})


def entry(cell: Cell) -> Json:
    """Return a number as rows hold it."""
    return {"mean": cell.value, "low": cell.low, "high": cell.high, "data_seeds": cell.data_seeds}


def _cell(values: Mapping[Run, float], resampled: Mapping[Run, Float[np.ndarray, "B"]] | None) -> Cell:
    seeds = sorted({data_seed for data_seed, _ in values})
    runs = [[run for run in sorted(values) if run[0] == seed] for seed in seeds]
    numbers = [[values[run] for run in of_seed] for of_seed in runs]
    return hierarchical(
        numbers, None if resampled is None else [[resampled[run] for run in of_seed] for of_seed in runs]
    )


def _sessions(path: Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        return read_arrays(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}): delete {path.parent} and reproduce again") from error


def _sums(sessions: Mapping[str, Float[np.ndarray, "N"]]) -> Float[np.ndarray, "6 N"]:
    names: Sequence[str] = ("length", "clicks", "imbalance", "broken", "popular")
    return np.stack([*(sessions[name] for name in names), np.square(sessions["length"])])


def _of_sums(sums: Float[np.ndarray, "6 ..."], number: int, slate_size: int) -> dict[str, Float[np.ndarray, "..."]]:
    length, clicks, imbalance, broken, popular, square = sums
    shown, mean = slate_size * length, length / number
    return {
        "length": mean,
        "return": clicks / slate_size / number,
        "reward": clicks / shown,
        "slate_ad": imbalance / shown,
        "broken": broken / length,
        "tail": 1 - popular / shown,
        "spread": np.sqrt(np.maximum(square / number - mean**2, 0.0)),
    }
