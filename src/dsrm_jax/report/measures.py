"""What a claim is decided by: functions of the evidence, named in the ledger, each giving numbers with intervals."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dsrm_jax.report.evidence import Cell, Evidence, Row, independent_difference
from dsrm_jax.report.paper import ENVIRONMENTS, MAX_LENS, TABLE4, family, printed_rows
from dsrm_jax.state.perception import STATES


class Measured(NamedTuple):
    """One number that a claim is about: where it was measured, and its interval."""

    where: str
    cell: Cell


class NotMeasuredError(Exception):
    """Nothing here decides the claim; the message says why."""


Measure = Callable[..., list[Measured]]
SEEDS_TIMES_SESSIONS = 30  # what the printed Len are means of: 3 seeds x the last 10 sessions
LOWER_IS_BETTER = ("ad", "slate_ad", "broken", "gini")


def level(
    evidence: Evidence,
    *,
    metric: str,
    methods: Sequence[str],
    envs: Sequence[str] = (),
    max_lens: Sequence[int] = MAX_LENS,
) -> list[Measured]:
    """Return a metric of each method in each cell."""
    return [
        Measured(f"{_label(env, max_len)}, {method}", Cell.of(row["result"][metric]))
        for env, max_len in _cells(evidence, envs, max_lens)
        for method in methods
        if (row := evidence.row(env, max_len, method)) is not None
    ]


def margin(
    evidence: Evidence,
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
    for env, max_len in _cells(evidence, envs, max_lens):
        own = evidence.row(env, max_len, method)
        others = [row for name in against if (row := evidence.row(env, max_len, name)) is not None]
        if own is None or not others:
            continue
        if absent := [name for name in against if evidence.row(env, max_len, name) is None]:
            found.append(_unknown(f"{_label(env, max_len)}, {', '.join(absent)} did not finish"))
        margins = [(_margin(evidence, own, other, metric, relative), other["method"]) for other in others]
        cell, rival = min(margins, key=lambda pair: pair[0].value)
        found.append(Measured(f"{_label(env, max_len)}, against {rival}", cell))
    return found


def share_best(
    evidence: Evidence, *, method: str, methods: Sequence[str], metrics: Sequence[str]
) -> list[Measured]:
    """Return in which share of cells and metrics a method's mean is the best of some methods."""
    wins = []
    for env, max_len in _cells(evidence, (), MAX_LENS):
        rows = {name: row for name in methods if (row := evidence.row(env, max_len, name)) is not None}
        if method not in rows or len(rows) < 2:
            continue
        for metric in metrics:
            sign = -1 if metric in LOWER_IS_BETTER else 1
            best = max(rows, key=lambda name: sign * rows[name]["result"][metric]["mean"])
            wins.append(best == method)
    return [_exact(f"{sum(wins)} of {len(wins)} cells", float(np.mean(wins)))] if wins else []


def diffusion_peak(
    evidence: Evidence,
    *,
    schedule: str,
    inside: Sequence[int],
    metric: str = "length",
    envs: Sequence[str] = (),
) -> list[Measured]:
    """Return, of each data set, the best value at some numbers of diffusion steps minus the best at all others."""
    found = []
    for env in _environments(evidence, envs):
        rows = _by_steps(evidence, env, schedule)
        within = [rows[s] for s in rows if s in inside]
        outside = [rows[s] for s in rows if s not in inside]
        if within and outside:
            best = [max(part, key=lambda r: r["result"][metric]["mean"]) for part in (within, outside)]
            found.append(Measured(_name(env), evidence.difference(best[0], best[1], metric)))
    return found


def diffusion_change(
    evidence: Evidence,
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
    for env in _environments(evidence, envs):
        rows = _by_steps(evidence, env, schedule)
        if first in rows and second in rows:
            cell = evidence.difference(rows[second], rows[first], metric)
            base = rows[first]["result"][metric]["mean"] if relative else 1.0
            found.append(Measured(_name(env), _scaled(cell, 1 / base)))
    return found


def diffusion_level(
    evidence: Evidence, *, schedule: str, steps: Sequence[int], metric: str, envs: Sequence[str] = ()
) -> list[Measured]:
    """Return a metric at some numbers of diffusion steps, of each data set."""
    return [
        Measured(f"{_name(env)}, S = {s}", Cell.of(row["result"][metric]))
        for env in _environments(evidence, envs)
        for s, row in _by_steps(evidence, env, schedule).items()
        if s in steps
    ]


def diffusion_contrast(evidence: Evidence, *, schedule: str, first: int, second: int) -> list[Measured]:
    """Return how much larger the relative fall of Len from one number of steps to another is on KuaiRand than on KuaiRec."""
    fall = {
        env: diffusion_change(
            evidence, schedule=schedule, first=first, second=second, relative=True, envs=[env]
        )
        for env in ENVIRONMENTS
    }
    if not all(fall.values()):
        raise NotMeasuredError("needs both data sets")
    (rec,), (rand,) = fall["kuairec"], fall["kuairand"]
    return [Measured("KuaiRand-Pure minus KuaiRec", independent_difference(rec.cell, rand.cell))]


def popularity_r2(evidence: Evidence, *, kind: str) -> list[Measured]:
    """Return Figure 2's squared correlation: of the columns that the paper names where they are, else of the log."""
    found = []
    for env in evidence.environments:
        for label, facts in figure2_sources(evidence, env)[-1:]:
            if math.isfinite(facts[kind]):
                found.append(_exact(label, facts[kind]))
    return found


def figure2_sources(evidence: Evidence, env: str) -> list[tuple[str, dict[str, Any]]]:
    """Return Figure 2's numbers of a data set: of its log, and of the item statistics where their file is there."""
    facts = evidence.data.get(env)
    if facts is None:
        return []
    found = [(f"{_name(env)}, log", facts["popularity"])]
    if facts["printed_columns"] is not None:
        found.append((f"{_name(env)}, show_user_num and play_user_num", facts["printed_columns"]))
    return found


def shared_users(evidence: Evidence) -> list[Measured]:
    """Return which share of the held-out users the training log knows."""
    return [_exact(_name(env), facts["shared_users"]) for env, facts in evidence.data.items()]


def probe(
    evidence: Evidence, *, state: str, key: str, minus_state: str = "", minus_key: str = ""
) -> list[Measured]:
    """Return a probe of states, or what it is above another's, of each data set that was probed."""
    found = []
    for env, report in evidence.probes.items():
        states = report["states"]
        if state not in states:
            continue
        value = _number(states[state].get(key))
        if minus_state or minus_key:
            value -= _number(states.get(minus_state or state, {}).get(minus_key or key))
        if math.isfinite(value):
            found.append(_exact(_name(env), value))
    return found


def probe_claim(evidence: Evidence, *, name: str) -> list[Measured]:
    """Return 1 where a decision of the probes (`probe_verdicts.claims`) is true, else 0, of each data set."""
    return [_exact(_name(env), float(report["claims"][name])) for env, report in evidence.probes.items()]


def time_ratio(evidence: Evidence, *, method: str, against: str) -> list[Measured]:
    """Return a method's training time, Stage I included, over another's, at the same budget."""
    seconds = {r["method"]: training_seconds(r) for r in evidence.results.get("table4", [])}
    if method not in seconds or against not in seconds:
        raise NotMeasuredError(
            "Table 4 is about KuaiRec, which was not run, or one of the two did not finish"
        )
    return [_exact(f"{method} / {against}", seconds[method] / seconds[against])]


def training_seconds(row: Row) -> float:
    """Return the seconds of training a method: Stage II and, for what it needs of its own, Stage I's purifier or denoiser."""
    own = row["method"] in STATES  # the others act on the observed state: there is nothing to train for it
    stage_one = float(row["stage_one"].get("purifier_seconds") or 0.0) if own else 0.0
    return float(row["timing"]["train_seconds"]) + stage_one


def evaluation_ratio(evidence: Evidence, *, method: str, against: str) -> list[Measured]:
    """Return the time of a method's held-out sessions, compilation included, over another's."""
    found = []
    for env, max_len in _cells(evidence, (), MAX_LENS):
        rows = [evidence.row(env, max_len, name) for name in (method, against)]
        if all(row is not None for row in rows):
            first, second = (row["timing"]["evaluation_seconds"] for row in rows if row is not None)
            found.append(_exact(_label(env, max_len), first / second))
    return found


def paper_time_ratio(evidence: Evidence, *, method: str, against: str) -> list[Measured]:
    """Return the ratio of two times that the paper's own Table 4 prints."""
    return [_exact(f"the paper's own {method} / {against}", TABLE4[method] / TABLE4[against])]


def paper_rows_off_three_seeds(evidence: Evidence) -> list[Measured]:
    """Count the printed Len that no mean of 3 seeds x 10 sessions can have: those that are no multiple of 1/30."""
    off = []
    for key, row in printed_rows().items():
        total = row["length"].mean * SEEDS_TIMES_SESSIONS
        if abs(total - round(total)) > 0.02:
            off.append(key)
    names = "; ".join(f"{_label(env, max_len)} {method}" for env, max_len, method in off)
    return [_exact(f"the paper's own Tables 2 and 3: {names or 'none'}", float(len(off)))]


def curve(
    evidence: Evidence,
    *,
    kind: str,
    metric: str,
    method: str,
    against: Sequence[str] = (),
    envs: Sequence[str] = (),
) -> list[Measured]:
    """Return a number of a learning curve (`curves.curve_facts`), or its ratio to the least among other methods."""
    found = []
    for env in _environments(evidence, envs):
        rows = {r["method"]: r for r in evidence.results.get("fig7", []) if r["env"] == env}
        if method not in rows:
            continue
        own = evidence.curve_facts(rows[method]).get(metric)
        others = [evidence.curve_facts(rows[name]).get(metric) for name in against if name in rows]
        rivals = [facts[kind] for facts in others if facts is not None and math.isfinite(facts[kind])]
        if own is None or not math.isfinite(own[kind]) or (against and not rivals):
            continue
        value = own[kind] / min(rivals) if against and min(rivals) > 0 else own[kind]
        found.append(_exact(_name(env), math.inf if against and min(rivals) == 0 < own[kind] else value))
    return found


def closed_form_error(evidence: Evidence) -> list[Measured]:
    """Return how far the closed form of Len is from every measured row."""
    return [_exact(where, error) for where, error in closed_form_errors(evidence)]


def closed_form_errors(evidence: Evidence) -> list[tuple[str, float]]:
    """Return `(row, abs(E[Len] - Len))` of every distinct measured row, the largest first."""
    errors = []
    for plan, row in evidence.measured_rows():
        result = row["result"]
        where = f"{plan}: {_label(row['env'], row['max_len'])}, {row['method']}"
        errors.append((where, abs(result["closed_form"] - result["length"]["mean"])))
    return sorted(errors, key=lambda pair: -pair[1])


def penalty_level(evidence: Evidence, *, metric: str, weight: float) -> list[Measured]:
    """Return a metric of DSRM-HRL under Eq. (6)'s penalty alone, at one lambda."""
    rows = evidence.select("pareto_penalty", fairness_weight=weight)
    return [Measured(_name(r["env"]), Cell.of(r["result"][metric])) for r in rows]


def dominated_by(evidence: Evidence, *, method: str, methods: Sequence[str]) -> list[Measured]:
    """Count, in each cell, the methods that dominate a method in return and balance of slates."""
    found = []
    for env, max_len in _cells(evidence, (), MAX_LENS):
        own = evidence.row(env, max_len, method)
        if own is None:
            continue
        rivals = [r for name in methods if (r := evidence.row(env, max_len, name)) is not None]
        if absent := [name for name in methods if evidence.row(env, max_len, name) is None]:
            found.append(_unknown(f"{_label(env, max_len)}, {', '.join(absent)} did not finish"))
        if not rivals:
            continue
        better = [r["method"] for r in rivals if dominates(evidence, r, own)]
        found.append(_exact(f"{_label(env, max_len)}: {', '.join(better) or 'none'}", float(len(better))))
    return found


def dominates(evidence: Evidence, row: Row, other: Row) -> bool:
    """Return whether neither return nor balance of slates is worse, and one of them is better beyond its interval."""
    utility = evidence.difference(row, other, "return")
    equity = evidence.difference(row, other, "slate_ad")
    better = utility.low > 0 or equity.high < 0
    return better and utility.value >= 0 and equity.value <= 0


def of_kind(measure: str) -> Measure:
    """Return a measurement by its name in the ledger.

    Raises:
        KeyError: there is none of that name.
    """
    return MEASURES[measure]


def _margin(evidence: Evidence, own: Row, other: Row, metric: str, relative: bool) -> Cell:
    cell = evidence.difference(own, other, metric)
    if metric in LOWER_IS_BETTER:
        cell = Cell(-cell.value, -cell.high, -cell.low)
    base = other["result"][metric]["mean"]
    if not relative:
        return cell
    return _scaled(cell, 1 / base) if base > 0 else Cell(math.nan, math.nan, math.nan)


def _scaled(cell: Cell, factor: float) -> Cell:
    return Cell(cell.value * factor, cell.low * factor, cell.high * factor)


def _exact(where: str, value: float) -> Measured:
    return Measured(where, Cell(value, value, value))


def _unknown(where: str) -> Measured:
    """Return what leaves a claim open unless another number refutes it."""
    return _exact(where, math.nan)


def _number(value: Any) -> float:
    """Return a probe's number, the mean of one with an interval; NaN where it was not measured."""
    if isinstance(value, dict):
        value = value.get("mean")
    return float("nan") if value is None else float(value)


def _by_steps(evidence: Evidence, env: str, schedule: str) -> dict[int, Row]:
    rows = [r for r in evidence.select("fig6", schedule=schedule) if r["env"] == env]
    return {int(r["values"]["purifier.diffusion_steps"]): r for r in rows}


def _cells(evidence: Evidence, envs: Iterable[str], max_lens: Sequence[int]) -> list[tuple[str, int]]:
    chosen = _environments(evidence, envs)
    plans = ("table2", "table3", "fig3", "table4")
    return [(env, n) for env, n in evidence.cells(plans) if env in chosen and n in max_lens]


def _environments(evidence: Evidence, envs: Iterable[str]) -> list[str]:
    wanted = set(envs)
    return [env for env in evidence.environments if not wanted or family(env) in wanted]


def _name(env: str) -> str:
    return ENVIRONMENTS.get(env, env)


def _label(env: str, max_len: int) -> str:
    return f"{_name(env)} {max_len}"


MEASURES: dict[str, Measure] = {
    function.__name__: function
    for function in (
        level,
        margin,
        share_best,
        diffusion_peak,
        diffusion_change,
        diffusion_level,
        diffusion_contrast,
        popularity_r2,
        shared_users,
        probe,
        probe_claim,
        time_ratio,
        evaluation_ratio,
        paper_time_ratio,
        paper_rows_off_three_seeds,
        curve,
        closed_form_error,
        penalty_level,
        dominated_by,
    )
}
