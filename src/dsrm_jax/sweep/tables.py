"""What a sweep prints: one table per cell of the rest of its grid where it compares methods, else one row per point."""

import itertools
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from dsrm_jax.errors import InputError
from dsrm_jax.evaluation.metrics import difference
from dsrm_jax.evaluation.sessions import Sessions
from dsrm_jax.evaluation.tables import PAPER_METHOD, RIVALS, cell, label, results_table
from dsrm_jax.evaluation.verdicts import verdicts
from dsrm_jax.evaluation.wide_table import WideTable
from dsrm_jax.files import load_sealed, read_arrays
from dsrm_jax.types import Json

METHOD = "agent.method"
HEADED = (METHOD, "data.env", "environment.max_len")  # fields that a table of methods names anyway
COLUMNS = (("length", "Len", 2), ("reward", "R_each", 3), ("return", "R_cum", 2), ("ad", "AD", 3), ("broken", "p", 3))


def sweep_tables(results: Sequence[Json], folder: Path, *, validate: bool) -> list[RenderableType]:
    """Lay out the results of one plan, from `pool.run_plans`, as tables for `rich.console.Console.print`.

    `folder` is the sweep's, for the sessions behind paired differences; `validate` says whether the sessions were validation
    sessions in the training simulator.
    """
    if not results:
        return []
    if validate:  # beside neither the paper's row nor the words "held-out"
        return [points_table(results, "VALIDATION sessions in the training simulator")]
    if METHOD not in results[0]["values"]:
        return [points_table(results, "held-out sessions")]
    cells = itertools.groupby(sorted(results, key=_cell_of), key=_cell_of)
    return [methods_table(list(members), folder) for _, members in cells]


def methods_table(rows: Sequence[Json], folder: Path) -> RenderableType:
    """Lay out the methods of one cell of a grid, whose values differ in the method alone; DSRM-HRL first where it is there."""
    rows = sorted(rows, key=lambda r: r["method"] != PAPER_METHOD)
    found = {r["method"]: dict(r["result"]) for r in rows}
    first = rows[0]
    if first["method"] == PAPER_METHOD:
        for other in rows[1:]:
            if other["method"] in RIVALS:
                gap = paired_difference(folder, first, other, slate_size=_slate_size(folder, first["name"]))
                found[first["method"]].setdefault("difference", {})[other["method"]] = gap
    others = [f"{name} {value}" for name, value in first["values"].items() if name not in HEADED]
    diverged = [f"{label(r['method'])} DIVERGED" for r in rows if r.get("diverged")]
    table = results_table(
        found,
        source="; ".join([first["source"], *others, *diverged]),
        env=first["env"],
        max_len=first["max_len"],
        num_seeds=len(first["result"]["seeds"]),
    )
    return Group(*(Text(sentence) for sentence in verdicts(found)), table, _times(rows))


def points_table(results: Sequence[Json], where: str) -> RenderableType:
    """Lay out one row per point: the grid's fields, the metrics, seconds of Stage II and evaluation."""
    names = list(dict.fromkeys(name for r in results for name in r["values"]))
    metrics = (heading for _, heading, _ in COLUMNS)
    table = WideTable(*(name.rsplit(".", 1)[-1] for name in names), *metrics, "s", "", keys=len(names))
    for r in results:
        cells = [cell(r["result"][name], digits) for name, _, digits in COLUMNS]
        values = [str(r["values"].get(name, "")) for name in names]
        table.add_row(*values, *cells, f"{_seconds(r):.0f}", "DIVERGED" if r.get("diverged") else "")
    return Group(Text(where, style="bold"), table)


def paired_difference(folder: Path, method: Json, other: Json, *, slate_size: int = 6) -> dict[str, dict[str, float]]:
    """Return `metrics.difference` of two points of a sweep, from the sessions that each saved."""
    first, second = (load_sessions(folder / r["name"] / "sessions.npz") for r in (method, other))
    return difference(first, second, slate_size=slate_size, confidence=method["result"]["confidence"])


def load_sessions(path: Path) -> list[Sessions]:
    """Return the sessions of each seed that a point saved; what was shown at each step is not kept.

    Raises:
        InputError: the file is gone or damaged.
    """
    try:
        arrays = read_arrays(path)
        return [
            Sessions(
                **{name: array[s] for name, array in arrays.items()},
                step_popular=None,  # type: ignore[arg-type]
                step_slates=None,  # type: ignore[arg-type]
                item_count=None,  # type: ignore[arg-type]
            )
            for s in range(len(arrays["length"]))
        ]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise InputError(
            f"{path} is gone or damaged ({error}): delete {path.parent} and run the sweep again"
        ) from error


def _slate_size(folder: Path, name: str) -> int:
    points = {p["name"]: p["config"] for p in load_sealed(folder / "plan.json")["points"]}
    return int(points[name]["environment"]["slate_size"])


def _cell_of(result: Json) -> tuple[str, ...]:
    """Return everything of a point's values but the method, as text to sort by."""
    return tuple(str(v) for name, v in sorted(result["values"].items()) if name != METHOD)


def _times(rows: Sequence[Json]) -> RenderableType:
    table = WideTable("method", "compile, s", "train, s", "evaluate, s", "user-steps/s")
    for r in rows:
        time = r["timing"]
        rate = time["user_steps_per_second"]
        table.add_row(
            label(r["method"]),
            f"{time['compile_seconds']:.0f}",
            f"{time['train_seconds']:.0f}",
            f"{time['evaluation_seconds']:.0f}",
            "" if math.isnan(rate) else f"{rate:,.0f}",
        )
    return table


def _seconds(result: Json) -> float:
    return sum(v for k, v in result["timing"].items() if k.endswith("seconds"))
