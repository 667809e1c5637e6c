"""Runs that are killed or interrupted at any moment end, once resumed, in the same bits as a run that nobody disturbed."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from dsrm_jax.config import Config
from dsrm_jax.runs import checkpoint, run_directory
from tests.reliability.campaign import Outcome, folder, sample, whole
from tests.reliability.runs import judged, reference, server, train
from tests.reliability.server import Command, Ended
from tests.reliability.test_disks import FINGERPRINT, ended_well, session, state

pytestmark = [pytest.mark.timeout(0)]
SECONDS = 180.0  # what a command may take
MOMENTS = ("any", "start", "saving", "step", "compiling", "evaluating")
STOPS = {130: "interrupted", 143: "stopped by SIGTERM"}


def test_a_sample_of_kills_loses_nothing_that_was_reported_as_saved():
    sample(saves_trial, 2)


@pytest.mark.slow
def test_saves_that_are_killed():
    whole("kills: of the saves of a run alone", saves_trial, 500)


@pytest.mark.slow
def test_kills():
    whole("kills", trial, 120)


class Told(list[int]):
    """Steps that were reported as saved, told to whom it may concern as they come."""

    def append(self, step: int) -> None:
        super().append(step)
        os.write(1, f"saved {step}\n".encode())


def saving(argv: list[str]) -> None:
    """Do what a run does with files, and nothing else."""
    run = run_directory.create(argv[0], Config())
    found = checkpoint.restore(run.checkpoints, state(0), FINGERPRINT)
    session(run, 0 if found is None else found[0], Told())
    print("finished")


def saves_trial(number: int) -> Outcome:
    """Kill the saves of a run up to three times at any moment, and go on: what was reported is there, and the end is the same."""
    rng = random.Random(number)
    out = folder() / "killed-saves"
    shutil.rmtree(out, ignore_errors=True)
    told = 0
    for _ in range(rng.choice((1, 2, 3))):
        command = server().start(out, call=f"{__name__}:saving")
        _sleep(command, rng.uniform(0, 1.2))
        command.send(signal.SIGKILL)
        ended = command.wait(60)
        told = max([told, *(int(line.split()[1]) for line in ended.said.splitlines() if line.startswith("saved "))])
        found = checkpoint.restore(out / "checkpoints", state(0), FINGERPRINT)
        step = 0 if found is None else found[0]
        if step < told or (found is not None and not np.array_equal(found[1]["weights"], state(step)["weights"])):
            return Outcome("silent", f"step {told} was reported as saved, and {step} is there")
    ended = server().run(out, call=f"{__name__}:saving", seconds=60)
    if "finished" not in ended.said:
        return Outcome("hang" if ended.status is None else "traceback", f"{ended.status}: {ended.said[-300:]}")
    return ended_well(out, [""])


def trial(number: int) -> Outcome:
    """Kill a run once or twice, by one signal of three at a moment of six, and bring it to its end."""
    reference()
    rng = random.Random(number)
    out = folder() / f"killed-{number}"
    shutil.rmtree(out, ignore_errors=True)
    # every third run makes its own Stage I, the others find it kept
    more = ("--data.no-cache",) if number % 3 == 0 else ()
    for _ in range(rng.choice((1, 1, 2))):
        how = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
        command = _go_on(out, more)
        _await(command, out, rng)
        command.send(how)
        if how != signal.SIGKILL and rng.random() < 0.3:
            time.sleep(rng.uniform(0, 0.3))
            command.send(how)
        ended = command.wait(SECONDS)
        problem = _unclean(ended, how, out)
        if problem is not None:
            return problem
    ended = _go_on(out, more).wait(SECONDS)
    outcome = judged(out, ended, notices=("trying the one before it",))
    if outcome.kind == "refused":  # nothing that a kill leaves behind may need a person
        outcome = Outcome("silent", f"not resumed: {outcome.detail}")
    if outcome.kind in ("exact", "recovered"):
        shutil.rmtree(out)
    return outcome


def _go_on(out: Path, more: tuple[str, ...]) -> Command:
    if (out / "config.json").exists():
        return server().start("resume", str(out))
    return server().start(*train(out, *more))


def _await(command: Command, out: Path, rng: random.Random) -> None:
    """Wait for a moment: any of the run's seconds, or one soon after something was seen."""
    moment = rng.choice(MOMENTS)
    if moment == "any":
        _sleep(command, rng.uniform(0, 7))
        return
    said = {"compiling": "Stage II: ", "start": "data: ", "evaluating": "evaluated "}
    until = time.monotonic() + 60
    seen = len(list(out.glob("checkpoints/step_*")))
    while command.pid not in command.server.ended and time.monotonic() < until:
        if moment in said and said[moment] in command.out.read_text(errors="replace"):
            break
        if moment == "saving" and any(out.glob("checkpoints/.saving-*")):
            break
        if moment == "step" and len(list(out.glob("checkpoints/step_*"))) > seen:
            break
        _sleep(command, 0.004)
    _sleep(command, rng.uniform(0, 0.08 if moment in ("saving", "step") else 1.5))


def _sleep(command: Command, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and command.pid not in command.server.ended:
        command.server._read("")
        time.sleep(min(0.004, max(until - time.monotonic(), 0)))


def _unclean(ended: Ended, how: int, out: Path) -> Outcome | None:
    """Return what was wrong with how a signal was taken."""
    if ended.status is None:
        return Outcome("hang", f"after signal {how}: {ended.said[-200:]}")
    if how == signal.SIGKILL or ended.status == 0:  # 0: it had ended before
        return None if ended.status in (-signal.SIGKILL, 0) else Outcome("traceback", ended.said[-300:])
    if not ended.said.strip() and ended.status in (1, -how):
        return None  # the process had not come to the command yet
    if "Traceback" in ended.said or ended.status != 128 + how:
        return Outcome("traceback", f"signal {how}, status {ended.status}: {ended.said[-250:]}")
    if STOPS[ended.status] not in ended.said and "saved; continue with" not in ended.said:
        return Outcome("silent", f"signal {how} without a sentence: {ended.said[-200:]}")
    if (out / ".lock").exists():
        return Outcome("silent", f"signal {how} left its lock")
    return None
