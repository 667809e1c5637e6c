"""What learners win: the cells of `learners` put together, with intervals over data seeds, training seeds and users.

Shapes: D data seeds, S training seeds, N sessions, T steps.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from rich.console import Group, RenderableType
from rich.text import Text

from dsrm_jax.agents.dsrm_hrl import DSRM_HRL
from dsrm_jax.agents.methods import METHODS
from dsrm_jax.evaluation.wide_table import WideTable
from dsrm_jax.types import Json
from experiments.report.intervals import CONFIDENCE, Nested, hierarchical, nested_draws, resampled_sums
from experiments.worlds.goal_controls import CONTROLS
from experiments.worlds.learners import LEARNT, RUNNING, SLATE_SIZE, TRAINING_SEEDS, Cell
from experiments.worlds.running import Running

POINTS = 25  # of a learning curve
LEARNERS = (*METHODS, *(f"{DSRM_HRL.name} {name}" for name in CONTROLS))
OTHERS = ("half", "constant", "aware", "aware, reading", "myopic")  # rules on the same state

# of each data seed `(S, N)`; rules have S = 1
PerSeed = Sequence[Float[np.ndarray, "S N"]]


class Point(NamedTuple):
    """Of a learning curve."""

    world: str
    method: str
    data_seed: int
    training_seed: int
    user_steps: int  # of this seed
    returned: float  # mean R_cum of the sessions that ended around then


class Held(NamedTuple):
    """The cells of one world, state and data seed, by what was measured."""

    seed: int
    cells: Mapping[str, Mapping[str, np.ndarray]]

    def returned(self, row: str) -> Float[np.ndarray, "S N"]:
        """Return what a row earned, a session each."""
        cell, prefix = self.place(row)
        return np.asarray(self.cells[cell][f"{prefix}returned"], np.float64)

    def counts(self, row: str) -> Int[np.ndarray, "S T N"]:
        """Return the popular items of its slates, -1 where there is none."""
        cell, prefix = self.place(row)
        return np.asarray(self.cells[cell][f"{prefix}counts"], np.int64)

    def place(self, row: str) -> tuple[str, str]:
        """Return the cell and the prefix that a row is under."""
        if row.startswith("true "):
            row = row.removeprefix("true ")
            best = f"constant {_best([self.cells['bound'][f'constant {c} returned'] for c in range(SLATE_SIZE + 1)])}"
            return "bound", f"{best if row == 'constant' else row} "
        if row in OTHERS:
            chosen = [self.cells["rules"][f"constant {c} chosen"] for c in range(SLATE_SIZE + 1)]
            named = {"half": f"constant {SLATE_SIZE // 2}", "constant": f"constant {_best(chosen)}"}
            return "rules", f"{named.get(row, row)} "
        return row, ""


def _best(earned: Sequence[np.ndarray]) -> int:
    return int(np.argmax([np.mean(x) for x in earned]))


def interval(values: PerSeed, below: PerSeed | None = None) -> Json:
    """Return the mean of all data seeds, or the ratio of two means, and an interval around it.

    A mean's is `hierarchical`'s, where all training seeds of a data seed meet the same sessions; a ratio's is the nested
    bootstrap's, with the same draws for both parts.
    """
    numbers = [x.mean(axis=1).tolist() for x in values]
    by_seed = [float(np.mean(x)) for x in numbers]
    mean = float(np.mean(by_seed))
    if below is None:
        found = hierarchical(numbers, _resampled(values), confidence=CONFIDENCE, same_users=True)
        return {"mean": mean, "low": found.low, "high": found.high, "by_seed": by_seed}
    parts = values, [np.broadcast_to(x, own.shape) for x, own in zip(below, values, strict=True)]
    drawn = [nested_draws(_resampled(part), same_users=True) for part in parts]
    low, high = np.quantile(drawn[0] / drawn[1], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    ratio = mean / np.mean([x.mean() for x in below])
    return {"mean": float(ratio), "low": float(low), "high": float(high), "by_seed": by_seed}


def _resampled(values: PerSeed) -> Nested:
    """Return means of sessions drawn with replacement, the same for all training seeds of a data seed."""
    return [[row / x.shape[1] for row in resampled_sums(x, place)] for place, x in enumerate(values)]


def goal_use(counts: Int[np.ndarray, "S T N"]) -> Json:
    """Return how much the number of popular slots varies, and how balanced the whole is, means over training seeds.

    `changed` is the share of slates that show another number than the mean one, rounded; `between` and `within` the standard
    deviations of sessions' means, and of slates around their session's mean; `ad` that of the steps, weighted by their slates,
    and `platform_ad` that of all slates together.
    """
    found: dict[str, list[float]] = {
        name: [] for name in ("changed", "between", "within", "ad", "platform_ad", "popular")
    }
    for one in counts:
        present = one >= 0
        shown, slates = np.where(present, one, 0), present.sum()
        mean = shown.sum() / slates
        per_session = shown.sum(axis=0) / np.maximum(present.sum(axis=0), 1)
        there = present.sum(axis=1)
        share = shown.sum(axis=1) / np.maximum(there * SLATE_SIZE, 1)
        found["changed"].append(float(((one != round(mean)) & present).sum() / slates))
        found["between"].append(float(per_session.std()))
        found["within"].append(float(np.sqrt((np.square(one - per_session) * present).sum() / slates)))
        found["ad"].append(float((np.abs(2 * share - 1) * there).sum() / slates))
        found["platform_ad"].append(float(abs(2 * mean / SLATE_SIZE - 1)))
        found["popular"].append(float(mean / SLATE_SIZE))
    return {name: float(np.mean(x)) for name, x in found.items()}


def collect(folder: Path, *, state: str, worlds: Sequence[str], seeds: Sequence[int]) -> Json:
    """Return the results of what the folder holds: by world rows, differences to rules, controls of the goal."""
    result: Json = {"state": state, "training_seeds": list(TRAINING_SEEDS), "confidence": CONFIDENCE, "worlds": {}}
    for world in worlds:
        held = held_in(folder, world, state=state, seeds=seeds)
        if held:
            result["worlds"][world] = _of_world(held)
    return result


def held_in(folder: Path, world: str, *, state: str, seeds: Sequence[int]) -> list[Held]:
    """Return the data seeds of which a folder holds rules and bound, with all that it holds of them."""
    held = []
    for seed in seeds:
        names = "rules", "bound", *LEARNERS, *(f"{method} {RUNNING}" for method in METHODS)
        files = {name: Cell(world, seed, name, state).file(folder) for name in names}
        cells = {name: dict(np.load(file)) for name, file in files.items() if file.exists()}
        if "rules" in cells and "bound" in cells:
            held.append(Held(seed, cells))
    return held


def _of_world(held: Sequence[Held]) -> Json:
    others = [name for name in OTHERS if name in ("half", "constant") or f"{name} returned" in held[0].cells["rules"]]
    found: Json = {"data_seeds": [one.seed for one in held], "rows": {}, "less": {}, "control": {}}
    found["sessions"] = int(held[0].returned("half").shape[1])
    bounds = [one.returned("true planned") - one.returned("true constant") for one in held]
    found["room"] = interval(bounds)
    learners = {name: [one for one in held if name in one.cells] for name in LEARNERS}
    learners = {name: having for name, having in learners.items() if having}
    for row in ("true planned", "true constant", "true myopic", *others):
        found["rows"][row] = _row(held, row)
    for name, having in learners.items():
        found["rows"][name] = _row(having, name) | {"data_seeds": [one.seed for one in having]}
        less = {row: [one.returned(name) - one.returned(row) for one in having] for row in others}
        found["less"][name] = {row: interval(values) for row, values in less.items()}
        room = [one.returned("true planned") - one.returned("true constant") for one in having]
        found["less"][name]["recovered"] = interval(less["constant"], room)
    if DSRM_HRL.name in learners:
        having = learners[DSRM_HRL.name]
        for name in CONTROLS:
            control = f"{DSRM_HRL.name} {name}"
            gone = [one.returned(DSRM_HRL.name) - one.returned(control) for one in having if control in one.cells]
            if gone:
                found["control"][name] = interval(gone)
        for name in [name for name in METHODS if name in learners and name != DSRM_HRL.name]:
            both = [one for one in having if name in one.cells]
            gap = [one.returned(DSRM_HRL.name) - one.returned(name) for one in both]
            found["less"][DSRM_HRL.name] |= {name: interval(gap)} if gap else {}
    running = {name: [one for one in held if f"{name} {RUNNING}" in one.cells] for name in learners}
    running = {name: having for name, having in running.items() if having}
    return found | ({"running": {name: _running(having, name) for name, having in running.items()}} if running else {})


def _running(held: Sequence[Held], name: str) -> Json:
    """Return how balanced a platform is that runs, its second half, when its price has had time to settle.

    `platform_ad` is of all slates of that half together, `steps_ad` the mean over its steps.
    """
    cells = [one.cells[f"{name} {RUNNING}"] for one in held]
    share, price, ended, returned = (np.stack([cell[key] for cell in cells]) for key in Running._fields)
    late = slice(share.shape[-1] // 2, None)
    whole = np.abs(2 * share[..., late].mean(axis=-1) - 1)
    return {
        "data_seeds": [one.seed for one in held],
        "platform_ad": float(whole.mean()),
        "largest_platform_ad": float(whole.max()),
        "steps_ad": float(np.abs(2 * share[..., late] - 1).mean()),
        "price": price[..., late].mean(axis=-1).tolist(),
        "return": float(np.mean(returned[..., late].sum(axis=-1) / ended[..., late].sum(axis=-1))),
    }


def _row(held: Sequence[Held], row: str) -> Json:
    uses = [goal_use(one.counts(row)) for one in held]
    lengths = []
    for one in held:
        cell, prefix = one.place(row)
        lengths.append(float(one.cells[cell][f"{prefix}length"].mean()))
    mean = {name: float(np.mean([use[name] for use in uses])) for name in uses[0]}
    return {"return": interval([one.returned(row) for one in held]), "length": float(np.mean(lengths)), **mean}


def curves(folder: Path, *, state: str, worlds: Sequence[str], seeds: Sequence[int]) -> list[Point]:
    """Return the learning curves of all cells, at most `POINTS` points of each."""
    rows: list[Point] = []
    for world in worlds:
        for seed in seeds:
            for method in METHODS:
                file = Cell(world, seed, method, state).file(folder)
                if not file.exists():
                    continue
                cell = np.load(file)
                parts = np.array_split(np.arange(cell["curve"].shape[1]), min(POINTS, cell["curve"].shape[1]))
                for trained, curve in zip(TRAINING_SEEDS, cell["curve"], strict=True):
                    for part in parts:
                        middle = (part.mean() + 0.5) / len(curve) * float(cell["steps"])
                        rows.append(
                            Point(world, method, seed, trained, round(middle), round(float(curve[part].mean()), 3))
                        )
    return rows


def learners_table(result: Json) -> RenderableType:
    """Lay out a result of `collect`: what `rich.console.Console.print` takes, a table a world."""
    parts: list[RenderableType] = []
    for world in [name for name in LEARNT if name in result["worlds"]]:
        found = result["worlds"][world]
        headings = (
            world,
            "R_cum",
            "less half",
            "less constant",
            "less aware",
            "recovered",
            "changed",
            "popular",
            "AD",
            "all",
        )
        table = WideTable(*headings)
        for name, row in found["rows"].items():
            less = found["less"].get(name, {})
            gaps = [cell(less[other]) if other in less else "" for other in ("half", "constant", "aware", "recovered")]
            use = [f"{row[key]:.2f}" for key in ("changed", "popular", "ad", "platform_ad")]
            table.add_row(name, cell(row["return"]), *gaps, *use)
        parts += [table]
        said = [f"planned less the best constant, preferences known: {cell(found['room'])}"]
        said += [f"DSRM-HRL less itself with goals {name}: {cell(x)}" for name, x in found["control"].items()]
        for name, gap in found["less"].get(DSRM_HRL.name, {}).items():
            if name in METHODS:
                said += [f"DSRM-HRL less {METHODS[name].label}: {cell(gap)} ({len(gap['by_seed'])} data seeds)"]
        for name, ran in found.get("running", {}).items():
            numbers = f"AD {ran['platform_ad']:.3f}, of steps {ran['steps_ad']:.3f}, R_cum {ran['return']:.2f}"
            said += [f"{name} on a platform that runs: {numbers}"]
        if DSRM_HRL.name in found["less"] and "aware, reading" in found["less"][DSRM_HRL.name]:
            said += [f"DSRM-HRL less aware, reading: {cell(found['less'][DSRM_HRL.name]['aware, reading'])}"]
        seeds = ", ".join(map(str, found["data_seeds"]))
        parts += [Text("\n".join([*said, f"data seeds {seeds}, {found['sessions']} sessions each"])), Text("")]
    return Group(*parts)


def cell(value: Json) -> str:
    """Return a mean and the larger half of its interval."""
    return f"{value['mean']:.2f} +- {max(value['high'] - value['mean'], value['mean'] - value['low']):.2f}"
