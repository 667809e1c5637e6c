"""The report's pictures, PNGs written whole or not at all."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dsrm_jax.cli.pictures import FLAW, GREY, look_of, write_picture
from experiments.point_names import name_points
from experiments.report import paper
from experiments.report.curves import pooled_curve
from experiments.report.findings import Findings, Row
from experiments.report.intervals import Cell
from experiments.report.measures import figure2_sources
from experiments.report.paper import env_name
from experiments.report.tables import CLOSED_FORM_BOUND
from experiments.report.variants import variant_name
from experiments.report.waterfall import LADDER, waterfall

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 10.0  # inches
PANELS = (("length", "Len, steps"), ("reward", "R_each"), ("return", "R_cum"), ("ad", "AD"))
OWN = "dsrm_hrl"
GAIN = "#0072b2"
LINES = {
    "quota_greedy": "raw",
    "quota_greedy+skips": "raw with skips",
    "quota_greedy_purified+gaussian": "Gaussian posterior",
}
WEIGHTS = {"pareto_penalty": ("penalty, over λ", "#0072b2")}


def draw_all(findings: Findings, folder: Path) -> dict[str, str]:
    """Write every picture that the findings have numbers for.

    Returns:
        Name of the figure to the picture's alternative text; the file is `<name>.png`.
    """
    drawn = {}
    for name, draw in (
        ("waterfall", waterfall_figure),
        ("fig2", figure2),
        ("fig3", figure3),
        ("fig6", figure6),
        ("fig7", figure7),
        ("pareto", pareto),
        ("closed_form", closed_form),
    ):
        figure = draw(findings)
        if figure is not None:
            write_picture(figure, folder / f"{name}.png")
            drawn[name] = draw.__doc__.splitlines()[0].removeprefix("Draw ").rstrip(".") if draw.__doc__ else name
    return drawn


def waterfall_figure(findings: Findings) -> "Figure | None":
    """Draw where the length of DSRM-HRL's sessions comes from, step by step from random slates, with paired intervals."""
    chains = {env: steps for env in findings.environments if (steps := waterfall(findings, env))}
    if not chains:
        return None
    figure, panels = _panels(len(chains), 1, height=2.8, width=7.0)  # below each other: a phone is narrow
    for axes, (env, steps) in zip(panels[:, 0], chains.items(), strict=True):
        level = steps[0].start.value
        axes.barh([0], [level], color=GREY)
        for place, step in enumerate(steps, 1):
            gain = step.gain
            axes.barh([place], [gain.value], left=level, color=GAIN if gain.value > 0 else FLAW)
            level += gain.value
            axes.errorbar([level], [place], xerr=[gain.half], fmt="none", color="black", capsize=2, label=step.name)
        axes.set_yticks(range(len(steps) + 1), ["random slates", *(step.name for step in steps)], fontsize=8)
        axes.invert_yaxis()
        axes.set_title(f"{env_name(env)}, Max Len {paper.MAX_LENS[0]}", fontsize=9)
        axes.set(xlabel="Len, steps")
        axes.grid(axis="x", alpha=0.3)
    return figure


def figure2(findings: Findings) -> "Figure | None":
    """Draw popularity against reward as counts, as rates, and as counts of shuffled rates."""
    sources = [pair for env in findings.environments for pair in figure2_sources(findings, env)]
    if not sources:
        return None
    figure, panels = _panels(len(sources), 3, height=3.1)
    generator = np.random.default_rng(0)
    for (label, facts), row in zip(sources, panels, strict=True):
        shown, clicked, rate = np.array(facts["points"]).T
        shuffled = shown * generator.permutation(rate)
        for axes, y, title in (
            (row[0], clicked, f"{label}\ncounts, as the paper: R² {facts['counts']:.3f}"),
            (row[1], rate, f"rates: R² {facts['rates']:.3f}, log x {facts['log_rates']:.3f}"),
            (row[2], shuffled, f"counts of shuffled rates: R² {facts['shuffled']:.3f}"),
        ):
            axes.plot(shown, y, ".", markersize=3, alpha=0.5)
            axes.set_title(title, fontsize=9)
            axes.set(xlabel="impressions")
        row[0].set(ylabel="clicks")
        row[1].set(ylabel="clicks per impression", xscale="log")
        row[2].set(ylabel="clicks, rates shuffled")
    return figure


def figure3(findings: Findings) -> "Figure | None":
    """Draw one policy on raw and on purified states, length against imbalance."""
    cells = [
        (env, n, raw, purified)
        for env, n in findings.cells(("fig3",))
        if (raw := findings.row(env, n, "dnair")) is not None
        and (purified := findings.row(env, n, "dnair_dsrm")) is not None
    ]
    if not cells:
        return None
    figure, panels = _panels(1, len(cells), height=3.6)
    for axes, (env, n, raw, purified) in zip(panels[0], cells, strict=True):
        for row, label in ((raw, "DNaIR, raw"), (purified, "DNaIR, purified")):
            _point(axes, row, "ad", "length", label=label)
        _ladder(axes, findings, env, "ad", "length")
        axes.set_title(f"{env_name(env)}, Max Len {n}", fontsize=9)
        axes.set(xlabel="AD (less is better)", ylabel="Len")
        axes.margins(0.3)
        axes.locator_params(axis="x", nbins=3)
    _legend(figure)
    return figure


def figure6(findings: Findings) -> "Figure | None":
    """Draw the metrics against the number of diffusion steps, under the fixed and the rescaled schedule."""
    rows = findings.results.get("fig6", [])
    envs = [env for env in findings.environments if any(r["env"] == env for r in rows)]
    if not envs:
        return None
    figure, panels = _panels(len(envs), 4, height=3.0)
    for env, line in zip(envs, panels, strict=True):
        for axes, (metric, label) in zip(line, PANELS, strict=True):
            for schedule, title in (("linear", "1e-4..2e-2 whatever S"), ("rescaled", "rescaled by 1000/S")):
                chosen = [r for r in findings.select("fig6", schedule=schedule) if r["env"] == env]
                steps = [r["values"]["purifier.diffusion_steps"] for r in chosen]
                cells = [Cell.of(r["result"][metric]) for r in chosen]
                error = [c.half for c in cells]
                axes.errorbar(steps, [c.value for c in cells], yerr=error, fmt="o-", ms=4, capsize=2, label=title)
            for (method, name), style in zip(LINES.items(), (":", "--", "-."), strict=True):
                row = findings.row(env, paper.MAX_LENS[0], method)
                if row is not None and metric in row["result"]:
                    axes.axhline(row["result"][metric]["mean"], color=GREY, linestyle=style, label=f"greedy, {name}")
            axes.set_xscale("log")
            axes.set_title(f"{env_name(env)}: {label}", fontsize=9)
            axes.set(xlabel="diffusion steps S")
            axes.grid(alpha=0.3)
    _legend(figure)
    return figure


def figure7(findings: Findings) -> "Figure | None":
    """Draw learning curves of Len and AD with the range of the seeds."""
    rows = findings.results.get("fig7", [])
    envs = [env for env in findings.environments if any(r["env"] == env for r in rows)]
    if not envs:
        return None
    figure, panels = _panels(len(envs), 2, height=3.8)
    for env, line in zip(envs, panels, strict=True):
        for axes, (metric, label) in zip(line, (("length", "Len, steps"), ("ad", "AD")), strict=True):
            for row in (r for r in rows if r["env"] == env):
                found = pooled_curve(findings.folder, row["names"], metric)
                if found is not None:
                    _band(axes, *found, row["method"])
            axes.set_title(f"{env_name(env)}: {label}, training simulator, exploration on", fontsize=9)
            axes.set(xlabel="batched environment steps")
            axes.grid(alpha=0.3)
    _legend(figure)
    return figure


def pareto(findings: Findings) -> "Figure | None":
    """Draw utility against equity: DSRM-HRL over lambda among the methods."""
    envs = [env for env, n in findings.cells() if n == paper.MAX_LENS[0]]
    if not envs:
        return None
    figure, panels = _panels(1, len(envs), height=5.4)
    for env, axes in zip(envs, panels[0], strict=True):
        for method in (*paper.METHODS, *paper.YARDSTICKS):
            row = findings.row(env, paper.MAX_LENS[0], method)
            if row is not None:
                _point(axes, row, "slate_ad", "return", label=variant_name(method))
        _ladder(axes, findings, env, "slate_ad", "return")
        for plan, (label, colour) in WEIGHTS.items():
            chosen = [r for r in findings.results.get(plan, []) if r["env"] == env]
            if chosen:
                x, y = ([r["result"][m]["mean"] for r in chosen] for m in ("slate_ad", "return"))
                axes.plot(x, y, ".-", ms=4, color=colour, alpha=0.8, label=label)
        axes.set_title(f"{env_name(env)}, Max Len {paper.MAX_LENS[0]}", fontsize=9)
        axes.set(xlabel="imbalance of slates, mean |2s - 1| (less is better)", ylabel="R_cum")
        axes.margins(0.12)
        axes.grid(alpha=0.3)
    _legend(figure, [*(label for label, _ in WEIGHTS.values()), "the ladder, greedy"])
    for env, axes in zip(envs, panels[0], strict=True):
        name_points(axes, list(_named(findings, env)))
    return figure


def closed_form(findings: Findings) -> "Figure | None":
    """Draw the measured Len of every row against its closed form."""
    rows = [row for _, row in findings.measured_rows()]
    if not rows:
        return None
    figure, panels = _panels(1, 1, height=4.2, width=6.0)
    axes = panels[0][0]
    expected = np.array([r["result"]["closed_form"] for r in rows])
    found = np.array([r["result"]["length"]["mean"] for r in rows])
    off = np.abs(expected - found) > CLOSED_FORM_BOUND
    limits = [min(expected.min(), found.min()) - 1, max(expected.max(), found.max()) + 1]
    axes.plot(limits, limits, color=GREY, linewidth=1)
    axes.plot(expected[~off], found[~off], "o", ms=4, alpha=0.6, label=f"within {CLOSED_FORM_BOUND} steps")
    axes.plot(expected[off], found[off], "x", ms=6, color=FLAW, label=f"off by more: {off.sum()}")
    axes.set(xlabel="E[Len] of R_each and p alone", ylabel="measured Len")
    axes.legend(fontsize=8)
    return figure


def _panels(rows: int, columns: int, *, height: float, width: float = WIDTH) -> tuple["Figure", np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _point(axes: "Axes", row: Row, x: str, y: str, *, label: str) -> None:
    at = [Cell.of(row["result"][metric]) for metric in (x, y)]
    (x_at, y_at), (x_half, y_half) = ([c.value for c in at], [c.half for c in at])
    colour, marker = look_of(row["method"].partition("+")[0])
    axes.errorbar(x_at, y_at, xerr=x_half, yerr=y_half, fmt=marker, ms=6, capsize=2, color=colour, label=label)


def _ladder(axes: "Axes", findings: Findings, env: str, x: str, y: str) -> None:
    """Draw the ladder's rungs in grey, joined in their order."""
    rungs = (findings.row(env, paper.MAX_LENS[0], rung) for rung in LADDER)
    results = [row["result"] for row in rungs if row is not None and x in row["result"]]
    if results:
        places = ([result[metric]["mean"] for result in results] for metric in (x, y))
        axes.plot(*places, ".:", ms=4, color=GREY, label="the ladder, greedy")


def _named(findings: Findings, env: str) -> Iterator[tuple[float, float, str, str]]:
    """Yield where each method of the Pareto picture stands, its name and its colour."""
    for method in (*paper.METHODS, *paper.YARDSTICKS):
        row = findings.row(env, paper.MAX_LENS[0], method)
        if row is not None:
            x, y = (row["result"][metric]["mean"] for metric in ("slate_ad", "return"))
            yield x, y, variant_name(method), look_of(method.partition("+")[0])[0]


def _band(axes: "Axes", steps: np.ndarray, curves: np.ndarray, method: str) -> None:
    seen = np.isfinite(curves).all(axis=1)
    steps, curves = steps[seen], curves[seen]
    own, (colour, marker) = method == OWN, look_of(method.partition("+")[0])
    axes.fill_between(steps, curves.min(axis=1), curves.max(axis=1), color=colour, alpha=0.15, linewidth=0)
    (line,) = axes.plot(steps, curves.mean(axis=1), color=colour, label=variant_name(method), marker=marker, ms=4)
    line.set(linewidth=2.2 if own else 1.0, markevery=max(len(steps) // 6, 1))


def _legend(figure: "Figure", names: Collection[str] = ()) -> None:
    """Name every series of a figure, or some, once, below its panels, where it lies on nothing."""
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            if not names or text in names:
                found.setdefault(text, handle)
    if found:
        columns = min(len(found), 5)
        figure.legend(
            list(found.values()), list(found), loc="outside lower center", ncols=columns, fontsize=8, frameon=False
        )
