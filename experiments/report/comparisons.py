"""Measurements of the grid: the metrics of methods, and of numbers of diffusion steps, beside each other with intervals."""

import math
from collections.abc import Sequence

import numpy as np

from experiments.report.findings import Findings, Measured, NotMeasuredError, Row
from experiments.report.intervals import Cell, difference_of_means
from experiments.report.paper import ENVIRONMENTS, MAX_LENS, cell_name, env_name

DECIDING = MAX_LENS[:1]  # of claims; the longer sessions are run on one data seed, which decides nothing
LOWER_IS_BETTER = ("ad", "slate_ad", "broken", "gini", "spread")


def level(
    findings: Findings,
    *,
    metric: str,
    methods: Sequence[str],
    envs: Sequence[str] = (),
    max_lens: Sequence[int] = DECIDING,
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
    max_lens: Sequence[int] = DECIDING,
    relative: bool = False,
) -> list[Measured]:
    """Return by how much a method is better than each of others in each cell, as a share of theirs where `relative`.

    Better is more, and less for the measures of imbalance. A rule on all of these numbers asks that every rival be beaten beyond
    its own interval: to look at the best alone, chosen by its mean, would forget those whose interval is wider.
    """
    found = []
    for env, max_len in findings.table_cells(envs, max_lens):
        own = findings.row(env, max_len, method)
        if own is None:
            continue
        for name in against:
            other = findings.row(env, max_len, name)
            where = f"{cell_name(env, max_len)}, against {name}"
            if other is not None:
                found.append(Measured(where, _margin(findings, own, other, metric, relative)))
            elif any(findings.row(env, max_len, rival) is not None for rival in against):
                found.append(_unknown(f"{cell_name(env, max_len)}, {name} did not finish"))
    return found


def share_best(findings: Findings, *, method: str, methods: Sequence[str], metrics: Sequence[str]) -> list[Measured]:
    """Return in which share of cells and metrics a method is the best of some methods, data seed by data seed."""
    wins: dict[int, list[bool]] = {}
    for env, max_len in findings.table_cells((), DECIDING):
        rows = {name: row for name in methods if (row := findings.row(env, max_len, name)) is not None}
        if method not in rows or len(rows) < 2:
            continue
        for metric in metrics:
            sign = -1 if metric in LOWER_IS_BETTER else 1
            by_seed = {name: _by_data_seed(findings, row, metric) for name, row in rows.items()}
            for seed in by_seed[method]:
                values = {name: sign * of_row[seed] for name, of_row in by_seed.items() if seed in of_row}
                wins.setdefault(seed, []).append(max(values, key=values.__getitem__) == method)
    if not wins:
        return []
    most = max(len(of_seed) for of_seed in wins.values())
    shares = [float(np.mean(of_seed)) for of_seed in wins.values()]
    return [Measured.of_data(f"of up to {most} cells and metrics a data seed", shares)]


def _by_data_seed(findings: Findings, row: Row, metric: str) -> dict[int, float]:
    runs = findings.numbers[row["name"]].values[metric]
    return {seed: float(np.mean([x for (of, _), x in runs.items() if of == seed])) for seed in {of for of, _ in runs}}


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
            found.append(Measured(env_name(env), cell.scaled(1 / base)))
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
    return [Measured("KuaiRand-Pure minus KuaiRec", difference_of_means(rec.cell, rand.cell))]


def dominated_by(findings: Findings, *, method: str, methods: Sequence[str]) -> list[Measured]:
    """Count, in each cell, the methods that dominate a method in return and balance of slates."""
    found = []
    for env, max_len in findings.table_cells((), DECIDING):
        own = findings.row(env, max_len, method)
        if own is None:
            continue
        rivals = [r for name in methods if (r := findings.row(env, max_len, name)) is not None]
        if absent := [name for name in methods if findings.row(env, max_len, name) is None]:
            found.append(_unknown(f"{cell_name(env, max_len)}, {', '.join(absent)} did not finish"))
        if not rivals:
            continue
        better = [r["method"] for r in rivals if dominates(findings, r, own)]
        count = float(len(better))
        cell = Cell(count, count, count, own["result"]["data_seeds"])
        found.append(Measured(f"{cell_name(env, max_len)}: {', '.join(better) or 'none'}", cell))
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
        cell = cell.scaled(-1)
    base = other["result"][metric]["mean"]
    if not relative:
        return cell
    return cell.scaled(1 / base) if base > 0 else Cell(math.nan, math.nan, math.nan)


def _unknown(where: str) -> Measured:
    """Return what leaves a claim open unless another number refutes it."""
    return Measured.exact(where, math.nan)


def _by_steps(findings: Findings, env: str, schedule: str) -> dict[int, Row]:
    rows = [r for r in findings.select("fig6", schedule=schedule) if r["env"] == env]
    return {int(r["values"]["purifier.diffusion_steps"]): r for r in rows}
