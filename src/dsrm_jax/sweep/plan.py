"""From a grid of fields to points, and from points to groups that one compiled program trains."""

import itertools
import tomllib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import jax

from dsrm_jax.config import Config
from dsrm_jax.config.budgets import budget
from dsrm_jax.config.serialise import FINGERPRINT_FORMAT, merge, to_json, validate
from dsrm_jax.errors import InputError
from dsrm_jax.files import canonical, digest, load_toml
from dsrm_jax.runs.estimate import check_fits
from dsrm_jax.runs.pieces import check_names
from dsrm_jax.types import Json

# Points of one program: more would cost memory and lose more to a crash than they save in compiling.
LARGEST_GROUP = 12


@dataclass(frozen=True)
class Point:
    """One configuration of a grid."""

    name: str  # its folder, the same for the same configuration, as long as that gives the same numbers
    values: Json  # the grid's fields, dotted, and their values here
    config: Config  # the whole configuration


@dataclass(frozen=True)
class Plan:
    """What a sweep file says."""

    base: Config  # that the grid varies
    grid: dict[str, tuple[object, ...]]  # dotted field names and the values that each takes
    validate: bool = False  # evaluate validation sessions in the TRAINING simulator, for choosing, not held-out ones


def load_plan(path: str, budget_name: str | None = None) -> Plan:
    """Read a sweep file: TOML with `budget`, `validate`, a table `[grid]` of dotted fields, and sections of `Config`.

    `budget_name` replaces the file's budget; None: the file's, or the default budget.

    Raises:
        InputError: the file is unreadable, or names what does not exist.
    """
    document = load_toml(path)
    grid = document.pop("grid", {})
    chosen = budget_name or document.pop("budget", "default")
    document.pop("budget", None)
    for_choosing = document.pop("validate", False)
    if not isinstance(for_choosing, bool):
        raise InputError(f"{path}: validate is {for_choosing!r}, expected true or false")
    if not isinstance(grid, Mapping) or not all(isinstance(v, list) and v for v in grid.values()):
        raise InputError(f'{path}: [grid] must hold lists of values, such as "agent.learning_rate" = [1e-3, 3e-4]')
    base = merge(budget(str(chosen)), document, path)
    return Plan(base, {name: tuple(values) for name, values in grid.items()}, for_choosing)


def expand(plan: Plan, where: str = "grid") -> list[Point]:
    """Return the points of a plan's grid, the last field varying fastest; every one is validated.

    Raises:
        InputError: a field or value that does not exist or is out of range; names it.
    """
    points = {}
    for values in itertools.product(*plan.grid.values()):
        chosen = dict(zip(plan.grid, values, strict=True))
        config = merge(plan.base, _nested(chosen, where), where)
        validate(config, where)
        check_names(config)
        check_fits(config, where)
        point = point_of(chosen, config, validate=plan.validate)
        points[point.name] = point
    return list(points.values())


def point_of(values: Json, config: Config, *, validate: bool = False) -> Point:
    """Return a configuration as a point of a grid's values, under the name that its result has."""
    return Point(digest(f"{FINGERPRINT_FORMAT}{canonical(to_json(config))}{validate}")[:12], values, config)


def group(points: Sequence[Point]) -> list[list[Point]]:
    """Put points together that differ in the agent's floats alone: one program trains them all, vmapped."""
    groups: dict[Hashable, list[Point]] = {}
    for point in points:
        structure = jax.tree.structure(point.config.agent)
        rest = tuple(getattr(point.config, f.name) for f in fields(Config) if f.name != "agent")
        groups.setdefault((structure, rest), []).append(point)
    return [
        members[i : i + LARGEST_GROUP] for members in groups.values() for i in range(0, len(members), LARGEST_GROUP)
    ]


def points_json(points: Sequence[Point]) -> list[Json]:
    """Return points as JSON values, with their whole configurations."""
    return [{"name": p.name, "values": p.values, "config": to_json(p.config)} for p in points]


def varied(plan: Plan, fields_and_values: Sequence[str]) -> Plan:
    """Return the plan with `field=value,value` phrases put into its grid; values are read as TOML, else as strings.

    Raises:
        InputError: a phrase without field or value.
    """
    grid = dict(plan.grid)
    for phrase in fields_and_values:
        name, _, values = phrase.partition("=")
        if not name or not values:
            raise InputError(f"--grid {phrase}: expected field=value,value such as agent.learning_rate=1e-3,3e-4")
        grid[name.strip().replace("-", "_")] = _values(values)
    return replace(plan, grid=grid)


def _values(text: str) -> tuple[object, ...]:
    """Read `1,2` and `[1, 2], [3]` as a TOML list; where that fails, each part between commas alone."""
    try:
        return tuple(tomllib.loads(f"x = [{text}]")["x"])
    except tomllib.TOMLDecodeError:
        return tuple(_value(part.strip()) for part in text.split(","))


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _nested(dotted: Json, where: str) -> Json:
    """Turn `{"a.b": 1}` into `{"a": {"b": 1}}`."""
    found: Json = {}
    for name, value in dotted.items():
        *sections, last = name.split(".")
        table = found
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise InputError(f"{where}: {name} and {section!r} both have values: give one of them")
        table[last] = value
    return found
