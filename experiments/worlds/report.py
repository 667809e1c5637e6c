"""The learners' study as files: numbers, learning curves and pictures."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from dsrm_jax.cli.commands import write_json
from dsrm_jax.files import write_bytes
from dsrm_jax.types import Json, Say
from experiments.worlds.learners import run_learners
from experiments.worlds.learners_table import collect, curves, held_in
from experiments.worlds.pictures import curves_picture, mechanism_picture, world_picture
from experiments.worlds.small_worlds import SMALL, rules_of


def report(
    folder: Path,
    *,
    env: str,
    worlds: Sequence[str],
    seeds: Sequence[int],
    methods: Sequence[str],
    state: str,
    tiny: bool,
    json: str,
    say: Say,
) -> Json:
    """Measure what a folder of cells lacks, write the numbers after each, and return them.

    Cells lie in a folder of their data set's name, and toy ones apart, so that none is taken for another's.

    Beside the file `json` stand its learning curves, `STEM_curves.csv`, and in the folder `STEM` a picture of each world, of the
    first data seed, one of the curves, and one of each mechanism by itself (`small_worlds`).
    """
    folder = folder / (f"{env}-tiny" if tiny else env)
    result: Json = {}
    wanted = {"worlds": worlds, "seeds": seeds, "state": state}
    for kept in run_learners(folder, env=env, methods=methods, tiny=tiny, say=say, **wanted):  # type: ignore[arg-type]
        result = collect(kept, **wanted) | {"env": env}  # type: ignore[arg-type]
        write_json(json, result)
    if json:
        write_files(folder, Path(json), env=env, worlds=worlds, seeds=seeds, state=state)
    return result


def write_files(folder: Path, json: Path, *, env: str, worlds: Sequence[str], seeds: Sequence[int], state: str) -> None:
    """Write curves and pictures of a folder's cells beside the file of numbers."""
    json.with_suffix("").mkdir(parents=True, exist_ok=True)
    rows = curves(folder, state=state, worlds=worlds, seeds=seeds)
    if rows:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([rows[0]._fields, *rows])
        write_bytes(json.with_name(f"{json.stem}_curves.csv"), text.getvalue().encode())
        curves_picture(json.with_suffix("") / "learning.png", rows)
    for world in worlds:
        for held in held_in(folder, world, state=state, seeds=seeds)[:1]:
            world_picture(json.with_suffix("") / f"{world}.png", world, held, env=env)
    for name in SMALL:
        picture = json.with_suffix("") / f"{name}.png"
        if not picture.exists():
            mechanism_picture(picture, name, rules_of(name))
