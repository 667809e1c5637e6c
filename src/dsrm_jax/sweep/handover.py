"""Stage I handed from one worker of a sweep to the others: the first that needs it makes it, the rest read what it wrote."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dsrm_jax.errors import InputError
from dsrm_jax.sweep.pool import STAGE_ONE
from dsrm_jax.training import checkpoint
from dsrm_jax.training.lock import BusyError, held
from dsrm_jax.training.prepare import StageOne
from dsrm_jax.training.serialise import from_json_value, json_value, load_json, write_text

Say = Callable[[str], None]
POLL_SECONDS = 0.2


def hand_over(
    folder: Path,
    meanwhile: Callable[[], Any],
    say: Say,
    name: str,
    like: StageOne,
    make: Callable[[], StageOne],
) -> StageOne:
    """Return what a worker made and wrote under a name, or make and write it; one worker at a time.

    What lies there damaged is made anew, and what cannot be written is not shared: neither stops a sweep.

    Args:
        folder: of the sweep.
        meanwhile: called once before the first wait for another worker, to do what does not need the result.
        say: told why something is not shared.
        name: equal names stand for equal results.
        like: shapes of the result.
        make: makes it.

    Raises:
        InputError: as `make`; or the folder cannot be written.
    """
    place = folder / STAGE_ONE / name
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(_unwritable(place)(error.strerror or error)) from error
    waits = 0
    while True:
        try:
            with held(place / ".lock", busy="another worker makes it", unwritable=_unwritable(place)):
                return _read(place, name, like) or _write(place, name, make(), say)
        except BusyError:
            time.sleep(POLL_SECONDS) if waits else meanwhile()
            waits += 1


def _unwritable(place: Path) -> Callable[[object], str]:
    return lambda why: f"cannot write in {place}: {why}; choose another --out"


def _read(place: Path, name: str, like: StageOne) -> StageOne | None:
    try:
        found = checkpoint.restore(place, (like.perception, like.posterior), name)
        facts = {} if found is None else from_json_value(load_json(place / "facts.json"))
    except InputError:
        return None
    return None if found is None else StageOne(*found[1], facts)


def _write(place: Path, name: str, made: StageOne, say: Say) -> StageOne:
    try:
        write_text(place / "facts.json", json.dumps(json_value(made.facts)) + "\n")
        checkpoint.save(place, 0, (made.perception, made.posterior), name)
    except (InputError, OSError) as error:
        say(f"Stage I is not shared with other workers: {error}")
    return made
