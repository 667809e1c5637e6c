"""One picture a world: what users feel, what a greedy policy does and what the planner does, from the cells of `learners`.

Shapes: S training seeds, T steps, N sessions.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from dsrm_jax.agents.methods import METHODS
from dsrm_jax.cli.pictures import FLAW, GREY, OTHER, look_of, write_picture
from dsrm_jax.simulator.settings import MoodConfig, PlatformConfig, RetentionConfig, SatisfactionConfig, ToleranceConfig
from experiments.worlds.learners import LEARNT, SLATE_SIZE
from experiments.worlds.learners_table import Held, Point
from experiments.worlds.small_worlds import SMALL, Shown, total

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (11.0, 3.6)  # inches
# rows of a cell, what they are called, their colour
ACTING = (
    ("true myopic", "greedy: most clicks now", FLAW),
    ("true planned", "planner", OTHER[0]),
    ("dsrm_hrl", "DSRM-HRL (learnt tastes)", look_of("dsrm_hrl")[0]),
)
LEFT_FEW = 0.05  # steps are drawn while more of the sessions than this are there
WINDOW = 200  # steps that are drawn at most


def world_picture(path: Path, world: str, held: Held, *, env: str) -> None:
    """Write `draw_world` as a PNG."""
    write_picture(draw_world(world, held, env=env), path)


def draw_world(world: str, held: Held, *, env: str) -> "Figure":
    """Draw what users feel, the popular slots of each step (mean; thin: two users), and who is still there."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    felt, shown, there = figure.subplots(1, 3)
    FELT[world](felt)
    last = 1
    for row, label, colour in ACTING:
        if row in ("true myopic", "true planned") or row in held.cells:
            counts, returned = held.counts(row), held.returned(row).mean()
            until = _draw_slots(shown, counts, label, colour)
            present = (counts[:, :WINDOW] >= 0).mean(axis=(0, 2))
            there.plot(np.arange(1, len(present) + 1), present, color=colour, label=f"{label}: R {returned:.1f}")
            last = max(last, until)
    shown.set(
        title="what is shown", xlabel="step of the session", ylabel=f"popular items of {SLATE_SIZE}", xlim=(1, last)
    )
    shown.set_ylim(0, SLATE_SIZE)
    there.set(
        title="who is still there", xlabel="step of the session", ylabel="share of users", xlim=(1, last), ylim=(0, 1)
    )
    there.legend(frameon=False, fontsize=8)
    for axes in (felt, shown, there):
        axes.grid(alpha=0.3)
    sessions = held.returned("half").shape[1]
    figure.suptitle(f"{world}: {env}, data seed {held.seed}, {sessions} held-out sessions", fontsize=10)
    return figure


def _draw_slots(axes: "Axes", counts: Int[np.ndarray, "S T N"], label: str, colour: str) -> int:
    """Draw the popular slots of each step; return the last step at which enough users are there."""
    present = counts >= 0
    enough = present.mean(axis=(0, 2)) > LEFT_FEW
    until = min(int(enough.sum()), WINDOW)
    flat = [counts[:, t][present[:, t]] for t in range(until)]
    steps = np.arange(1, until + 1)
    axes.plot(steps, [x.mean() for x in flat], color=colour, label=label)
    for user in np.flatnonzero(present[0, until - 1])[:2]:
        axes.plot(steps, counts[0, :until, user] + 0.0, color=colour, linewidth=0.6, alpha=0.45)
    return until


def _satisfaction(axes: "Axes") -> None:
    _hinge(axes, SatisfactionConfig().slope, "click logit lost")


def _mood(axes: "Axes") -> None:
    """Three users' moods."""
    config, rng = MoodConfig(), np.random.default_rng(1)
    for _ in range(3):
        mood = [config.spread * rng.standard_normal()]
        for _ in range(24):
            fresh = np.sqrt(1 - config.memory**2) * config.spread * rng.standard_normal()
            mood.append(config.memory * mood[-1] + fresh)
        axes.plot(np.arange(1, 26), mood)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(title="what three users feel", xlabel="step", ylabel="added to popular items' logits")


def _platform(axes: "Axes") -> None:
    """The price under a constant share of popular items."""
    config = PlatformConfig()
    steps = np.arange(0, 41)
    for share in (0.4, 0.5, 0.6, 0.8):
        price = np.clip(
            config.price + config.gain * (share - config.target) * steps, -config.largest_price, config.largest_price
        )
        axes.plot(steps, price, label=f"{share:.0%} popular")
    axes.legend(frameon=False, fontsize=8)
    axes.set(
        title="what the platform charges (users: as satisfaction)",
        xlabel="step",
        ylabel="price of a popular share of 1",
    )
    axes.title.set_fontsize(9)


def _tolerance(axes: "Axes") -> None:
    """What a count costs users of three centres."""
    config, counts = ToleranceConfig(), np.arange(SLATE_SIZE + 1)
    for i, centre in enumerate((0.25, 0.42, 0.6)):
        cost = config.penalty * (np.abs(counts / SLATE_SIZE - centre) >= config.bound)
        axes.bar(counts + 0.27 * (i - 1), cost + 0.02, width=0.25, label=f"centre {centre}")
    axes.legend(frameon=False, fontsize=8, loc="upper center", ncols=3, columnspacing=0.8, handlelength=1)
    axes.set(title="what three users feel", xlabel=f"popular items of {SLATE_SIZE}", ylabel="steps of patience lost")
    axes.set_ylim(0, 1.25 * max(config.penalty, 1))


def _retention(axes: "Axes") -> None:
    config, exposure = RetentionConfig(), np.linspace(0, 1, 101)
    for tau in (config.lowest_tolerance, 0.5, config.highest_tolerance):
        chance = 1 / (1 + np.exp(-(config.base - config.slope * np.maximum(0, exposure - tau))))
        axes.plot(exposure, chance, label=f"tolerance {tau:g}")
    axes.legend(frameon=False, fontsize=8)
    axes.set(title="what users feel", xlabel="net popular exposure n", ylabel="chance to come back", ylim=(0, 1))


def _hinge(axes: "Axes", slope: float, what: str) -> None:
    exposure = np.linspace(0, 1, 101)
    for tau in (0.2, 0.5, 0.8):
        axes.plot(exposure, slope * np.maximum(0, exposure - tau), label=f"tolerance {tau}")
    axes.legend(frameon=False, fontsize=8)
    axes.set(title="what users feel", xlabel="net popular exposure n", ylabel=what)


FELT: Mapping[str, Callable[["Axes"], None]] = MappingProxyType(
    dict(zip(LEARNT, (_mood, _satisfaction, _retention, _platform, _tolerance), strict=True))
)


def curves_picture(path: Path, rows: Sequence[Point]) -> None:
    """Write the learning curves, a panel a world: the mean of all seeds and their range."""
    from matplotlib.figure import Figure

    worlds = [world for world in LEARNT if any(row.world == world for row in rows)]
    figure = Figure(figsize=(3.2 * len(worlds), 3.2), layout="constrained")
    for axes, world in zip(np.ravel(figure.subplots(1, len(worlds), squeeze=False)), worlds, strict=True):
        for method in dict.fromkeys(row.method for row in rows if row.world == world):
            mine = [row for row in rows if row.world == world and row.method == method]
            steps = sorted({row.user_steps for row in mine})
            by_step = [[row.returned for row in mine if row.user_steps == step] for step in steps]
            thousands = np.array(steps) / 1000
            colour = look_of(method)[0]
            axes.plot(thousands, [np.mean(x) for x in by_step], color=colour, label=METHODS[method].label)
            reach = [min(x) for x in by_step], [max(x) for x in by_step]
            axes.fill_between(thousands, *reach, color=colour, alpha=0.15, linewidth=0)
        axes.set(title=world, xlabel="thousand user-steps of a seed", ylabel="R_cum in training")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    write_picture(figure, path)


COLOURS = (GREY, FLAW, OTHER[0])


def mechanism_picture(path: Path, name: str, found: Mapping[str, Shown]) -> None:
    """Write what users of one mechanism feel of what they are shown, what they click and how long they stay, under each rule."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    felt, clicked, there = figure.subplots(1, 3)
    for (rule, shown), colour in zip(found.items(), COLOURS, strict=False):
        steps, present = np.arange(1, len(shown.present) + 1), shown.present
        enough = present.mean(axis=1) > LEFT_FEW
        number = np.maximum(present.sum(axis=1), 1)
        for axes, values in ((felt, shown.felt), (clicked, shown.reward)):
            mean = np.where(present, values, 0.0).sum(axis=1) / number
            axes.plot(steps[enough], mean[enough], color=colour)
        there.plot(steps, present.mean(axis=1), color=colour, label=f"{rule}: R {total(shown):.1f}")
    felt.set(title="what users feel", xlabel="step", ylabel=SMALL[name].called)
    clicked.set(title="what they click", xlabel="step", ylabel="mean click of a slate", ylim=(0, 1))
    there.set(title="who is still there", xlabel="step", ylabel="share of users", ylim=(0, 1.05))
    there.legend(frameon=False, fontsize=8, loc="lower left")
    for axes in (felt, clicked, there):
        axes.grid(alpha=0.3)
    users = next(iter(found.values())).present.shape[1]
    figure.suptitle(f"{name}: 120 items of 8 categories, {users} users", fontsize=10)
    write_picture(figure, path)
