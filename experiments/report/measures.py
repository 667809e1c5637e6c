"""What a claim is decided by: functions of the findings, named in the ledger, each giving numbers with intervals.

Comparisons of methods are in `comparisons`; here are the other measurements and the ledger's names of all.
"""

import math
from collections.abc import Callable, Sequence

from dsrm_jax.agents.methods import method_of
from dsrm_jax.types import Json
from experiments.report.comparisons import (
    diffusion_change,
    diffusion_contrast,
    diffusion_level,
    diffusion_peak,
    dominated_by,
    level,
    margin,
    penalty_level,
    share_best,
)
from experiments.report.findings import Findings, Measured, NotMeasuredError, Row
from experiments.report.paper import MAX_LENS, TABLE4, cell_name, env_name, printed_rows

Measure = Callable[..., list[Measured]]
SEEDS_TIMES_SESSIONS = 30  # what the printed Len are means of: 3 seeds x the last 10 sessions


def popularity_r2(findings: Findings, *, kind: str) -> list[Measured]:
    """Return Figure 2's squared correlation: of the columns that the paper names where they are, else of the log."""
    found = []
    for env in findings.environments:
        for label, facts in figure2_sources(findings, env)[-1:]:
            if math.isfinite(facts[kind]):
                found.append(Measured.exact(label, facts[kind]))
    return found


def figure2_sources(findings: Findings, env: str) -> list[tuple[str, Json]]:
    """Return Figure 2's numbers of a data set: of its log, and of the item statistics where their file is there."""
    facts = findings.data.get(env)
    if facts is None:
        return []
    found = [(f"{env_name(env)}, log", facts["popularity"])]
    if facts["printed_columns"] is not None:
        found.append((f"{env_name(env)}, show_user_num and play_user_num", facts["printed_columns"]))
    return found


def shared_users(findings: Findings) -> list[Measured]:
    """Return which share of the held-out users the training log knows."""
    return [Measured.exact(env_name(env), facts["shared_users"]) for env, facts in findings.data.items()]


def probe(findings: Findings, *, state: str, key: str, minus_state: str = "", minus_key: str = "") -> list[Measured]:
    """Return a probe of states, or what it is above another's, of each data set that was probed."""
    found = []
    for env, report in findings.probes.items():
        states = report["states"]
        if state not in states:
            continue
        value = _number(states[state].get(key))
        if minus_state or minus_key:
            value -= _number(states.get(minus_state or state, {}).get(minus_key or key))
        if math.isfinite(value):
            found.append(Measured.exact(env_name(env), value))
    return found


def probe_claim(findings: Findings, *, name: str) -> list[Measured]:
    """Return 1 where a decision of the probes (`probes.verdicts.claims`) is true, else 0, of each data set."""
    return [Measured.exact(env_name(env), float(report["claims"][name])) for env, report in findings.probes.items()]


def time_ratio(findings: Findings, *, method: str, against: str) -> list[Measured]:
    """Return a method's training time, Stage I included, over another's, at the same budget."""
    seconds = {r["method"]: training_seconds(r) for r in findings.results.get("table4", [])}
    if method not in seconds or against not in seconds:
        raise NotMeasuredError("Table 4 is about KuaiRec, which was not run, or one of the two did not finish")
    return [Measured.exact(f"{method} / {against}", seconds[method] / seconds[against])]


def training_seconds(row: Row) -> float:
    """Return the seconds of training a method: Stage II and, for what it needs of its own, Stage I's purifier or denoiser."""
    # the others act on the observed state: there is nothing to train for it
    own = method_of(row["method"]).state != "identity"
    stage_one = float(row["stage_one"].get("purifier_seconds") or 0.0) if own else 0.0
    return float(row["timing"]["train_seconds"]) + stage_one


def evaluation_ratio(findings: Findings, *, method: str, against: str) -> list[Measured]:
    """Return the time of a method's held-out sessions, their program compiled, over another's."""
    found = []
    for env, max_len in findings.table_cells((), MAX_LENS):
        rows = [findings.row(env, max_len, name) for name in (method, against)]
        if all(row is not None for row in rows):
            first, second = (row["timing"]["evaluation_seconds"] for row in rows if row is not None)
            found.append(Measured.exact(cell_name(env, max_len), first / second))
    return found


def paper_time_ratio(findings: Findings, *, method: str, against: str) -> list[Measured]:
    """Return the ratio of two times that the paper's own Table 4 prints."""
    return [Measured.exact(f"the paper's own {method} / {against}", TABLE4[method] / TABLE4[against])]


def paper_rows_off_three_seeds(findings: Findings) -> list[Measured]:
    """Count the printed Len that no mean of 3 seeds x 10 sessions can have: those that are no multiple of 1/30."""
    off = []
    for key, row in printed_rows().items():
        total = row["length"].mean * SEEDS_TIMES_SESSIONS
        if abs(total - round(total)) > 0.02:
            off.append(key)
    names = "; ".join(f"{cell_name(env, max_len)} {method}" for env, max_len, method in off)
    return [Measured.exact(f"the paper's own Tables 2 and 3: {names or 'none'}", float(len(off)))]


def curve(
    findings: Findings, *, kind: str, metric: str, method: str, against: Sequence[str] = (), envs: Sequence[str] = ()
) -> list[Measured]:
    """Return a number of a learning curve (`curves.curve_facts`), or its ratio to the least among other methods."""
    found = []
    for env in findings.environments_of(envs):
        rows = {r["method"]: r for r in findings.results.get("fig7", []) if r["env"] == env}
        if method not in rows:
            continue
        own = findings.curve_facts(rows[method]).get(metric)
        others = [findings.curve_facts(rows[name]).get(metric) for name in against if name in rows]
        rivals = [facts[kind] for facts in others if facts is not None and math.isfinite(facts[kind])]
        if own is None or not math.isfinite(own[kind]) or (against and not rivals):
            continue
        value = own[kind] / min(rivals) if against and min(rivals) > 0 else own[kind]
        found.append(Measured.exact(env_name(env), math.inf if against and min(rivals) == 0 < own[kind] else value))
    return found


def closed_form_error(findings: Findings) -> list[Measured]:
    """Return how far the closed form of Len is from every measured row."""
    return [Measured.exact(where, error) for where, error in closed_form_errors(findings)]


def closed_form_errors(findings: Findings) -> list[tuple[str, float]]:
    """Return `(row, abs(E[Len] - Len))` of every distinct measured row, the largest first."""
    errors = []
    for plan, row in findings.measured_rows():
        result = row["result"]
        where = f"{plan}: {cell_name(row['env'], row['max_len'])}, {row['method']}"
        errors.append((where, abs(result["closed_form"] - result["length"]["mean"])))
    return sorted(errors, key=lambda pair: -pair[1])


def _number(value: float | Json | None) -> float:
    """Return a probe's number, the mean of one with an interval; NaN where it was not measured."""
    if isinstance(value, dict):
        value = value.get("mean")
    return float("nan") if value is None else float(value)


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
