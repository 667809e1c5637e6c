"""What a claim is decided by: functions of the findings, named in the ledger, each giving numbers with intervals.

Comparisons of methods are in `comparisons`; here are the other measurements and the ledger's names of all.
"""

import math
from collections.abc import Callable, Sequence

from dsrm_jax.agents.methods import method_of
from dsrm_jax.types import Json
from experiments.report.comparisons import (
    DECIDING,
    diffusion_change,
    diffusion_contrast,
    diffusion_level,
    diffusion_peak,
    dominated_by,
    level,
    margin,
    share_best,
)
from experiments.report.findings import Findings, Measured, NotMeasuredError, Row
from experiments.report.intervals import Cell
from experiments.report.paper import TABLE4, cell_name, env_name, printed_rows
from experiments.report.studies import living, living_control, noise, real_log, ruler_change

Measure = Callable[..., list[Measured]]
SEEDS_TIMES_SESSIONS = 30  # what the printed Len are means of: 3 seeds x the last 10 sessions


def popularity_r2(findings: Findings, *, kind: str, minus: str = "") -> list[Measured]:
    """Return Figure 2's R², or what it is above another: of the columns that the paper names, else of each data seed."""
    found = []
    for env in findings.environments:
        facts = [x["popularity"] for x in findings.data_seeds.get(env, [])]
        label = f"{env_name(env)}, log"
        if printed := findings.data.get(env, {}).get("printed_columns"):
            facts, label = [printed], f"{env_name(env)}, show_user_num and play_user_num"
        values = [x[kind] - (x[minus] if minus else 0.0) for x in facts]
        if values and all(map(math.isfinite, values)):
            found.append(Measured.of_data(label, values))
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
    return [
        Measured.of_data(env_name(env), [x["shared_users"] for x in facts])
        for env, facts in findings.data_seeds.items()
        if facts
    ]


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
            found.append(Measured.of_data(env_name(env), [value]))
    return found


def probe_claim(findings: Findings, *, name: str) -> list[Measured]:
    """Return 1 where a decision of the probes (`probes.verdicts.claims`) is true, else 0, of each data set."""
    return [Measured.of_data(env_name(env), [report["claims"][name]]) for env, report in findings.probes.items()]


def time_ratio(findings: Findings, *, method: str, against: str) -> list[Measured]:
    """Return a method's training time, Stage I included, over another's, at the same budget, once a data seed."""
    found = {r["method"]: r for r in findings.results.get("table4", [])}
    if method not in found or against not in found:
        raise NotMeasuredError("Table 4 is about KuaiRec, which was not run, or one of the two did not finish")
    return [_ratio_of(f"{method} / {against}", found[method], found[against], training_seconds)]


def training_seconds(row: Row, place: int | None = None) -> float:
    """Return the seconds of training a method, of one data seed or their mean.

    They are those of Stage II and, for what it needs of its own, of Stage I's purifier or denoiser.
    """
    # the others act on the observed state: there is nothing to train for it
    own = method_of(row["method"].split("+")[0]).state != "identity"
    stage_one = float(row["stage_one"].get("purifier_seconds") or 0.0) if own else 0.0
    timing = row["timing"] if place is None else row["timings"][place]
    return float(timing["train_seconds"]) + stage_one


def evaluation_ratio(findings: Findings, *, method: str, against: str) -> list[Measured]:
    """Return the time of a method's held-out sessions, their program compiled, over another's, once a data seed."""
    found = []
    for env, max_len in findings.table_cells((), DECIDING):
        first, second = (findings.row(env, max_len, name) for name in (method, against))
        if first is not None and second is not None:
            found.append(_ratio_of(cell_name(env, max_len), first, second, _evaluation_seconds))
    return found


def _evaluation_seconds(row: Row, place: int) -> float:
    return float(row["timings"][place]["evaluation_seconds"])


def _ratio_of(where: str, first: Row, second: Row, seconds: Callable[[Row, int], float]) -> Measured:
    seeds = range(min(len(first["timings"]), len(second["timings"])))
    return Measured.of_data(where, [seconds(first, i) / seconds(second, i) for i in seeds])


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
    """Return a number of learning curves (`curves.curve_facts`), or its ratio to the least of other methods'."""
    found = []
    for env in findings.environments_of(envs):
        rows = {r["method"]: r for r in findings.results.get("fig7", []) if r["env"] == env}
        if method not in rows:
            continue
        own = [facts[kind] for facts in findings.curve_facts(rows[method], metric)]
        rivals = [[f[kind] for f in findings.curve_facts(rows[n], metric)] for n in against if n in rows]
        if against:
            least = [min(of_seed) for of_seed in zip(*rivals, strict=False)]
            own = [x / y if y > 0 else math.inf for x, y in zip(own, least, strict=False)]
        if own and all(not math.isnan(x) for x in own):
            found.append(Measured.of_data(env_name(env), own))
    return found


def closed_form_error(findings: Findings) -> list[Measured]:
    """Return how far the closed form of Len is from every measured row."""
    return [Measured(where, Cell(error, error, error, seeds)) for where, error, seeds in closed_form_errors(findings)]


def closed_form_errors(findings: Findings) -> list[tuple[str, float, int]]:
    """Return `(row, abs(E[Len] - Len), data seeds)` of every distinct measured row, the largest first."""
    errors = []
    for plan, row in findings.measured_rows():
        result = row["result"]
        where = f"{plan}: {cell_name(row['env'], row['max_len'])}, {row['method']}"
        errors.append((where, abs(result["closed_form"] - result["length"]["mean"]), result["data_seeds"]))
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
        dominated_by,
        living,
        living_control,
        real_log,
        ruler_change,
        noise,
    )
}
