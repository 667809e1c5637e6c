"""How long a report's points will take: by what compiling, training and evaluating took each method before."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dsrm_jax.sweep.plan import Point, group
from experiments.report.plan import by_name
from experiments.report.variants import variant

# seconds of one core, measured on the synthetic worlds: to read a log and fit what of Stage I depends on it alone; one purifier's
# Stage I of one seed; what is left of compiling where the same program was compiled for another data seed
OF_LOG, OF_PURIFIER, RECOMPILED = {"kuairec": 45.0, "kuairand": 25.0}, 6.0, 0.4
OTHERS = (
    30.0,
    12.0,
    1.0,
)  # compiling a point of which nothing is known; training and evaluating a policy of it, 2,000 steps
STEPS = 2_000
SHARED = ("kuairand",)  # worlds whose programs have the same shapes on every data seed
Known = Mapping[tuple[str, str], tuple[float, float, float]]


def read_times(path: Path) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Return seconds of compiling, and of training and evaluating one policy, by data set and row, of a report's `times.csv`."""
    if not path.exists():
        return {}
    found: dict[tuple[str, str], tuple[float, float, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            policies = float(row.get("policies") or 3)  # before data seeds there were three of each
            compiling, training, evaluating = (float(row[name]) for name in ("compile_s", "train_s", "evaluation_s"))
            name = f"{row['method']} {steps}" if (steps := _steps(row["setting"])) else row["method"]
            found.setdefault((row["env"], name), (compiling, training / policies, evaluating / policies))
    return found


def seconds_of(points: Sequence[Point], known: Known) -> float:
    """Return the seconds of one core that points will take, those of one program together."""
    total, compiled, stages = 0.0, set(), set()
    for members in group(points):
        first = members[0].config
        env, policies = first.data.env, len(first.training.seeds) * len(members)
        compiling, training, evaluating = _of(first.data.env, members[0], known)
        program = (env in SHARED and env) or (env, first.data.seed)
        key = (program, variant(first), first.environment.max_len, first.training.seeds)
        total += compiling * (RECOMPILED if key in compiled else 1.0)
        compiled.add(key)
        total += policies * (training * first.training.steps / STEPS + evaluating)
        log = (env, first.data.seed, first.encoder)
        stage = (*log, first.purifier, first.training.seeds)
        total += OF_LOG.get(env, OF_LOG["kuairec"]) * (log not in stages)
        total += OF_PURIFIER * len(first.training.seeds) * (stage not in stages)
        stages |= {log, stage}
    return total


def in_words(points: Mapping[str, Sequence[Point]], unfinished: Sequence[Point], workers: int, known: Known) -> str:
    """Return what is to be run and about how long it takes."""
    minutes = seconds_of(unfinished, known) / 60
    every, cores = len(by_name(points)), max(workers, 1)
    return (
        f"{len(unfinished)} of {every} points to run: about {minutes:.0f} core-minutes, {minutes / cores:.0f} minutes on "
        f"{cores} core{'s' if cores > 1 else ''} that nothing else uses (by the times of the last report)"
    )


def _of(env: str, point: Point, known: Known) -> tuple[float, float, float]:
    names: Iterable[str] = (
        f"{variant(point.config)} {point.config.purifier.diffusion_steps}",
        variant(point.config),
        point.config.agent.method,
    )
    return next((known[env, name] for name in names if (env, name) in known), OTHERS)


def _steps(setting: str) -> str:
    """Return the number of diffusion steps that a row's setting names, empty where it names none."""
    return next((part.partition("=")[2] for part in setting.split() if part.startswith("diffusion_steps=")), "")
