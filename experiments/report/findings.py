"""Everything measured, looked up by data set, session length and method."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dsrm_jax.config import Config
from dsrm_jax.files import from_json_value, load_json
from dsrm_jax.sweep.plan import Point
from dsrm_jax.types import Json
from experiments.report.curves import all_curve_facts
from experiments.report.intervals import FEWEST_DATA_SEEDS, Cell, difference_of_means, hierarchical
from experiments.report.paper import ENVIRONMENTS, MAX_LENS, family
from experiments.report.pooled import METRICS, Numbers, entry, numbers_of
from experiments.report.variants import variant

Row = Json
METHOD_PLANS = ("table2", "table3", "fig3", "table4", "heads", "ladder", "learners")  # one row per method and cell


class Measured(NamedTuple):
    """One number that a claim is about: where it was measured, and its interval."""

    where: str
    cell: Cell

    @classmethod
    def exact(cls, where: str, value: float) -> "Measured":
        """Return a number that no data could have given otherwise."""
        return cls(where, Cell(value, value, value))

    @classmethod
    def of_data(cls, where: str, values: Sequence[float]) -> "Measured":
        """Return the mean of a number of each data seed, its interval Student's t."""
        return cls(where, hierarchical([[value] for value in values]))


class NotMeasuredError(Exception):
    """Nothing here decides the claim; the message says why."""


@dataclass(frozen=True)
class Findings:
    """All that a report is made of.

    Attributes:
        folder: of the points.
        results: plan to the rows of its points that finished, in the plan's order, data seeds pooled (`read_results`).
        points: plan to its points.
        data: data set to `data_facts.data_facts` of its first data seed.
        data_seeds: data set to what popularity and reward have to do with each other (`popularity`) on each data seed.
        probes: data set to `probe.json`, where it was probed.
        probe_folders: data set to the folder of its probe.
        studies: name of a study to its committed numbers (`studies.STUDIES`).
        failures: what was reported as failed, a line each.
        budget: its name.
        numbers: name of a row to what its runs gave.
    """

    folder: Path
    results: dict[str, list[Row]]
    points: dict[str, list[Point]]
    data: dict[str, Json] = field(default_factory=dict)
    data_seeds: dict[str, list[Json]] = field(default_factory=dict)
    probes: dict[str, Json] = field(default_factory=dict)
    probe_folders: dict[str, Path] = field(default_factory=dict)
    studies: dict[str, Json] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    budget: str = "quick"
    numbers: dict[str, Numbers] = field(default_factory=dict)

    @cached_property
    def environments(self) -> list[str]:
        """Data sets at hand, in the paper's order."""
        found = dict.fromkeys([*self.data, *(r["env"] for rows in self.results.values() for r in rows)])
        order = list(ENVIRONMENTS)
        return sorted(found, key=lambda env: (order.index(family(env)) if family(env) in order else 9, env))

    def environments_of(self, envs: Iterable[str]) -> list[str]:
        """Return the data sets at hand that are of some of the paper's, or all where none is named."""
        wanted = set(envs)
        return [env for env in self.environments if not wanted or family(env) in wanted]

    def cells(self, plans: Sequence[str] = ("table2",)) -> list[tuple[str, int]]:
        """Return the pairs of data set and session length that some plans have a result for."""
        found = {(r["env"], r["max_len"]) for plan in plans for r in self.results.get(plan, [])}
        return [(env, length) for env in self.environments for length in MAX_LENS if (env, length) in found]

    def table_cells(self, envs: Iterable[str], max_lens: Sequence[int]) -> list[tuple[str, int]]:
        """Return the cells that `row` may have a result for, of some of the paper's data sets and session lengths."""
        chosen = self.environments_of(envs)
        return [(env, n) for env, n in self.cells(METHOD_PLANS) if env in chosen and n in max_lens]

    @cached_property
    def _rows(self) -> dict[tuple[str, int, str], Row]:
        found: dict[tuple[str, int, str], Row] = {}
        for plan in METHOD_PLANS:
            for row in self.results.get(plan, []):
                found.setdefault((row["env"], row["max_len"], row["method"]), row)
        return found

    def row(self, env: str, max_len: int, method: str) -> Row | None:
        """Return the row of a method, or variant of one; None where it did not finish."""
        return self._rows.get((env, max_len, method))

    def select(self, plan: str, **values: object) -> list[Row]:
        """Return a plan's rows whose grid values, by the last part of their names, are these."""
        return [
            r
            for r in self.results.get(plan, [])
            if all(_short(r["values"]).get(name) == value for name, value in values.items())
        ]

    def difference(self, method: Row, other: Row, metric: str) -> Cell:
        """Return `method - other`: paired over data seeds, training seeds and users where both have some of the same."""
        mine, theirs = self.numbers.get(method["name"]), self.numbers.get(other["name"])
        if mine is not None and theirs is not None:
            gap = mine.less(theirs, metric)
            if gap is not None:
                return gap
        return difference_of_means(Cell.of(method["result"][metric]), Cell.of(other["result"][metric]))

    def curve_facts(self, row: Row, metric: str) -> list[dict[str, float]]:
        """Return `curves.curve_facts` of a metric on each data seed that kept a curve of it."""
        found = (all_curve_facts(self.folder / name) for name in row["names"])
        return [facts[metric] for facts in found if metric in facts]

    def measured_rows(self) -> Iterator[tuple[str, Row]]:
        """Yield every distinct row with the first plan that it is of."""
        seen = set()
        for plan, rows in self.results.items():
            for r in rows:
                if r["name"] not in seen:
                    seen.add(r["name"])
                    yield plan, r

    def missing(self) -> list[Point]:
        """Return the points without a result, each once."""
        done = {name for rows in self.results.values() for r in rows for name in r["names"]}
        found = {p.name: p for members in self.points.values() for p in members if p.name not in done}
        return list(found.values())


def read_results(
    points: Mapping[str, Sequence[Point]], folder: Path, *, name_of: Callable[[Config], str] = variant
) -> tuple[dict[str, list[Row]], dict[str, Numbers]]:
    """Return the rows that a folder holds of each plan's points, data seeds pooled, and what their runs gave.

    A row has the first point's `name`, all `names`, the grid's `values` but the data seed, `env`, `max_len`, `method`
    (`name_of`), `result` (metric to `{"mean", "low", "high", "data_seeds"}`, `closed_form`, `sessions`, `policies`),
    `timing` (means over data seeds), `timings` of each, `stage_one` of the first, and whether any `diverged`.
    """
    rows: dict[str, list[Row]] = {}
    numbers: dict[str, Numbers] = {}
    for plan, members in points.items():
        groups: dict[object, list[Point]] = {}
        for point in members:
            apart = replace(point.config, data=replace(point.config.data, seed=0))
            groups.setdefault(apart, []).append(point)
        found = (_row(group, folder, numbers, name_of) for group in groups.values())
        rows[plan] = [row for row in found if row is not None]
    return rows, numbers


def _row(
    points: Sequence[Point], folder: Path, numbers: dict[str, Numbers], name_of: Callable[[Config], str]
) -> Row | None:
    paths = {p.config.data.seed: folder / p.name / "result.json" for p in points}
    read = {seed: from_json_value(load_json(path)) for seed, path in paths.items() if path.exists()}
    if not read:
        return None
    documents = list(read.values())
    config, first = points[0].config, documents[0]
    if first["name"] not in numbers:
        size, length = config.environment.slate_size, config.environment.max_len
        numbers[first["name"]] = numbers_of(folder, read, slate_size=size, max_len=length)
    mine, results = numbers[first["name"]], [d["result"] for d in documents]
    timings = [d["timing"] for d in documents]
    return {
        **{name: first[name] for name in ("name", "env", "source", "stage_one")},
        "names": [d["name"] for d in documents],
        "values": {name: value for name, value in points[0].values.items() if name != "data.seed"},
        "max_len": config.environment.max_len,
        "method": name_of(config),
        "diverged": any(d["diverged"] for d in documents),
        "timings": timings,
        "timing": {name: float(np.mean([t[name] for t in timings])) for name in timings[0]},
        "result": {name: entry(mine.cell(name)) for name in METRICS if name in mine.values}
        | {
            "closed_form": float(np.mean([r["closed_form"] for r in results])),
            "sessions": sum(r["sessions"] for r in results),
            "policies": sum(len(r["seeds"]) for r in results),
            "data_seeds": len(documents),
        },
    }


def enough(cell: Cell) -> bool:
    """Return whether a number was measured on enough data seeds, or depends on none."""
    return cell.data_seeds == 0 or cell.data_seeds >= FEWEST_DATA_SEEDS


def _short(values: Json) -> Json:
    return {name.rsplit(".", 1)[-1]: value for name, value in values.items()}
