"""Measurements of the grid: the metrics of methods, and of numbers of diffusion steps, beside each other with intervals."""

import math
from collections.abc import Sequence

import numpy as np

from experiments.report.findings import Cell, Findings, Measured, NotMeasuredError, Row, independent_difference
from experiments.report.paper import ENVIRONMENTS, MAX_LENS, cell_name, env_name

LOWER_IS_BETTER = ("ad", "slate_ad", "broken", "gini")


def level(
    findings: Findings,
    *,
    metric: str,
    methods: Sequence[str],
    envs: Sequence[str] = (),
    max_lens: Sequence[int] = MAX_LENS,
) -> list[Measured]:
    """Return a metric of each method in each cell."""
    return [
        Measured(f"{cell_name(env, max_len)}, {method}", Cell.of(row["result"][metric]))
        for env, max_len in findings.table_cells(envs, max_lens)
        for method in methods
        if (row := findings.row(env, max_len, method)) is not None
    ]


def margin(
    findings: Findings,
    *,
    metric: str,
    method: str,
    against: Sequence[str],
    envs: Sequence[str] = (),
    max_lens: Sequence[int] = MAX_LENS,
    relative: bool = False,
) -> list[Measured]:
    """Return by how much a method is better than the best of others in each cell, as a share of theirs where `relative`.

    Better is more, and less for the measures of imbalance. The best is the one whose margin is smallest.
    """
    found = []
    for env, max_len in findings.table_cells(envs, max_lens):
        own = findings.row(env, max_len, method)
        others = [row for name in against if (row := findings.row(env, max_len, name)) is not None]
        if own is None or not others:
            continue
        if absent := [name for name in against if findings.row(env, max_len, name) is None]:
            found.append(_unknown(f"{cell_name(env, max_len)}, {', '.join(absent)} did not finish"))
        margins = [(_margin(findings, own, other, metric, relative), other["method"]) for other in others]
        cell, rival = min(margins, key=lambda pair: pair[0].value)
        found.append(Measured(f"{cell_name(env, max_len)}, against {rival}", cell))
    return found


def share_best(findings: Findings, *, method: str, methods: Sequence[str], metrics: Sequence[str]) -> list[Measured]:
    """Return in which share of cells and metrics a method's mean is the best of some methods."""
    wins = []
    for env, max_len in findings.table_cells((), MAX_LENS):
        rows = {name: row for name in methods if (row := findings.row(env, max_len, name)) is not None}
        if method not in rows or len(rows) < 2:
            continue
        for metric in metrics:
            sign = -1 if metric in LOWER_IS_BETTER else 1
            best = max(rows, key=lambda name: sign * rows[name]["result"][metric]["mean"])
            wins.append(best == method)
    return [Measured.exact(f"{sum(wins)} of {len(wins)} cells", float(np.mean(wins)))] if wins else []


def diffusion_peak(
    findings: Findings, *, schedule: str, inside: Sequence[int], metric: str = "length", envs: Sequence[str] = ()
) -> list[Measured]:
    """Return, of each data set, the best value at some numbers of diffusion steps minus the best at all others."""
    found = []
    for env in findings.environments_of(envs):
        rows = _by_steps(findings, env, schedule)
        within = [rows[s] for s in rows if s in inside]
        outside = [rows[s] for s in rows if s not in inside]
        if within and outside:
            best = [max(part, key=lambda r: r["result"][metric]["mean"]) for part in (within, outside)]
            found.append(Measured(env_name(env), findings.difference(best[0], best[1], metric)))
    return found


def diffusion_change(
    findings: Findings,
    *,
    schedule: str,
    first: int,
    second: int,
    metric: str = "length",
    relative: bool = False,
    envs: Sequence[str] = (),
) -> list[Measured]:
    """Return, of each data set, the change of a metric from one number of diffusion steps to another."""
    found = []
    for env in findings.environments_of(envs):
        rows = _by_steps(findings, env, schedule)
        if first in rows and second in rows:
            cell = findings.difference(rows[second], rows[first], metric)
            base = rows[first]["result"][metric]["mean"] if relative else 1.0
            found.append(Measured(env_name(env), _scaled(cell, 1 / base)))
    return found


def diffusion_level(
    findings: Findings, *, schedule: str, steps: Sequence[int], metric: str, envs: Sequence[str] = ()
) -> list[Measured]:
    """Return a metric at some numbers of diffusion steps, of each data set."""
    return [
        Measured(f"{env_name(env)}, S = {s}", Cell.of(row["result"][metric]))
        for env in findings.environments_of(envs)
        for s, row in _by_steps(findings, env, schedule).items()
        if s in steps
    ]


def diffusion_contrast(findings: Findings, *, schedule: str, first: int, second: int) -> list[Measured]:
    """Return how much larger the relative fall of Len from one number of steps to another is on KuaiRand than on KuaiRec."""
    fall = {
        env: diffusion_change(findings, schedule=schedule, first=first, second=second, relative=True, envs=[env])
        for env in ENVIRONMENTS
    }
    if not all(fall.values()):
        raise NotMeasuredError("needs both data sets")
    (rec,), (rand,) = fall["kuairec"], fall["kuairand"]
    return [Measured("KuaiRand-Pure minus KuaiRec", independent_difference(rec.cell, rand.cell))]


def penalty_level(findings: Findings, *, metric: str, weight: float) -> list[Measured]:
    """Return a metric of DSRM-HRL under Eq. (6)'s penalty alone, at one lambda."""
    rows = findings.select("pareto_penalty", fairness_weight=weight)
    return [Measured(env_name(r["env"]), Cell.of(r["result"][metric])) for r in rows]


def dominated_by(findings: Findings, *, method: str, methods: Sequence[str]) -> list[Measured]:
    """Count, in each cell, the methods that dominate a method in return and balance of slates."""
    found = []
    for env, max_len in findings.table_cells((), MAX_LENS):
        own = findings.row(env, max_len, method)
        if own is None:
            continue
        rivals = [r for name in methods if (r := findings.row(env, max_len, name)) is not None]
        if absent := [name for name in methods if findings.row(env, max_len, name) is None]:
            found.append(_unknown(f"{cell_name(env, max_len)}, {', '.join(absent)} did not finish"))
        if not rivals:
            continue
        better = [r["method"] for r in rivals if dominates(findings, r, own)]
        found.append(Measured.exact(f"{cell_name(env, max_len)}: {', '.join(better) or 'none'}", float(len(better))))
    return found


def dominates(findings: Findings, row: Row, other: Row) -> bool:
    """Return whether neither return nor balance of slates is worse, and one of them is better beyond its interval."""
    utility = findings.difference(row, other, "return")
    equity = findings.difference(row, other, "slate_ad")
    better = utility.low > 0 or equity.high < 0
    return better and utility.value >= 0 and equity.value <= 0


def _margin(findings: Findings, own: Row, other: Row, metric: str, relative: bool) -> Cell:
    cell = findings.difference(own, other, metric)
    if metric in LOWER_IS_BETTER:
        cell = Cell(-cell.value, -cell.high, -cell.low)
    base = other["result"][metric]["mean"]
    if not relative:
        return cell
    return _scaled(cell, 1 / base) if base > 0 else Cell(math.nan, math.nan, math.nan)


def _scaled(cell: Cell, factor: float) -> Cell:
    return Cell(cell.value * factor, cell.low * factor, cell.high * factor)


def _unknown(where: str) -> Measured:
    """Return what leaves a claim open unless another number refutes it."""
    return Measured.exact(where, math.nan)


def _by_steps(findings: Findings, env: str, schedule: str) -> dict[int, Row]:
    rows = [r for r in findings.select("fig6", schedule=schedule) if r["env"] == env]
    return {int(r["values"]["purifier.diffusion_steps"]): r for r in rows}
