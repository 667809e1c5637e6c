"""Pictures of a run."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from dsrm_jax.cli.pictures import OTHER, write_picture
from dsrm_jax.types import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (10.0, 6.5)  # inches

# metric, title, unit, lowest value of the axis where it is fixed
PANELS = (
    ("reward", "R_each: reward per step", "mean click of a slate, 0 to 1", None),
    ("length", "Len: length of the sessions that ended", "steps", None),
    ("slate_ad", "AD of slates: popular against long tail", "mean |2s - 1|, 0 to 1", 0.0),
    ("broken", "p: slates off balance, which cost extra temper", "share of slates, 0 to 1", 0.0),
)


def learning_curves(path: Path, rows: Sequence[Json], *, title: str, colour: str = OTHER[0], smooth: int = 15) -> None:
    """Write `draw_learning_curves`, given the same, as a PNG of 1100 x 715 pixels and its numbers as CSV, whole or not at all."""
    write_picture(draw_learning_curves(rows, title=title, colour=colour, smooth=smooth), path)


def draw_learning_curves(rows: Sequence[Json], *, title: str, colour: str = OTHER[0], smooth: int = 15) -> "Figure":
    """Draw reward, session length and imbalance against training steps: a line per seed, their mean and their range.

    The numbers are of the training simulator with exploration on; held-out numbers are in the table. Of `metrics.jsonl`'s rows,
    at least one, `step` is an int, every other metric a list over seeds; `colour` is the method's (`pictures.look_of`), and the
    running mean spans `smooth` updates.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    steps = np.array([row["step"] for row in rows])
    sessions = np.array([row["sessions"] for row in rows], np.float64)
    for axes, (name, heading, unit, lowest) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        values = np.array([row[name] for row in rows], np.float64)
        weight = sessions if name == "length" else np.ones_like(values)
        _draw_seeds(axes, steps, running_mean(values, weight, smooth), colour)
        axes.set(title=heading, ylabel=unit, xlabel="batched environment steps")
        axes.set_ylim(bottom=lowest)
        axes.set_xlim(0, steps[-1])
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    note = f"training simulator, exploration on; running mean over {smooth} updates"
    figure.suptitle("\n".join([*textwrap.wrap(title, 90), note]))
    return figure


def running_mean(
    values: Float[np.ndarray, "N S"], weight: Float[np.ndarray, "N S"], span: int
) -> Float[np.ndarray, "N S"]:
    """Return the weighted mean of `(N, S)` values over the last `span` rows at each row (fewer at the start), `(N, S)` float64.

    Weights are not negative, such as the number of sessions that a mean is of; where one is 0 its value is ignored, and where all
    are the mean is NaN.
    """

    def window_sum(x: np.ndarray) -> np.ndarray:
        return np.stack([np.sum(x[max(0, i - span + 1) : i + 1], axis=0) for i in range(len(x))])

    total = window_sum(np.where(weight > 0, values, 0.0) * weight)
    mass = window_sum(np.asarray(weight, np.float64))
    return np.divide(total, mass, out=np.full_like(total, np.nan), where=mass > 0)


def _draw_seeds(axes: "Axes", steps: np.ndarray, curves: Float[np.ndarray, "N S"], colour: str) -> None:
    """Draw a line per seed, and where all seeds have a value their range and their mean."""
    num_seeds = curves.shape[1]
    mean, low, high = (reduce(curves, axis=1) for reduce in (np.mean, np.min, np.max))
    if num_seeds > 1:
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0, label="range of the seeds")
        for i, curve in enumerate(curves.T):
            label = "one seed" if i == 0 else None
            axes.plot(steps, curve, color=colour, alpha=0.5, linewidth=0.8, label=label)
    label = f"mean of {num_seeds} seeds" if num_seeds > 1 else "one seed"
    axes.plot(steps, mean, color=colour, linewidth=2, label=label)
