"""`make tune`: one protocol for all methods, random search with successive halving on data that no report uses.

Trials are the same number for each method, drawn from committed ranges (`ranges.toml`), the first of them the defaults. The best
third, by R_cum of validation sessions in the training simulator of all worlds together, goes on to three times the steps. Winners
are written with whether they lie at an edge of their ranges, whether their learning curves are flat, and what it cost.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from dsrm_jax.config import Config
from dsrm_jax.config.serialise import merge
from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.files import from_json_value, load_json, load_toml, write_text
from dsrm_jax.runs.prepare import Say
from dsrm_jax.sweep.plan import Point, point_of
from dsrm_jax.sweep.pool import run_points
from dsrm_jax.types import Json
from experiments.report.curves import read_curve
from experiments.report.estimate import Known, read_times, seconds_of

RANGES = Path(__file__).with_name("ranges.toml")
HALF = "+half"  # a method under the half-and-half head is tuned as a method of its own
EDGE = 0.1  # share of a range at either end that counts as its edge
FLAT = 0.02  # of its level, that a curve changes over its last third at most
Run = Callable[..., object]


@dataclass(frozen=True)
class Range:
    """Where a number is drawn from."""

    low: float
    high: float
    log: bool = False

    def at(self, share: float) -> float:
        """Return the number at a share of the range, of its logarithm where `log`."""
        if self.log:
            return float(math.exp(math.log(self.low) + share * math.log(self.high / self.low)))
        return self.low + share * (self.high - self.low)

    def share(self, value: float) -> float:
        """Return where a number stands: below 0 or above 1 outside the range."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low) if value > 0 else -math.inf
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Protocol:
    """What is the same for all methods; fields as `ranges.toml` has them."""

    trials: int
    steps: tuple[int, ...]
    kept: int
    envs: tuple[str, ...]
    data_seeds: tuple[int, ...]
    training_seeds: tuple[int, ...]
    sessions: int
    seed: int


@dataclass(frozen=True)
class Space:
    """A method's ranges, and the shapes of which one is drawn."""

    numbers: Mapping[str, Range]
    shapes: Sequence[Json]


def load_ranges(path: Path = RANGES) -> tuple[Protocol, dict[str, Space], dict[str, str]]:
    """Return the protocol, each method's space, and which rows take another's settings.

    Raises:
        InputError: a table that is not there, or a range that is none.
    """
    document = load_toml(path)
    names = [f.name for f in fields(Protocol)]
    if missing := [name for name in names if name not in document]:
        raise InputError(f"{path}: {missing[0]} is missing")
    values = {name: document[name] for name in names}
    protocol = Protocol(**{name: tuple(x) if isinstance(x, list) else x for name, x in values.items()})  # type: ignore[arg-type]
    spaces = {}
    for method, table in document["methods"].items():
        tables = [document[name] for name in table.get("ranges", [])] + [table]
        numbers, shapes = {}, []
        for name, value in ((name, value) for t in tables for name, value in t.items() if name != "ranges"):
            if name == "shapes":
                shapes = value
            else:
                numbers[name] = Range(**value)
                if not numbers[name].low < numbers[name].high or (numbers[name].log and numbers[name].low <= 0):
                    raise InputError(f"{path}: {method}: {name} is {value}, expected low below high, above 0 where log")
        spaces[method] = Space(numbers, shapes)
    return protocol, spaces, document.get("same", {})


def methods_of(spaces: Mapping[str, Space], methods: Sequence[str] = ()) -> list[str]:
    """Return the methods that are asked for, or all: baselines under both heads.

    Raises:
        InputError: a method without ranges.
    """
    for name in methods:
        if name.removesuffix(HALF) not in spaces:
            raise unknown_name("method", name, spaces)
    return list(methods) or [*spaces, *(f"{name}{HALF}" for name in spaces if _has_head(name))]


def draw_trials(space: Space, protocol: Protocol, method: str) -> list[Json]:
    """Return trials as dotted agent settings: the defaults, then draws of a Latin hypercube, shapes in turn."""
    generator = np.random.default_rng([protocol.seed, *method.encode()])
    number = protocol.trials - 1
    shares = {
        name: (generator.permutation(number) + generator.uniform(size=number)) / max(number, 1)
        for name in space.numbers
    }
    shapes = generator.permutation(np.arange(number) % max(len(space.shapes), 1))
    drawn = [
        {name: float(f"{of.at(shares[name][i]):.3g}") for name, of in space.numbers.items()}
        | (space.shapes[shapes[i]] if space.shapes else {})
        for i in range(number)
    ]
    return [{}, *drawn]


def points_of(method: str, trials: Sequence[Json], steps: int, protocol: Protocol, base: Config) -> list[list[Point]]:
    """Return of each trial its points, one a world and data seed."""
    name, head = method.removesuffix(HALF), "half" if method.endswith(HALF) else "own"
    found = []
    for trial in trials:
        agent = merge(base, {"agent": _nested(trial) | {"method": name, "head": head}}, str(RANGES)).agent
        members = []
        for env in protocol.envs:
            for seed in protocol.data_seeds:
                config = replace(
                    base,
                    agent=agent,
                    data=replace(base.data, env=env, seed=seed),
                    training=replace(base.training, steps=steps, seeds=protocol.training_seeds),
                    evaluation=replace(base.evaluation, num_sessions=protocol.sessions),
                )
                values = {"data.env": env, "data.seed": seed, "training.steps": steps, **trial}
                members.append(point_of(values, config, validate=True))
        found.append(members)
    return found


def tune(
    out: str | Path,
    toml: Path,
    *,
    methods: Sequence[str] = (),
    workers: int = 0,
    say: Say = print,
    base: Config | None = None,
    ranges: Path = RANGES,
    run: Run = run_points,
) -> dict[str, Json]:
    """Tune methods, each by the same protocol, and write the winners after each.

    Args:
        out: folder of the points; those that have a result in it are not run again.
        toml: file of winners, `experiments/paper/tuned.toml`, which the report reads; methods in it that are not tuned now stay.
        methods: names of `ranges.toml`, with `+half` under the half-and-half head; empty: all of them, baselines under both.
        workers: processes; 0: one per core.
        say: told what is done.
        base: configuration that the protocol changes; None: the defaults.
        ranges: file of ranges.
        run: runs points, as `pool.run_points`.

    Raises:
        InputError: an unknown method, or a setting that does not exist.
    """
    protocol, spaces, same = load_ranges(ranges)
    wanted = methods_of(spaces, methods)
    times = core_seconds(wanted, read_times(toml.parent.parent / "results" / "paper" / "times.csv"), base, ranges)
    say(f"{len(wanted)} methods: about {sum(times.values()) / 60:.0f} core-minutes, what was run before not taken off")
    winners = _kept_winners(toml)
    for method in wanted:
        space = spaces[method.removesuffix(HALF)]
        winners[method] = _winner(
            method, space, protocol, Path(out), base or Config(), workers=workers, say=say, run=run
        )
        winners |= {name: winners[method] for name, of in same.items() if of == method}
        write_text(toml, _toml(winners))
        say(_in_words(method, winners[method]))
    return winners


def _winner(
    method: str, space: Space, protocol: Protocol, folder: Path, base: Config, *, workers: int, say: Say, run: Run
) -> Json:
    """Run the rungs of one method's trials and return its winner."""
    trials, spent, first = draw_trials(space, protocol, method), 0.0, np.zeros(0)
    left = np.arange(len(trials))
    for steps in protocol.steps:
        points = points_of(method, [trials[i] for i in left], steps, protocol, base)
        run([p for members in points for p in members], folder, validate=True, workers=workers, say=say)
        documents = [[_result(folder, p) for p in members] for members in points]
        spent += sum(_seconds(d) for members in documents for d in members if d is not None)
        scores = _scores(documents)
        first = first if len(first) else scores
        order = np.argsort(-scores, kind="stable")
        say(f"{method}: {len(left)} trials of {steps:,} steps, best {scores[order[0]]:.3f} of the middle one")
        left, best = left[order[: _kept(len(left), protocol)]], points[order[0]]
    chosen = trials[left[0]]
    return {
        "trials": protocol.trials,
        "default": not chosen,
        "over_default": round(
            float(first[left[0]] / first[0]), 4
        ),  # at the first number of steps, where all trials are
        "edges": edges_of(chosen, space),
        "seconds": round(spent),
        "curves": {f"{p.config.data.env} {p.config.data.seed}": rise_of(folder / p.name) for p in best},
        "agent": _nested(chosen),
    }


def _kept(number: int, protocol: Protocol) -> int:
    """Return how many of a rung's trials go on."""
    return max(number // protocol.kept, 1)


def core_seconds(
    methods: Sequence[str], known: Known, base: Config | None = None, ranges: Path = RANGES
) -> dict[str, float]:
    """Return about how many seconds of one core each method takes (`estimate.seconds_of`)."""
    protocol, spaces, _ = load_ranges(ranges)
    found = {}
    for method in methods:
        trials, total = draw_trials(spaces[method.removesuffix(HALF)], protocol, method), 0.0
        for steps in protocol.steps:
            points = [p for members in points_of(method, trials, steps, protocol, base or Config()) for p in members]
            total += seconds_of(points, known)
            trials = trials[: _kept(len(trials), protocol)]
        found[method] = total
    return found


def edges_of(trial: Json, space: Space) -> list[str]:
    """Return which settings of a trial lie within a tenth of an end of their range, or beyond; of shapes the first or last."""
    found = [
        name for name, of in space.numbers.items() if name in trial and not EDGE <= of.share(trial[name]) <= 1 - EDGE
    ]
    for name in {name for shape in space.shapes for name in shape}:
        values = sorted({shape[name] for shape in space.shapes})
        if name in trial and trial[name] in (values[0], values[-1]):
            found.append(name)
    return sorted(found)


def rise_of(folder: Path) -> float | None:
    """Return by which share of its level a point's learning curve of R_cum changes over the last third; None without a curve."""
    found = read_curve(folder, "return")
    if found is None or len(found[0]) < 6:
        return None
    late = found[1].mean(axis=1)[-len(found[0]) // 3 :]
    time = np.linspace(0, 1, len(late))
    slope = np.polyfit(time, late, 1)[0]
    return round(float(slope / abs(late.mean())), 4) if np.isfinite(late).all() and late.mean() else None


def _scores(documents: Sequence[Sequence[Json | None]]) -> np.ndarray:
    """Return each trial's R_cum over the middle trial's, mean over worlds; what failed or diverged comes last."""
    table = np.array(
        [[np.nan if d is None else d["result"]["return"]["mean"] for d in members] for members in documents]
    )
    return np.nan_to_num(np.mean(table / np.nanmedian(table, axis=0), axis=1), nan=-np.inf)


def _result(folder: Path, point: Point) -> Json | None:
    path = folder / point.name / "result.json"
    if not path.exists():
        return None
    document = from_json_value(load_json(path))
    return None if document["diverged"] else document


def _seconds(document: Json) -> float:
    return float(sum(value for name, value in document["timing"].items() if name.endswith("_seconds")))


def _has_head(method: str) -> bool:
    return method not in ("dsrm_hrl", "hrl", "flat")


def _nested(dotted: Mapping[str, object]) -> Json:
    found: Json = {}
    for name, value in dotted.items():
        *sections, last = name.split(".")
        table = found
        for section in sections:
            table = table.setdefault(section, {})
        table[last] = value
    return found


def _kept_winners(toml: Path) -> dict[str, Json]:
    return dict(load_toml(toml)) if toml.exists() else {}


def _in_words(method: str, winner: Json) -> str:
    rises = [x for x in winner["curves"].values() if x is not None]
    flat = (
        "flat"
        if rises and max(map(abs, rises)) <= FLAT
        else f"changing by {max(map(abs, rises), default=math.nan):.1%} still"
    )
    edges = f"; AT AN EDGE: {', '.join(winner['edges'])}" if winner["edges"] else ""
    return f"{method}: {winner['trials']} trials in {winner['seconds'] / 60:.0f} core-minutes, curves {flat}{edges}"


def _toml(winners: Mapping[str, Json]) -> str:
    """Return winners as TOML; JSON's strings, numbers and lists are TOML's, too."""
    lines = [
        "# Written by `make tune`: what each method's trials chose (experiments/report/ranges.toml). Not by hand.\n"
    ]
    for method, winner in winners.items():
        lines += [
            f"[{json.dumps(method)}]",
            *_entries({k: v for k, v in winner.items() if k not in ("agent", "curves")}),
        ]
        for table in ("curves", "agent"):
            plain = {k: v for k, v in winner[table].items() if not isinstance(v, dict)}
            lines += [f"[{json.dumps(method)}.{table}]", *_entries(plain)]
            for section in (k for k, v in winner[table].items() if isinstance(v, dict)):
                lines += [f"[{json.dumps(method)}.{table}.{section}]", *_entries(winner[table][section])]
        lines.append("")
    return "\n".join(lines)


def _entries(values: Mapping[str, object]) -> Iterator[str]:
    return (f"{json.dumps(name)} = {json.dumps(value)}" for name, value in values.items() if value is not None)
