"""Pictures of a run."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# metric, title, unit
PANELS = (
    ("reward", "reward R_each", "mean click in [0, 1]"),
    ("length", "session length", "steps"),
    ("slate_ad", "imbalance of slates", "mean abs(2s - 1)"),
    ("broken", "slates off balance, p", "share in [0, 1]"),
)


def learning_curves(path: Path, rows: Sequence[Mapping[str, Any]], *, title: str, smooth: int = 15) -> None:
    """Draw reward, session length and imbalance against training steps, the seeds as thin lines, their mean as a thick one.

    The numbers are of the training simulator, with exploration on; held-out numbers are in the table.

    Args:
        path: PNG to write, whole or not at all.
        rows: of `metrics.jsonl`; every metric a list over seeds.
        title: names the data and the method.
        smooth: updates that a running mean spans.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.2), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    steps = np.array([row["step"] for row in rows])
    for axis, (name, heading, unit) in zip(axes, PANELS, strict=True):
        values = np.array([row[name] for row in rows], np.float64)
        if name == "length":
            values = np.where(np.array([row["sessions"] for row in rows]) > 0, values, np.nan)
        curves = np.stack([running_mean(values[:, i], smooth) for i in range(values.shape[1])], axis=1)
        axis.plot(steps, curves, color="tab:blue", alpha=0.35, linewidth=0.8)
        axis.plot(steps, np.nanmean(curves, axis=1), color="tab:blue", linewidth=2)
        axis.set_title(heading)
        axis.set_ylabel(unit)
        axis.set_xlabel("batched environment steps")
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=110, format="png")
    os.replace(temporary, path)


def running_mean(values: np.ndarray, span: int) -> np.ndarray:
    """Return the mean over the last `span` entries at each entry, NaN entries left out, NaN where all of them are."""
    result = np.full(len(values), np.nan)
    for i in range(len(values)):
        window = values[max(0, i - span + 1) : i + 1]
        if np.isfinite(window).any():
            result[i] = np.nanmean(window)
    return result
