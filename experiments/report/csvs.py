"""The report's numbers as CSV files, unrounded."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dsrm_jax.files import write_text
from dsrm_jax.types import Json
from experiments.report import paper
from experiments.report.claims import Judgement
from experiments.report.curves import pooled_curve
from experiments.report.findings import Findings, Row
from experiments.report.measures import figure2_sources, training_seconds
from experiments.report.pooled import METRICS

CURVE_POINTS = 100  # rows kept of each curve
CsvRow = Sequence[object]


def write_csvs(findings: Findings, judgements: Sequence[Judgement], folder: Path) -> list[str]:
    """Write `results`, `times`, `curves`, `data`, `fig2`, `probes` and `claims` as CSV; return their file names."""
    written = []
    for name, header, rows in (
        ("results", RESULTS, _results(findings)),
        ("times", TIMES, _times(findings)),
        ("curves", ("env", "method", "metric", "step", "mean", "low", "high"), _curves(findings)),
        ("data", ("env", "statistic", "value"), _data(findings)),
        ("fig2", ("source", "impressions", "clicks", "rate"), _figure2(findings)),
        ("probes", ("env", "state", "probe", "value"), _probes(findings)),
        ("claims", CLAIMS, _claims(judgements)),
    ):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        write_text(folder / f"{name}.csv", text.getvalue())
        written.append(f"{name}.csv")
    return written


RESULTS = (
    *("plan", "env", "max_len", "method", "setting", "metric", "mean", "low", "high"),
    *("data_seeds", "policies", "sessions", "paper_mean", "paper_deviation"),
)
TIMES = (
    *("plan", "env", "max_len", "method", "setting", "policies"),
    *("compile_s", "train_s", "with_stage_one_s", "evaluation_s"),
)
CLAIMS = (
    "id",
    "section",
    "measurement",
    "relation",
    "threshold",
    "where",
    "value",
    "low",
    "high",
    "data_seeds",
    "p",
    "p_holm",
    "before",
    "verdict",
    "why",
)


def _results(findings: Findings) -> Iterable[CsvRow]:
    for plan, row in findings.measured_rows():
        result = row["result"]
        key = (plan, row["env"], row["max_len"], row["method"], _setting(row))
        count = (result["data_seeds"], result["policies"], result["sessions"])
        for metric in METRICS:
            entry = result.get(metric)
            if entry is None:
                continue
            cell = paper.printed(row["env"], row["max_len"], row["method"], metric) if not _setting(row) else None
            printed = ("", "") if cell is None else tuple(cell)
            yield (*key, metric, entry["mean"], entry["low"], entry["high"], *count, *printed)
        yield (*key, "closed_form", result["closed_form"], "", "", *count, "", "")


def _times(findings: Findings) -> Iterable[CsvRow]:
    for plan, row in findings.measured_rows():
        timing = row["timing"]
        seconds = (
            timing["compile_seconds"],
            timing["train_seconds"],
            training_seconds(row),
            timing["evaluation_seconds"],
        )
        policies = row["result"]["policies"] / row["result"]["data_seeds"]
        yield (plan, row["env"], row["max_len"], row["method"], _setting(row), policies, *seconds)


def _curves(findings: Findings) -> Iterable[CsvRow]:
    for row in findings.results.get("fig7", []):
        for metric in ("length", "ad", "reward"):
            found = pooled_curve(findings.folder, row["names"], metric)
            if found is None:
                continue
            steps, curves = found
            for i in np.unique(np.linspace(0, len(steps) - 1, min(CURVE_POINTS, len(steps))).astype(int)):
                seeds = curves[i]
                yield (row["env"], row["method"], metric, steps[i], seeds.mean(), seeds.min(), seeds.max())


def _data(findings: Findings) -> Iterable[CsvRow]:
    for env, facts in findings.data.items():
        yield (env, "source", facts["describe"]["source"])
        yield (env, "shared_users", facts["shared_users"])
        yield from ((env, *pair) for pair in _flat(facts["describe"]) if pair[0] not in ("name", "source"))


def _flat(values: Json, prefix: str = "") -> Iterable[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _figure2(findings: Findings) -> Iterable[CsvRow]:
    for env in findings.environments:
        for label, facts in figure2_sources(findings, env):
            yield from ((label, *point) for point in facts["points"])


def _probes(findings: Findings) -> Iterable[CsvRow]:
    for env, report in findings.probes.items():
        for state, numbers in report["states"].items():
            for name, value in _flat(numbers):
                if value is not None and not isinstance(value, list):
                    yield (env, state, name, value)


def _claims(judgements: Sequence[Judgement]) -> Iterable[CsvRow]:
    for j in judgements:
        claim, rule = j.claim, j.claim.rule
        key = (claim.id, claim.section, rule.measurement, rule.relation, rule.threshold)
        verdict = (j.p_value, j.adjusted, claim.before, j.verdict, j.why)
        for m in j.measured:
            cell = m.cell
            yield (*key, m.where, cell.value, cell.low, cell.high, cell.data_seeds, *verdict)
        if not j.measured:
            yield (*key, *[""] * 5, *verdict)


def _setting(row: Row) -> str:
    """Return the grid's values beyond data set, method and session length."""
    usual = ("data.env", "environment.max_len", "agent.method")
    return " ".join(f"{k.rsplit('.', 1)[-1]}={v}" for k, v in row["values"].items() if k not in usual)
