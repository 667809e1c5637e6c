"""The ledger as tables: verdicts before and now, and how each was come to."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from experiments.report.claims import EXPLAINED, FAILS, HOLDS, OPEN, Judgement, worst
from experiments.report.findings import Measured
from experiments.report.tables import ReportTable


def verdicts_table(judgements: Sequence[Judgement]) -> ReportTable:
    """Return the ledger in short: each claim, its verdict before and now, the number that decides, and why."""
    rows = []
    for j in judgements:
        number = decisive_number(j) if j.measured else "-"
        mark = "\u2020" if j.claim.invented else ""
        rows.append(
            [j.claim.section, f"{_quoted(j)}{mark}", j.claim.before or "new", f"**{j.verdict}**", number, _why(j)]
        )
    counts = Counter(j.verdict for j in judgements)
    said = [
        f"Of {len(judgements)} claims {counts[HOLDS]} hold, {counts[FAILS]} do not, {counts[EXPLAINED]} were measured so and "
        f"are explained otherwise, {counts[OPEN]} cannot be decided here.",
        "\u2020: the threshold, or what counts as enough, is ours.",
    ]
    header = ("section", "claim", "on November 22", "now", "ours", "why")
    return ReportTable("", header, rows, prose=True, said=said)


def _quoted(judgement: Judgement) -> str:
    own = judgement.claim.section.startswith("ours")
    return judgement.claim.quote if own else f"\u201c{judgement.claim.quote}\u201d"


def _why(judgement: Judgement) -> str:
    """Return why a verdict is not what the interval says, or what was excluded before it holds."""
    if judgement.why:
        return judgement.why
    excluded = ", ".join(e.control.alternative for e in judgement.controls)
    parts = [f"excluded: {excluded}" if excluded else "", judgement.claim.note]
    return ". ".join(part for part in parts if part)


def claims_table(judgements: Sequence[Judgement], passes: Mapping[str, Mapping[str, float]]) -> ReportTable:
    """Return how each claim is decided: what is measured, the rule, p-values, controls, and the same for Eq. (7) as printed.

    Args:
        judgements: of the ledger.
        passes: claim to how often its rule is passed by methods that are all alike, `now` and `before` (`imitation`).
    """
    rows = []
    for j in judgements:
        rule = j.claim.rule
        p_values = "" if math.isnan(j.p_value) else f"{j.p_value:.2g}, {j.adjusted:.2g}"
        controls = "; ".join(f"{e.control.alternative}: {_excluded(e.verdict)}" for e in j.controls)
        noise = "{before:.1%}, {now:.1%}".format(**passes[j.claim.id]) if j.claim.id in passes else ""
        printed = j.as_printed
        if j.printed:
            printed += f", {decisive(j.printed, rule.relation)}"
        rows.append(
            [j.claim.id, j.claim.reads, f"{rule.relation} {rule.threshold:g}", p_values, noise, controls, printed]
        )
    header = (
        "id",
        "claim",
        "threshold",
        "p, after Holm",
        "noise passes it, before, now",
        "controls",
        "Eq. (7) as printed",
    )
    alike = [name for name, x in passes.items() if x["now"] > 0.05]
    said = [
        "p is of the numbers being on the other side of the threshold than they are; Holm's correction is over the claims of "
        "one section.",
        f"Methods that are all alike pass more than one time in twenty: {', '.join(alike) or 'no rule'}.",
    ]
    return ReportTable("", header, rows, prose=True, said=said)


def _excluded(verdict: str) -> str:
    return {HOLDS: "excluded", FAILS: "explains it", OPEN: "not excluded"}[verdict]


def decisive_number(judgement: Judgement) -> str:
    """Return the number of a claim that is furthest to the wrong side, with its interval, and of how many it is."""
    return decisive(judgement.measured, judgement.claim.rule.relation) if judgement.measured else judgement.why


def decisive(measured: Sequence[Measured], relation: str) -> str:
    """Return the number that is furthest to the wrong side of a relation, where it is from, and of how many it is."""
    found = worst(measured, relation)
    cell = found.cell
    interval = f" [{cell.low:.3g}, {cell.high:.3g}]" if cell.half > 0 else ""
    of = f"; the worst of {len(measured)}" if len(measured) > 1 else ""
    return f"{cell.value:.3g}{interval} ({found.where}{of})"
