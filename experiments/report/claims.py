"""The ledger: every claim of the paper with the measurement that decides it, a threshold fixed beforehand, and the verdict."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsrm_jax.errors import InputError
from dsrm_jax.files import load_toml
from dsrm_jax.types import Json
from experiments.report.findings import Findings, Measured, NotMeasuredError
from experiments.report.measures import MEASURES

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be decided here"
RELATIONS = (">", ">=", "<", "<=")
TEXT = ("id", "section", "quote", "reads")
OPTIONAL = ("note", "control")
RULE = ("measurement", "relation", "threshold")


@dataclass(frozen=True)
class Rule:
    """What decides: a measurement with its arguments, compared with a threshold."""

    measurement: str
    relation: str
    threshold: float
    arguments: Json


@dataclass(frozen=True)
class Claim:
    """A row of the ledger.

    Attributes:
        id: short and unique.
        section: of the paper.
        quote: the paper's words, shortened.
        reads: what is measured, in words.
        rule: what decides.
        note: more to say.
        control: decides whether the claim is an artefact of the measurement.
        control_text: what the control shows where its rule holds.
    """

    id: str
    section: str
    quote: str
    reads: str
    rule: Rule
    note: str = ""
    control: Rule | None = None
    control_text: str = ""


@dataclass(frozen=True)
class Judgement:
    """A claim with its verdict.

    Attributes:
        claim: the claim.
        verdict: `HOLDS`, `FAILS` or `OPEN`.
        measured: the numbers.
        why: why it could not be decided; empty otherwise.
        artefact: the control holds: what was measured says nothing about the method.
        control_measured: the control's numbers.
    """

    claim: Claim
    verdict: str
    measured: Sequence[Measured]
    why: str
    artefact: bool
    control_measured: Sequence[Measured]


def load_claims(path: Path) -> list[Claim]:
    """Read the ledger: TOML with tables `[[claim]]`.

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


def judge(claim: Claim, findings: Findings) -> Judgement:
    """Measure and decide a claim.

    It holds where every number is on the right side of the threshold with its whole interval, and does not hold where one is on
    the wrong side with its whole interval. Otherwise it cannot be decided here.
    """
    measured, why = _measure(claim.rule, findings)
    decided = decide(measured, claim.rule.relation, claim.rule.threshold) if measured else OPEN
    if decided == OPEN and not why:
        unknown = [m.where for m in measured if math.isnan(m.cell.value)]
        why = unknown[0] if unknown else "an interval holds the threshold"
    artefact = False
    control: list[Measured] = []
    if claim.control is not None:
        control, _ = _measure(claim.control, findings)
        rule = claim.control
        artefact = bool(control) and decide(control, rule.relation, rule.threshold) == HOLDS
    return Judgement(claim, decided, measured, why if decided == OPEN else "", artefact, control)


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


def _measure(rule: Rule, findings: Findings) -> tuple[list[Measured], str]:
    try:
        found = MEASURES[rule.measurement](findings, **rule.arguments)
    except NotMeasuredError as error:
        return [], str(error)
    return found, "" if found else "what it is about was not run, or did not finish"


def _claim(entry: Json, where: str) -> Claim:
    missing = [name for name in TEXT if not isinstance(entry.get(name), str)]
    if missing:
        raise InputError(f"{where}: {missing[0]} is missing or no text")
    control = entry.get("control")
    rest = {name: value for name, value in entry.items() if name not in (*TEXT, *OPTIONAL)}
    control_rule, control_text = None, ""
    if control is not None:
        control_text = control.get("text", "")
        control_rule = _rule({k: v for k, v in control.items() if k != "text"}, f"{where}, control")
    return Claim(
        **{name: entry[name] for name in TEXT},
        rule=_rule(rest, where),
        note=entry.get("note", ""),
        control=control_rule,
        control_text=control_text,
    )


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
