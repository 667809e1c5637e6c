"""Stage I handed from one process to others: the first that needs it makes it, the rest read what it wrote."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from dsrm_jax.errors import InputError
from dsrm_jax.files import from_json_value, json_value, load_sealed, sealed, write_text
from dsrm_jax.runs import checkpoint
from dsrm_jax.runs.lock import BusyError, held
from dsrm_jax.runs.prepare import StageOne
from dsrm_jax.types import Say

POLL_SECONDS = 0.2
FACTS = "facts.json"


def hand_over(
    folder: Path, meanwhile: Callable[[], object], say: Say, name: str, like: StageOne, make: Callable[[], StageOne]
) -> StageOne:
    """Return what a process made and wrote under a name in a folder, or make and write it; one process at a time.

    What lies there damaged is made anew, and what cannot be written is not shared: neither stops anything. Equal names stand for
    equal results, whose shapes are those of `like`. `meanwhile` is called once before the first wait for another process, to do
    what does not need the result. It raises what `make` does.
    """
    place = folder / name
    with contextlib.ExitStack() as turn:
        try:
            place.mkdir(parents=True, exist_ok=True)
            _take_turn(turn, place / ".lock", meanwhile, say)
        except (InputError, OSError) as error:
            say(f"Stage I is not shared with other processes: {error}")
            return make()
        found = _read(place, name, like, say)
        if found is None:
            found = make()
            _write(place, name, found, say)
        return found


def _take_turn(turn: contextlib.ExitStack, lock: Path, meanwhile: Callable[[], object], say: Say) -> None:
    """Enter the lock, after another process if it must be."""
    waits = 0
    while True:
        try:
            turn.enter_context(held(lock, busy="another process makes it"))
            return
        except BusyError:
            if waits == 0:
                meanwhile()
            if waits == 1:
                say("waiting for the Stage I of another process")
            if waits > 0:
                time.sleep(POLL_SECONDS)
            waits += 1


def _read(place: Path, name: str, like: StageOne, say: Say) -> StageOne | None:
    try:
        found = checkpoint.restore(place, (like.perception, like.posterior), name)
        if found is None:
            return None
        facts = load_sealed(place / FACTS)
        if facts.get("name") != name:
            raise InputError(f"{place / FACTS} is another's")
        return StageOne(*found[1], from_json_value(facts["facts"]))
    except InputError as error:
        say(f"Stage I of another process cannot be used: {error}")
        return None


def _write(place: Path, name: str, made: StageOne, say: Say) -> None:
    try:
        write_text(place / FACTS, json.dumps(sealed({"name": name, "facts": json_value(made.facts)})) + "\n")
        checkpoint.save(place, 0, (made.perception, made.posterior), name)
    except (InputError, OSError) as error:
        say(f"Stage I is not shared with other processes: {error}")
