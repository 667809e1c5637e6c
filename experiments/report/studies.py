"""What other studies have measured, read from their committed numbers: living worlds, real logs, the ruler of exact inference."""

from collections.abc import Sequence
from pathlib import Path

from dsrm_jax.files import load_json
from dsrm_jax.types import Json
from experiments.report.findings import Findings, Measured, NotMeasuredError
from experiments.report.intervals import Cell

STUDIES = ("worlds_learners", "ladder", "ruler", "noise")  # `experiments/results/<name>.json`


def read_studies(folder: Path) -> dict[str, Json]:
    """Return the numbers of each study whose file is there."""
    return {name: load_json(folder / f"{name}.json") for name in STUDIES if (folder / f"{name}.json").exists()}


def living(
    findings: Findings, *, method: str = "dsrm_hrl", against: str, worlds: Sequence[str] = (), metric: str = "less"
) -> list[Measured]:
    """Return what a method earns (R_cum) in worlds with memory beyond a rule on the same state, on the same users."""
    found = []
    for world, numbers in _living_worlds(findings, worlds):
        gap = numbers.get(metric, {}).get(method, {}).get(against)
        if gap is not None:
            found.append(Measured(f"{world}, less {against}", _of_study(gap)))
    return found


def living_control(findings: Findings, *, control: str, worlds: Sequence[str] = ()) -> list[Measured]:
    """Return what DSRM-HRL loses in worlds with memory where its manager's goals are changed (`worlds.goal_controls`)."""
    return [
        Measured(f"{world}, goals {control}", _of_study(numbers["control"][control]))
        for world, numbers in _living_worlds(findings, worlds)
        if control in numbers["control"]
    ]


def real_log(findings: Findings, *, rung: str, over: str, events: Sequence[int] = ()) -> list[Measured]:
    """Return what a state gains of log-likelihood of later clicks, nats, over another rung of the ladder, on real logs.

    Intervals are over users: a real log cannot be drawn again.
    """
    study = _study(findings, "ladder")
    found = []
    for name, document in study.items():
        if "synthetic" in document["source"]:
            continue
        for length, of_length in document["events"].items():
            gain = (
                of_length.get("rungs", {}).get(rung, {}).get(f"over_{over.replace(' ', '_')}", {}).get("log_likelihood")
            )
            if gain is not None and (not events or int(length) in events):
                cell = Cell(float(gain["mean"]), float(gain["low"]), float(gain["high"]))
                found.append(Measured(f"{name}, {length} events", cell))
    return found


def ruler_change(
    findings: Findings, *, kind: str, first: int, second: int, sampler: str = "ddpm", events: Sequence[int] = ()
) -> list[Measured]:
    """Return the relative change of squared error against exact inference from one number of diffusion steps to another."""
    study = _study(findings, "ruler")["steps"]
    found = []
    for truth, kinds in study.items():
        for length, at in kinds.get(kind, {}).get(sampler, {}).items():
            errors = at["over_exact"]
            if str(first) in errors and str(second) in errors and (not events or int(length) in events):
                change = errors[str(second)] / errors[str(first)] - 1
                found.append(Measured.exact(f"{truth}, {length} events", change))
    return found


def noise(findings: Findings, *, claim: str) -> list[Measured]:
    """Return how often a claim's rule is passed by methods that are all alike (`imitation`)."""
    passes = _study(findings, "noise")["passes"]
    return [Measured.exact(f"{claim}, methods all alike", passes[claim]["now"])] if claim in passes else []


def _living_worlds(findings: Findings, worlds: Sequence[str]) -> list[tuple[str, Json]]:
    found = _study(findings, "worlds_learners")["worlds"]
    return [(name, numbers) for name, numbers in found.items() if not worlds or name in worlds]


def _study(findings: Findings, name: str) -> Json:
    if name not in findings.studies:
        raise NotMeasuredError(f"experiments/results/{name}.json is not there")
    return findings.studies[name]


def _of_study(entry: Json) -> Cell:
    return Cell(entry["mean"], entry["low"], entry["high"], len(entry["by_seed"]))
