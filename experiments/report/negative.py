"""Negative controls of the ledger: the same pipeline with what a claim is about taken away, so that the claim must be lost.

`shuffled`: each user is given the purified state of another one. `random_goal`: the manager's goals are drawn at
random. Rows keep their names, and claims their rules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from dsrm_jax.agents.dsrm_hrl import DSRM_HRL
from dsrm_jax.agents.methods import method_of
from dsrm_jax.config import Config
from dsrm_jax.errors import unknown_name
from dsrm_jax.purify.settings import PURIFYING
from dsrm_jax.sweep.plan import Point, point_of
from dsrm_jax.types import Json
from experiments.report.claims import Claim, Judgement, rows_of
from experiments.report.comparisons import DECIDING
from experiments.report.findings import METHOD_PLANS
from experiments.report.plan import Agenda
from experiments.report.variants import variant

ABOUT: Mapping[str, str] = MappingProxyType(
    {"shuffled": "purifier", "random_goal": "manager"}
)  # control to what it takes away
PIECES = "experiments.report.pieces"


def check_control(control: str) -> None:
    """Raise `InputError` with the nearest valid name where a control does not exist."""
    if control and control not in ABOUT:
        raise unknown_name("control", control, ABOUT)


def about(claims: Sequence[Claim], control: str) -> list[Claim]:
    """Return the claims that a control has to lose, by their own rules alone."""
    return [replace(claim, controls=()) for claim in claims if ABOUT[control] in claim.about]


def spoilt(agenda: Agenda, claims: Sequence[Claim], control: str) -> Agenda:
    """Return the points that the control's claims read, those that have what it takes away without it."""
    named = {name for claim in about(claims, control) for name in rows_of(claim.rule)}
    points = {}
    for plan, members in agenda.points.items():
        read = [p for p in members if variant(p.config) in named and p.config.environment.max_len in DECIDING]
        if read and plan in METHOD_PLANS:
            points[plan] = [_spoilt(p, control) for p in read]
    every = {p.name: p for members in points.values() for p in members}
    return Agenda(configs={}, probes={}, points=points, first=list(every.values()), then=[])


def own_name(config: Config, control: str) -> str:
    """Return the name that a row has without the control."""
    return "+".join(part for part in variant(config).split("+") if part != control)


def verdicts_of(judgements: Sequence[Judgement]) -> Json:
    """Return claim to verdict."""
    return {j.claim.id: j.verdict for j in judgements}


def _spoilt(point: Point, control: str) -> Point:
    config = point.config
    if control == "shuffled":
        if config.purifier.kind != "auto" or method_of(config.agent.method).state != PURIFYING:
            return point
        config = replace(config, purifier=replace(config.purifier, kind=f"{PIECES}:{control}"))
    else:
        if config.agent.manager or config.agent.method != DSRM_HRL.name:
            return point
        config = replace(config, agent=replace(config.agent, manager=f"{PIECES}:{control}"))
    return point_of(point.values, config)
