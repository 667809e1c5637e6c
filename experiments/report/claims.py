"""The ledger: every claim with the measurement that decides it, a threshold fixed beforehand, what else could explain it, and the
verdict.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from dsrm_jax.errors import InputError
from dsrm_jax.files import load_toml
from dsrm_jax.types import Json
from experiments.report.findings import Findings, Measured, NotMeasuredError, enough
from experiments.report.intervals import CONFIDENCE, FEWEST_DATA_SEEDS, holm
from experiments.report.measures import MEASURES

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be decided here"
EXPLAINED = (
    "explained otherwise"  # it was measured so, but what need not be the method's doing was measured to do the same
)
RELATIONS = (">", ">=", "<", "<=")
TEXT = ("id", "section", "quote", "reads")
RULE = ("measurement", "relation", "threshold")
# the method's rows, and the same with Eq. (7) as printed for its purifier
AS_PRINTED = MappingProxyType({name: f"{name}+paper" for name in ("dsrm_hrl", "dnair_dsrm", "quota_greedy_purified")})


@dataclass(frozen=True)
class Rule:
    """What decides: a measurement with its arguments, compared with a threshold."""

    measurement: str
    relation: str
    threshold: float
    arguments: Json


@dataclass(frozen=True)
class Control:
    """Another explanation of what a claim is about, which has to be excluded before the claim holds.

    Attributes:
        alternative: its kind in two or three words: quota head alone, seeing skips, shuffled rates, noise.
        text: what is so where it is not excluded.
        rule: excludes it where it holds.
    """

    alternative: str
    text: str
    rule: Rule


@dataclass(frozen=True)
class Claim:
    """A row of the ledger.

    Attributes:
        id: short and unique.
        section: of the paper, or `ours: ...`; claims of one section are a family for Holm's correction.
        quote: the paper's words, shortened, or ours.
        reads: what is measured, in words.
        rule: what decides.
        note: more to say.
        invented: the threshold, or what counts as enough, is ours and not the paper's.
        about: `purifier`, `manager`: what has to be there for it to hold; the ledger's negative controls take it away.
        before: the verdict of the ledger of November 22, 2026, which had one data seed, no correction and few controls.
        controls: what else could explain it.
    """

    id: str
    section: str
    quote: str
    reads: str
    rule: Rule
    note: str = ""
    invented: bool = False
    about: tuple[str, ...] = ()
    before: str = ""
    controls: tuple[Control, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """A control with what was found: `HOLDS` where it is excluded, `FAILS` where it explains the claim."""

    control: Control
    verdict: str
    measured: Sequence[Measured]


@dataclass(frozen=True)
class Judgement:
    """A claim with its verdict.

    Attributes:
        claim: the claim.
        verdict: `HOLDS`, `FAILS`, `EXPLAINED` or `OPEN`.
        measured: the numbers that decide.
        why: why it is explained otherwise or could not be decided; empty otherwise.
        p_value: of the numbers being on the other side of the threshold than they are, before correction; NaN where none is.
        adjusted: the same after Holm's correction over the claims of its section.
        controls: what else could explain it.
        as_printed: the verdict's interval rule, of the method with Eq. (7) as printed; empty where the claim is of no such row.
        printed: the numbers of that.
    """

    claim: Claim
    verdict: str
    measured: Sequence[Measured]
    why: str
    p_value: float = math.nan
    adjusted: float = math.nan
    controls: Sequence[Explanation] = ()
    as_printed: str = ""
    printed: Sequence[Measured] = ()


def rows_of(rule: Rule) -> list[str]:
    """Return the rows that a rule compares or measures."""
    found: list[str] = []
    for name in ("method", "methods", "against"):
        value = rule.arguments.get(name, [])
        found += [value] if isinstance(value, str) else value
    return found


def load_claims(path: Path) -> list[Claim]:
    """Read the ledger: TOML with tables `[[claim]]`, and `[[claim.controls]]` in them.

    Raises:
        InputError: a claim without a field, with one that does not exist, or with an unknown measurement; names it.
    """
    entries = load_toml(path).get("claim", [])
    claims = [_claim(entry, f"{path}: claim {entry.get('id', number)!r}") for number, entry in enumerate(entries, 1)]
    names = [claim.id for claim in claims]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: two claims have the id {twice[0]!r}; give each its own")
    return claims


def judge_all(claims: Sequence[Claim], findings: Findings) -> list[Judgement]:
    """Measure and decide all claims.

    A claim holds where every number is on the right side of the threshold with its whole interval, where that is still so after
    Holm's correction over its section, and where every other explanation is refuted. It does not hold where one number is on the
    wrong side with its whole interval, after the same correction. Otherwise it cannot be decided here; numbers of fewer than
    three data seeds decide nothing.
    """
    first = [_measured(claim, findings) for claim in claims]
    adjusted: dict[str, float] = {}
    for section in {claim.section for claim in claims}:
        family = [j for j in first if j.claim.section == section and not math.isnan(j.p_value)]
        adjusted |= {j.claim.id: p for j, p in zip(family, holm([j.p_value for j in family]), strict=True)}
    return [_decided(replace(j, adjusted=adjusted.get(j.claim.id, math.nan)), findings) for j in first]


def _measured(claim: Claim, findings: Findings) -> Judgement:
    """Return a claim with its numbers and the verdict of their intervals alone."""
    rule = claim.rule
    measured, why = measure(rule, findings)
    found = decide(measured, rule.relation, rule.threshold) if measured else OPEN
    if found == OPEN and not why:
        unknown = [m.where for m in measured if math.isnan(m.cell.value)]
        why = unknown[0] if unknown else "an interval holds the threshold"
    printed_rule = _as_printed(rule)
    printed = [] if printed_rule is None else measure(printed_rule, findings)[0]
    as_printed = (
        "" if printed_rule is None else decide(printed, rule.relation, rule.threshold) if printed else "not run"
    )
    p_value = p_of(measured, rule.relation, rule.threshold)
    return Judgement(claim, found, measured, why, p_value, as_printed=as_printed, printed=printed)


def _decided(judgement: Judgement, findings: Findings) -> Judgement:
    """Return the verdict that is left after the correction, and after the other explanations."""
    found, claim = judgement.verdict, judgement.claim
    if found == OPEN:
        return judgement
    if judgement.adjusted > 1 - CONFIDENCE:
        why = f"its interval alone says that it {found}, Holm's correction over section {claim.section} does not"
        return replace(
            judgement, verdict=OPEN, why=f"{why} (p = {judgement.p_value:.2g}, corrected {judgement.adjusted:.2g})"
        )
    if found == FAILS:
        return replace(judgement, why="")
    explanations = []
    for control in claim.controls:
        numbers, _ = measure(control.rule, findings)
        verdict = decide(numbers, control.rule.relation, control.rule.threshold) if numbers else OPEN
        explanations.append(Explanation(control, verdict, numbers))
    explaining = [e for e in explanations if e.verdict == FAILS]
    not_excluded = [e for e in explanations if e.verdict == OPEN]
    if explaining:
        found, why = EXPLAINED, "; ".join(f"{e.control.alternative}: {e.control.text}" for e in explaining)
    elif not_excluded:
        found, why = OPEN, "not excluded: " + ", ".join(e.control.alternative for e in not_excluded)
    else:
        why = ""
    return replace(judgement, verdict=found, why=why, controls=explanations)


def p_of(measured: Sequence[Measured], relation: str, threshold: float) -> float:
    """Return the p-value of a rule's numbers: the largest where all are on the right side, for all have to be; else the smallest
    of those on the wrong side times how many numbers there are (Bonferroni), for one is enough. NaN where nothing is known.
    """
    known = [m for m in measured if not math.isnan(m.cell.value)]
    if not known:
        return math.nan
    right = [_side(m.cell.value, relation, threshold) for m in known]
    if all(right):
        return max(m.cell.p_value(threshold) for m in known)
    return min(1.0, len(known) * min(m.cell.p_value(threshold) for m, r in zip(known, right, strict=True) if not r))


def _side(value: float, relation: str, threshold: float) -> bool:
    return {">": value > threshold, ">=": value >= threshold, "<": value < threshold, "<=": value <= threshold}[
        relation
    ]


def _as_printed(rule: Rule) -> Rule | None:
    """Return the rule about the same rows with Eq. (7) as printed, None where it is about none of them."""

    def named(value: object) -> object:
        if isinstance(value, list):
            return [named(x) for x in value]
        return AS_PRINTED.get(value, value) if isinstance(value, str) else value

    arguments = {name: named(value) for name, value in rule.arguments.items() if name in ("method", "methods")}
    changed = any(rule.arguments[name] != value for name, value in arguments.items())
    if not changed or rule.measurement not in ("margin", "level", "share_best", "dominated_by"):
        return None
    return replace(rule, arguments=rule.arguments | arguments)


def decide(measured: Sequence[Measured], relation: str, threshold: float) -> str:
    """Return the verdict on numbers of which each has to be on one side of a threshold."""
    verdicts = [_decide(m, relation, threshold) for m in measured]
    if FAILS in verdicts:
        return FAILS
    return OPEN if OPEN in verdicts or not verdicts else HOLDS


def worst(measured: Sequence[Measured], relation: str) -> Measured:
    """Return the number that is furthest to the wrong side."""
    sign = 1 if relation.startswith(">") else -1
    known = [m for m in measured if not math.isnan(m.cell.value)]
    return min(known or measured, key=lambda m: sign * m.cell.value)


def _decide(measured: Measured, relation: str, threshold: float) -> str:
    value, low, high = measured.cell.value, measured.cell.low, measured.cell.high
    if math.isnan(value):
        return OPEN
    inside, outside = {
        ">": (low > threshold, high <= threshold),
        ">=": (low >= threshold, high < threshold),
        "<": (high < threshold, low >= threshold),
        "<=": (high <= threshold, low > threshold),
    }[relation]
    if inside:
        return HOLDS
    return FAILS if outside else OPEN


def measure(rule: Rule, findings: Findings) -> tuple[list[Measured], str]:
    """Return the numbers of enough data seeds, or why there is none."""
    try:
        found = MEASURES[rule.measurement](findings, **rule.arguments)
    except NotMeasuredError as error:
        return [], str(error)
    if not found:
        return [], "what it is about was not run, or did not finish"
    kept = [m for m in found if enough(m.cell)]
    if kept:
        return kept, ""
    return [], f"too few data seeds: {max(m.cell.data_seeds for m in found)}, {FEWEST_DATA_SEEDS} are asked"


def _claim(entry: Json, where: str) -> Claim:
    missing = [name for name in TEXT if not isinstance(entry.get(name), str)]
    if missing:
        raise InputError(f"{where}: {missing[0]} is missing or no text")
    own = {"note", "invented", "about", "before", "controls"}
    rest = {name: value for name, value in entry.items() if name not in own | set(TEXT)}
    return Claim(
        **{name: entry[name] for name in TEXT},
        rule=_rule(rest, where),
        note=entry.get("note", ""),
        invented=entry.get("invented", False),
        about=tuple(entry.get("about", ())),
        before=entry.get("before", ""),
        controls=tuple(_control(control, f"{where}, control") for control in entry.get("controls", ())),
    )


def _control(entry: Mapping[str, object], where: str) -> Control:
    for name in ("alternative", "text"):
        if not isinstance(entry.get(name), str):
            raise InputError(f"{where}: {name} is missing or no text")
    rest = {name: value for name, value in entry.items() if name not in ("alternative", "text")}
    return Control(str(entry["alternative"]), str(entry["text"]), _rule(rest, where))


def _rule(entry: Json, where: str) -> Rule:
    for name in RULE:
        if name not in entry:
            raise InputError(f"{where}: {name} is missing")
    measurement, relation, threshold = (entry[name] for name in RULE)
    if measurement not in MEASURES:
        raise InputError(f"{where}: measurement {measurement!r} is none of {', '.join(MEASURES)}")
    if relation not in RELATIONS:
        raise InputError(f"{where}: relation {relation!r} is none of {', '.join(RELATIONS)}")
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise InputError(f"{where}: threshold {threshold!r} is no number")
    arguments = {name: value for name, value in entry.items() if name not in RULE}
    try:
        inspect.signature(MEASURES[measurement]).bind(None, **arguments)
    except TypeError as error:
        raise InputError(f"{where}: {measurement}: {error}") from error
    return Rule(measurement, relation, float(threshold), arguments)
