"""The report's first page in ten sentences, each made from numbers and their intervals."""

from collections import Counter
from collections.abc import Iterator, Sequence

from dsrm_jax.config.serialise import to_json
from experiments.report import paper, sentences
from experiments.report.claims import EXPLAINED, FAILS, HOLDS, OPEN, Judgement
from experiments.report.findings import Findings
from experiments.report.intervals import Cell
from experiments.report.paper import env_name
from experiments.report.studies import living, real_log
from experiments.report.tables import with_interval
from experiments.report.variants import variant_name
from experiments.report.waterfall import PURIFIED

OWN, PENALTY = "dsrm_hrl", "dsrm_hrl+penalty"
SHORT = paper.MAX_LENS[0]


def first_page(findings: Findings, judgements: Sequence[Judgement]) -> list[str]:
    """Return at most ten sentences; what was not measured is left out."""
    found = [_measured(findings), _verdicts(judgements), *sentences.waterfall_said(findings), _purifier(findings)]
    found += [_heads(findings), _penalty(findings), _equity(findings), _real(findings), _living(findings)]
    return [sentence for sentence in found if sentence][:10]


def _measured(findings: Findings) -> str:
    rows = [row for _, row in findings.measured_rows()]
    if not rows:
        return "Nothing was measured."
    point = next((p for members in findings.points.values() for p in members), None)
    training = to_json(point.config)["training"] if point else {}
    seeds = max(row["result"]["data_seeds"] for row in rows)
    policies = sum(row["result"]["policies"] for row in rows)
    sources = " and ".join(dict.fromkeys(row["source"] for row in rows))
    return (
        f"{len(rows)} settings, {policies} policies of {training.get('steps', 0):,} batched steps of "
        f"{training.get('num_users', 0)} users (the paper: 20,000 steps; budget `{findings.budget}`), on up to {seeds} data "
        f"seeds of {sources}: users are simulated, so compare orders with the paper's, not digits."
    )


def _verdicts(judgements: Sequence[Judgement]) -> str:
    counts = Counter(j.verdict for j in judgements)
    return (
        f"Of {len(judgements)} claims {counts[HOLDS]} hold, {counts[FAILS]} do not, {counts[EXPLAINED]} were measured so but "
        f"something cheaper explains them, {counts[OPEN]} cannot be decided here, after Holm's correction and on three data "
        "seeds at least."
    )


def _purifier(findings: Findings) -> str:
    parts = list(_gaps(findings, PURIFIED, f"{PURIFIED}+gaussian"))
    return _said("Greedy slates by the purifier instead of a Gaussian posterior in closed form change Len by", parts)


def _heads(findings: Findings) -> str:
    parts = []
    for env in findings.environments:
        gaps = [gap for name in paper.METHODS[:-1] if (gap := _gap(findings, env, OWN, f"{name}+half")) is not None]
        if gaps:
            beyond, least = sum(gap.low > 0 for gap in gaps), min(gaps, key=lambda gap: gap.value)
            parts.append(f"{beyond} of {len(gaps)} on {env_name(env)} (the nearest by {with_interval(least, 2)})")
    return _said("Given its own head, half and half, baselines that DSRM-HRL is still beyond are", parts)


def _penalty(findings: Findings) -> str:
    parts = []
    for env in findings.environments:
        rows = {name: row for name in paper.METHODS[:-1] if (row := findings.row(env, SHORT, name)) is not None}
        if rows and findings.row(env, SHORT, PENALTY) is not None:
            best = max(rows, key=lambda name: rows[name]["result"]["length"]["mean"])
            gap = _gap(findings, env, PENALTY, best)
            if gap is not None:
                parts.append(f"{with_interval(gap, 2)} on {env_name(env)} ({variant_name(best)})")
    return _said("With Eq. (6) as printed, the penalty alone, its Len less the best baseline's is", parts)


def _equity(findings: Findings) -> str:
    parts = []
    for env in findings.environments:
        row = findings.row(env, SHORT, OWN)
        if row is not None and "gini" in row["result"]:
            result = row["result"]
            ad, gini, coverage = (result[name]["mean"] for name in ("ad", "gini", "coverage"))
            worst = (
                f", the worst tenth of users stays {result['worst_tenth']['mean']:.1f} steps"
                if "worst_tenth" in result
                else ""
            )
            parts.append(f"AD {ad:.3f}, item Gini {gini:.2f}, {coverage:.0%} of items shown{worst} on {env_name(env)}")
    return _said("Equity between groups is not equity between items:", parts)


def _real(findings: Findings) -> str:
    if "ladder" not in findings.studies:
        return ""
    found = {rung: real_log(findings, rung=rung, over="gaussian") for rung in ("mixture", "guided", "conditional")}
    gained = [f"{rung} ({m.where})" for rung, numbers in found.items() for m in numbers if m.cell.low > 0]
    total = sum(map(len, found.values()))
    where = (
        f"gains beyond its interval in {len(gained)} of {total} cases: {', '.join(gained)}"
        if gained
        else "nowhere gains"
    )
    return f"On real logs, by later clicks of users left out, a learnt prior over the Gaussian posterior {where}."


def _living(findings: Findings) -> str:
    if "worlds_learners" not in findings.studies:
        return ""
    parts = [f"{m.where.partition(',')[0]} {with_interval(m.cell, 2)}" for m in living(findings, against="constant")]
    return _said("In worlds with memory DSRM-HRL earns beyond the best constant share of popular items:", parts)


def _said(what: str, parts: Sequence[str]) -> str:
    """Return one sentence of all parts, empty where there is none."""
    return f"{what} {'; '.join(parts)}." if parts else ""


def _gaps(findings: Findings, method: str, other: str) -> Iterator[str]:
    for env in findings.environments:
        gap = _gap(findings, env, method, other)
        if gap is not None:
            yield f"{with_interval(gap, 2)} steps on {env_name(env)}"


def _gap(findings: Findings, env: str, method: str, other: str) -> Cell | None:
    rows = findings.row(env, SHORT, method), findings.row(env, SHORT, other)
    if rows[0] is None or rows[1] is None:
        return None
    return findings.difference(rows[0], rows[1], "length")
