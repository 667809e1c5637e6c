"""The table of all worlds: measured and laid out."""

from collections.abc import Sequence

import jax
from rich.console import Group, RenderableType
from rich.text import Text

from dsrm_jax.data.sources import load_log
from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.evaluation.wide_table import WideTable
from dsrm_jax.simulator.build import make_worlds
from dsrm_jax.types import Json, Say
from experiments.worlds.bounds import bounds
from experiments.worlds.studies import WORLDS, study_of

AT_RETENTION = 4  # times as many sessions where users come back: how often they do is luck


def measure(env: str, names: Sequence[str], *, seed: int, users: int, sessions: int, say: Say = print) -> Json:
    """Return `bounds.bounds` of worlds by name, on the held-out users of a synthetic data set.

    Raises:
        InputError: an unknown world, or a log without a known truth.
    """
    for name in names:
        if name not in WORLDS:
            raise unknown_name("world", name, WORLDS)
    log = load_log(env, seed=seed)
    if log.synthetic is None:
        raise InputError(
            f"{log.source} has no known truth, which a planner needs: choose kuairec or kuairand without files"
        )
    found: Json = {"source": log.source, "worlds": {}}
    for name in names:
        preset, overrides = WORLDS[name]
        study = study_of(preset, **overrides)
        mechanisms = study.environment.mechanisms
        world = make_worlds(jax.random.key(seed), log, mechanisms=mechanisms).test
        times = AT_RETENTION if study.returns else 1
        result = bounds(study, world, jax.random.key(seed + 1), num_users=users, sessions=times * sessions)
        found["worlds"][name] = result
        say(f"{name}: bound {_cell(result['bound'])}")
    return found


def worlds_table(result: Json) -> RenderableType:
    """Lay out a result of `measure`: what `rich.console.Console.print` takes, a table a world."""
    parts: list[RenderableType] = [Text(result["source"], style="bold")]
    for name, world in result["worlds"].items():
        table = WideTable(name, "R_cum", "Len", "planned less it", "popular", "AD", "number", "price")
        for rule, row in world["rows"].items():
            behind = row["behind"] if row["short"] is None else row["short"]
            number = "" if row["number"] is None else f"{row['number']:g}"
            price = f"{row['price']:.3f}" if row["price"] else ""
            cells = _cell(row["return"]), _cell(row["length"]), _cell(behind), f"{row['popular']['mean']:.2f}"
            table.add_row(rule, *cells, f"{row['ad']:.2f}", number, price)
        table.add_row("bound", _cell(world["bound"]), "", f"played {_cell(world['played'])}")
        parts += [table, Text("")]
    world = next(iter(result["worlds"].values()))
    note = f"+-: {100 * world['confidence']:g} % over {world['users']} users; of constants the exact difference to the bound"
    return Group(*parts, Text(note))


def _cell(value: Json) -> str:
    return f"{value['mean']:.2f} +- {value['high'] - value['mean']:.2f}"
