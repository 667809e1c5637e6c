"""Which points the report needs: the plans of `experiments/paper`, for some data sets and a budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dsrm_jax.config import Config
from dsrm_jax.config.serialise import merge
from dsrm_jax.data.sources import SOURCES
from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.files import load_toml
from dsrm_jax.sweep.plan import Plan, Point, expand, load_plan, point_of
from dsrm_jax.types import Json
from experiments.report.paper import ENVIRONMENTS, family
from experiments.report.variants import variant

DATA_PLANS = ("table1", "fig2")  # need the log alone
PROBE_PLAN = "fig4"  # needs Stage I alone
EXTENSIVE_PLANS = ("fig6", "pareto_penalty", "table2-fifty")  # left out of a report on files that the user names
CLAIMS = "claims.toml"
WINNERS = "tuned.toml"  # what `dsrm-jax tune` chose, method by method; used where it is there
ENV, MAX_LEN, DATA_SEED = "data.env", "environment.max_len", "data.seed"


@dataclass(frozen=True)
class Agenda:
    """All that a report needs.

    Attributes:
        configs: data set to a configuration that reads its log.
        probes: data set to the configuration whose Stage I is probed; empty where the plans ask for no probe.
        points: plan to its points.
        first: all points that share no program with another, so that their times are their own.
        then: all others; `first` and `then` hold every point once.
    """

    configs: dict[str, Config]
    probes: dict[str, Config]
    points: dict[str, list[Point]]
    first: list[Point]
    then: list[Point]


def plans_folder() -> Path:
    """Return the folder of the paper's plans: under the current folder, else in this checkout.

    Raises:
        InputError: there is none.
    """
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        folder = root / "experiments" / "paper"
        if folder.is_dir():
            return folder
    raise InputError("no folder experiments/paper here: run this in a checkout of the repository")


def load_agenda(folder: Path, envs: Sequence[str], budget: str, *, data_path: str = "") -> Agenda:
    """Read all plans and unite their points; a plan `name-part.toml` is a part of the plan `name`.

    Args:
        folder: holds `<plan>.toml`, `claims.toml` and, where methods were tuned, `tuned.toml`.
        envs: data sets to report on; a plan that names others only is left out.
        budget: name of the budget, `budgets.BUDGETS`.
        data_path: folder of the files; the report is then reduced: one data seed, since files are what they are, the shorter
            session length, no sensitivity study.

    Raises:
        InputError: an unknown data set or budget, a plan that cannot be read, or no plan for these data sets.
    """
    for env in envs:
        if env not in SOURCES:
            raise unknown_name("environment (env)", env, SOURCES)
    winners = tuned(folder)
    by_env: dict[str, dict[str, Config]] = {}
    points: dict[str, list[Point]] = {}
    for path in sorted(folder.glob("*.toml"), key=lambda p: (not p.stem.startswith("table"), p.stem)):
        name = path.stem.partition("-")[0]
        if path.name in (CLAIMS, WINNERS) or (data_path and {name, path.stem} & set(EXTENSIVE_PLANS)):
            continue
        plan = _narrowed(load_plan(str(path), budget), envs, data_path)
        if plan is None:
            continue
        found = expand(plan, path.stem)
        if name in (*DATA_PLANS, PROBE_PLAN):
            by_env[name] = {p.config.data.env: p.config for p in found}
        else:
            points.setdefault(name, []).extend(_as_tuned(point, winners) for point in found)
    if not points and not by_env:
        raise InputError(f"{folder} holds no plan for {', '.join(envs)}")
    alone = {p.name: p for name, members in points.items() if name not in EXTENSIVE_PLANS for p in members}
    all_points = by_name(points)
    return Agenda(
        configs=next((by_env[name] for name in DATA_PLANS if name in by_env), {}),
        probes=by_env.get(PROBE_PLAN, {}),
        points=points,
        first=list(alone.values()),
        then=[p for name, p in all_points.items() if name not in alone],
    )


def tuned(folder: Path) -> dict[str, Json]:
    """Return the agent settings that each method was tuned to, none where there is no `tuned.toml`."""
    path = folder / WINNERS
    if not path.exists():
        return {}
    return {method: entry["agent"] for method, entry in load_toml(path).items() if isinstance(entry, dict)}


def _as_tuned(point: Point, winners: Mapping[str, Json]) -> Point:
    """Return a point at its method's tuned settings, but those that the plan itself varies."""
    names = variant(point.config), point.config.agent.method
    own = next((winners[name] for name in names if name in winners), None)
    if own is None:
        return point
    varied = {name.partition(".")[2] for name in point.values if name.startswith("agent.")}
    chosen = {name: value for name, value in own.items() if name not in varied}
    return point_of(point.values, merge(point.config, {"agent": chosen}, WINNERS))


def wanted_environments(env: str) -> list[str]:
    """Return the data sets that a name on the command line stands for: `all` for both of the paper's."""
    return list(ENVIRONMENTS) if env == "all" else [env]


def _narrowed(plan: Plan, envs: Sequence[str], data_path: str) -> Plan | None:
    """Return a plan for these data sets, or None where it is about others."""
    planned = plan.grid.get(ENV, (plan.base.data.env,))
    chosen = tuple(env for env in envs if env in planned or family(env) in planned)
    if not chosen:
        return None
    grid = dict(plan.grid) | {ENV: chosen}
    base = plan.base
    if data_path:
        base = replace(base, data=replace(base.data, path=data_path))
        grid |= {name: grid[name][:1] for name in (MAX_LEN, DATA_SEED) if name in grid}
    return Plan(base, grid, plan.validate)


def unfinished(points: Sequence[Point], folder: Path) -> list[Point]:
    """Return the points without a result in a folder."""
    return [p for p in points if not (folder / p.name / "result.json").exists()]


def by_name(points: Mapping[str, Sequence[Point]]) -> dict[str, Point]:
    """Return every point of some plans once."""
    return {p.name: p for members in points.values() for p in members}
