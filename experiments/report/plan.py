"""Which points the report needs: the plans of `experiments/paper`, for some data sets and a budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dsrm_jax.config import Config
from dsrm_jax.data.sources import SOURCES
from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.sweep.plan import Plan, Point, expand, load_plan
from experiments.report.paper import ENVIRONMENTS, family

DATA_PLANS = ("table1", "fig2")  # need the log alone
PROBE_PLAN = "fig4"  # needs Stage I alone
EXTENSIVE_PLANS = ("fig6", "pareto_penalty", "pareto_quota")  # left out of a report on files that the user names
CLAIMS = "claims.toml"
ENV, MAX_LEN = "data.env", "environment.max_len"


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
    """Read all plans and unite their points.

    Args:
        folder: holds `<plan>.toml` and `claims.toml`.
        envs: data sets to report on; a plan that names others only is left out.
        budget: name of the budget, `budgets.BUDGETS`.
        data_path: folder of the files; the report is then reduced: the shorter session length, no sensitivity study.

    Raises:
        InputError: an unknown data set or budget, a plan that cannot be read, or no plan for these data sets.
    """
    for env in envs:
        if env not in SOURCES:
            raise unknown_name("environment (env)", env, SOURCES)
    plans = {}
    for path in sorted(folder.glob("*.toml"), key=lambda p: (not p.stem.startswith("table"), p.stem)):
        if path.name == CLAIMS or (data_path and path.stem in EXTENSIVE_PLANS):
            continue
        plan = _narrowed(load_plan(str(path), budget), envs, data_path)
        if plan is not None:
            plans[path.stem] = plan
    if not plans:
        raise InputError(f"{folder} holds no plan for {', '.join(envs)}")
    by_env = {name: _by_env(plan) for name, plan in plans.items() if name in (*DATA_PLANS, PROBE_PLAN)}
    points = {name: expand(plan, name) for name, plan in plans.items() if name not in by_env}
    alone = {p.name: p for name, members in points.items() if name not in EXTENSIVE_PLANS for p in members}
    all_points = {p.name: p for members in points.values() for p in members}
    return Agenda(
        configs=next((by_env[name] for name in DATA_PLANS if name in by_env), {}),
        probes=by_env.get(PROBE_PLAN, {}),
        points=points,
        first=list(alone.values()),
        then=[p for name, p in all_points.items() if name not in alone],
    )


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
        if MAX_LEN in grid:
            grid[MAX_LEN] = grid[MAX_LEN][:1]
    return Plan(base, grid, plan.validate)


def _by_env(plan: Plan) -> dict[str, Config]:
    return {p.config.data.env: p.config for p in expand(plan)}


def unfinished(points: Sequence[Point], folder: Path) -> list[Point]:
    """Return the points without a result in a folder."""
    return [p for p in points if not (folder / p.name / "result.json").exists()]


def by_name(points: Mapping[str, Sequence[Point]]) -> dict[str, Point]:
    """Return every point of some plans once."""
    return {p.name: p for members in points.values() for p in members}
