"""Everything measured, looked up by data set, session length and method."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dsrm_jax.evaluation.metrics import PER_SESSION
from dsrm_jax.files import from_json_value, load_json
from dsrm_jax.sweep.plan import Point
from dsrm_jax.sweep.tables import paired_difference
from dsrm_jax.types import Json
from experiments.report.curves import all_curve_facts
from experiments.report.paper import ENVIRONMENTS, MAX_LENS, family

Row = Json
METHOD_PLANS = ("table2", "table3", "fig3", "table4")  # those of one point per method and cell


@dataclass(frozen=True)
class Cell:
    """A measured number with its interval; the bounds equal the number where no interval is known."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, entry: Mapping[str, float]) -> "Cell":
        """Read `{"mean", "low", "high"}`."""
        mean = float(entry["mean"])
        low, high = (float(entry[k]) if np.isfinite(entry[k]) else mean for k in ("low", "high"))
        return cls(mean, low, high)

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


class Measured(NamedTuple):
    """One number that a claim is about: where it was measured, and its interval."""

    where: str
    cell: Cell

    @classmethod
    def exact(cls, where: str, value: float) -> "Measured":
        """Return a number without an interval."""
        return cls(where, Cell(value, value, value))


class NotMeasuredError(Exception):
    """Nothing here decides the claim; the message says why."""


@dataclass(frozen=True)
class Findings:
    """All that a report is made of.

    Attributes:
        folder: of the points.
        results: plan to the results of its points that finished, in the plan's order.
        points: plan to its points.
        data: data set to `data_facts.data_facts`.
        probes: data set to `probe.json`, where it was probed.
        probe_folders: data set to the folder of its probe.
        failures: what was reported as failed, a line each.
        budget: its name.
    """

    folder: Path
    results: dict[str, list[Row]]
    points: dict[str, list[Point]]
    data: dict[str, Json] = field(default_factory=dict)
    probes: dict[str, Json] = field(default_factory=dict)
    probe_folders: dict[str, Path] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    budget: str = "quick"

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

    def row(self, env: str, max_len: int, method: str) -> Row | None:
        """Return the result of a method of Tables 2 to 4 or Figure 3; None where it did not finish."""
        for plan in METHOD_PLANS:
            for r in self.results.get(plan, []):
                if (r["env"], r["max_len"], r["method"]) == (env, max_len, method):
                    return r
        return None

    def select(self, plan: str, **values: object) -> list[Row]:
        """Return a plan's results whose grid values, by the last part of their names, are these."""
        return [
            r
            for r in self.results.get(plan, [])
            if all(_short(r["values"]).get(name) == value for name, value in values.items())
        ]

    def difference(self, method: Row, other: Row, metric: str) -> Cell:
        """Return `method - other`: paired over seeds and users where sessions were kept, else of independent intervals."""
        first, second = (self.folder / r["name"] / "sessions.npz" for r in (method, other))
        if metric in PER_SESSION and first.exists() and second.exists():
            return Cell.of(paired_difference(self.folder, method, other)[metric])
        return independent_difference(Cell.of(method["result"][metric]), Cell.of(other["result"][metric]))

    def curve_facts(self, row: Row) -> Json:
        """Return `curves.all_curve_facts` of a result's point."""
        return all_curve_facts(self.folder / row["name"])

    def measured_rows(self) -> Iterator[tuple[str, Row]]:
        """Yield every distinct result with the first plan that it is of."""
        seen = set()
        for plan, rows in self.results.items():
            for r in rows:
                if r["name"] not in seen:
                    seen.add(r["name"])
                    yield plan, r

    def missing(self) -> list[Point]:
        """Return the points without a result, each once."""
        done = {r["name"] for rows in self.results.values() for r in rows}
        found = {p.name: p for members in self.points.values() for p in members if p.name not in done}
        return list(found.values())


def independent_difference(first: Cell, second: Cell) -> Cell:
    """Return the difference of two independent numbers; the half-widths of their intervals add as squares."""
    value, half = first.value - second.value, float(np.hypot(first.half, second.half))
    return Cell(value, value - half, value + half)


def read_results(points: Mapping[str, Sequence[Point]], folder: Path) -> dict[str, list[Row]]:
    """Return the results that a folder holds of each plan's points, with the point's own grid values.

    A point of two plans has the name and the numbers of the one run, and in each plan that plan's values.
    """
    found: dict[str, list[Row]] = {}
    for plan, members in points.items():
        paths = [(p, folder / p.name / "result.json") for p in members]
        found[plan] = [from_json_value(load_json(path)) | {"values": p.values} for p, path in paths if path.exists()]
    return found


def _short(values: Json) -> Json:
    return {name.rsplit(".", 1)[-1]: value for name, value in values.items()}
