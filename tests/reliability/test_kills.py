"""Runs that are killed or interrupted at any moment end, once resumed, in the same bits as a run that nobody disturbed."""

import contextlib
import os
import pty
import random
import select
import shutil
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dsrm_jax.cli import pipeline
from dsrm_jax.cli.main import main
from dsrm_jax.config import Config
from dsrm_jax.runs import checkpoint, run_directory
from tests.reliability.campaign import Outcome, folder, sample, whole
from tests.reliability.runs import facts, judged, reference, server, train
from tests.reliability.server import Command, Ended, _status
from tests.reliability.test_disks import FINGERPRINT, ended_well, session, state

pytestmark = [pytest.mark.timeout(0)]
SECONDS = 300.0  # what a command may take
MOMENTS = ("any", "data", "first save", "save", "step", "compiling", "evaluating")
STOPS = {130: "interrupted", 143: "stopped by SIGTERM", 129: "stopped by SIGHUP"}


def test_a_sample_of_kills_loses_nothing_that_was_reported_as_saved():
    sample(saves_trial, 2)


@pytest.mark.slow
def test_killed_saves():
    whole("kills: of the saves of a run alone", saves_trial, 500)


@pytest.mark.slow
def test_sigkills():
    whole("kills: SIGKILL, of a run", killed, 35)


@pytest.mark.slow
def test_signals():
    whole("kills: SIGTERM, SIGHUP or Ctrl-C, of a run", signalled, 15)


@pytest.mark.slow
def test_terminals():
    whole("kills: the terminal of a run hangs up", hung_up, 10)


class Told(list[int]):
    """Steps that were reported as saved, told to whom it may concern as they come."""

    def append(self, step: int) -> None:
        super().append(step)
        os.write(1, f"saved {step}\n".encode())


def saving(argv: list[str]) -> None:
    """Do what a run does with files, and nothing else."""
    run = run_directory.create(argv[0], Config())
    with run_directory.locked(run):
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


def killed(number: int) -> Outcome:
    """Kill a run two to five times, in its training, in what resumes it and in what resumes that; then resume it to its end."""
    return trial(number, (signal.SIGKILL,), random.Random(number).randrange(2, 6))


def signalled(number: int) -> Outcome:
    """Stop a run one to three times, each time by one signal or two, then resume it to its end."""
    return trial(1000 + number, (signal.SIGTERM, signal.SIGHUP, signal.SIGINT), number % 3 + 1)


def trial(number: int, signals: tuple[int, ...], kills: int) -> Outcome:
    """Stop a run at moments that were hit, and go on; each is a trial, and the detail says what was hit."""
    reference()
    rng = random.Random(f"{number} moments")
    out = folder() / f"killed-{number}"
    own = folder() / f"cache-{number}"
    for path in (out, own):
        shutil.rmtree(path, ignore_errors=True)
    # a third trains a Stage I of its own, the others find it kept; one in ten compiles everything, too
    more = ("--data.no-cache",) if number % 3 == 0 else ()
    environ = {"XDG_CACHE_HOME": str(own)} if number % 10 == 7 else {}
    hits: list[str] = []
    while len(hits) < kills:
        command = _go_on(out, more, environ)
        how, before = rng.choice(signals), _steps(out)
        _await(command, out, rng.choice(MOMENTS if before else MOMENTS[:4]), rng)
        command.send(how)
        if how != signal.SIGKILL and rng.random() < 0.3:
            time.sleep(rng.uniform(0, 0.3))
            command.send(how)
        ended = command.wait(SECONDS)
        problem = _unclean(ended, how, out)
        if problem is not None:
            return problem
        if ended.status != 0:
            hits.append(f"{'resume' if before else 'train'} {_where(ended, out, before)}")
        elif hits:  # it came to its end before
            break
        else:
            shutil.rmtree(out)
    ended = _go_on(out, more, environ).wait(SECONDS)
    outcome = judged(out, ended, notices=("trying the one before it",))
    if outcome.kind == "refused":  # nothing that a kill leaves behind may need a person
        outcome = Outcome("silent", f"not resumed: {outcome.detail}")
    if outcome.kind in ("exact", "recovered"):
        shutil.rmtree(out)
        shutil.rmtree(own, ignore_errors=True)
        return Outcome(outcome.kind, ", ".join(hits), len(hits))
    return outcome


def test_other_devices_are_said(tmp_path, monkeypatch):
    run = run_directory.create(tmp_path, Config())
    monkeypatch.setattr(pipeline, "_devices", lambda config: "one cpu device")
    assert pipeline.other_devices(run, Config()) == ""  # nothing is known yet
    run_directory.write_summary(run, {"devices": "one cpu device"})
    assert pipeline.other_devices(run, Config()) == ""
    run_directory.write_summary(run, {"devices": "4 cpu devices"})
    assert "it was begun on 4 cpu devices, and goes on on one cpu device" in pipeline.other_devices(run, Config())


def on_devices(argv: list[str]) -> None:
    """Run a command on so many devices of a CPU: JAX, which the server has imported, read the environment then."""
    jax.config.update("jax_num_cpu_devices", int(argv[0]))
    main(argv[1:])


def elsewhere(number: int) -> Outcome:
    """Kill a run on two devices and go on on another number of them: it says so, and its numbers agree to rounding."""
    rng = random.Random(number)
    out = folder() / f"elsewhere-{number}"
    shutil.rmtree(out, ignore_errors=True)
    call = f"{__name__}:on_devices"
    command = server().start(2, *train(out), call=call)
    _await(command, out, "step", rng)
    command.send(signal.SIGKILL)
    command.wait(SECONDS)
    before, devices = _steps(out), (1, 4)[number % 2]
    ended = server().run(devices, "resume", out, call=call, seconds=SECONDS * 2)
    if ended.status != 0 or "Traceback" in ended.said:
        return Outcome("traceback" if ended.status != 2 else "refused", f"{ended.status}: {ended.said[-250:]}")
    if "it was begun on 2 cpu devices" not in ended.said:
        return Outcome("silent", "nothing was said of other devices")
    want, have = (facts(path)["metrics"] for path in (reference(), out))
    near = all(
        np.allclose(row[name], other[name], rtol=1e-3, atol=1e-4)
        for row, other in zip(want, have, strict=True)
        for name in ("reward", "broken", "worker_loss")
    )
    shutil.rmtree(out)
    detail = f"killed after {before} saves on 2 devices, finished on {devices}"
    return Outcome("recovered", detail) if near else Outcome("silent", f"{detail}: other numbers")


@pytest.mark.slow
def test_other_devices():
    whole("kills: resumed on another number of devices", elsewhere, 6)


def _steps(out: Path) -> int:
    """Return how often a run was saved: before its first step, and after each update of four steps; the last few are kept."""
    return max((int(path.name[5:]) // 4 + 1 for path in out.glob("checkpoints/step_*")), default=0)


def _where(ended: Ended, out: Path, before: int) -> str:
    """Return what a command was at when it ended, by what it left and had said."""
    if any(out.glob("checkpoints/.saving-*")):
        return "in a save" if _steps(out) else "in the first save"
    if "trained in" in ended.said:
        return "evaluating"
    if _steps(out) > max(before, 1):
        return "training"
    if "Stage II: " in ended.said:
        return "compiling"
    return ("restoring" if before else "in Stage I") if "data: " in ended.said else "starting"


def in_terminal(argv: list[str]) -> None:
    """Run a command in a terminal of its own, which is gone once the first step of training is saved, and a while after."""
    out, seconds = Path(argv[0]), float(argv[1])
    pid, terminal = pty.fork()
    if pid == 0:
        status = _status(main, argv[2:])
        os._exit(status)
    seen = b""
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        ready, _, _ = select.select([terminal], [], [], 0.01)
        with contextlib.suppress(OSError):
            seen += os.read(terminal, 1 << 16) if ready else b""
        if _steps(out) > 1 if seconds < 1 else b"data: " in seen:
            time.sleep(seconds)
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                break
            os.close(terminal)
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) % 256)
    print("it ended before")


def _hang_up(out: Path, seconds: float) -> Ended:
    return server().run(out, seconds, *train(out), call=f"{__name__}:in_terminal", seconds=SECONDS)


def hung_up(number: int) -> Outcome:
    """Let the terminal of a run go, as a connection that breaks does, and resume the run to its end."""
    rng = random.Random(number)
    out = folder() / f"hung-{number}"
    shutil.rmtree(out, ignore_errors=True)
    seconds = rng.uniform(0, 0.5) if number % 2 else rng.uniform(1, 8)
    while "it ended before" in (ended := _hang_up(out, seconds)).said:
        shutil.rmtree(out)
        seconds /= 2
    if ended.status != 128 + signal.SIGHUP:
        kind = "hang" if ended.status is None else "silent"
        return Outcome(kind, f"status {ended.status}: {ended.said[-200:]}")
    if (out / ".lock").exists():
        return Outcome("silent", "it left its lock")
    left = f"{'resume' if _steps(out) else 'train'} after {_steps(out)} saves"
    ended = _go_on(out, (), {}).wait(SECONDS)
    outcome = judged(out, ended)
    shutil.rmtree(out, ignore_errors=True)
    return Outcome("exact", left) if outcome.kind == "exact" else Outcome("silent", f"{left}: {outcome}")


def _go_on(out: Path, more: tuple[str, ...], environ: dict[str, str]) -> Command:
    if (out / "config.json").exists():
        return server().start("resume", str(out), **environ)
    return server().start(*train(out, *more), **environ)


def _await(command: Command, out: Path, moment: str, rng: random.Random) -> None:
    """Wait for a moment: any of the run's seconds of computing, or one soon after something was seen."""
    said = {"compiling": "Stage II: ", "data": "data: ", "evaluating": "evaluation compiled"}
    until, seen = time.monotonic() + SECONDS, _steps(out)
    while command.pid not in command.server.ended and time.monotonic() < until and moment != "any":
        if moment in said and said[moment] in command.out.read_text(errors="replace"):
            break
        saving = moment == "first save" or (moment == "save" and _steps(out))
        if saving and any(out.glob("checkpoints/.saving-*")):
            break
        if moment == "step" and _steps(out) > seen:
            break
        _sleep(command, 0.004)
    if moment in ("save", "first save", "step"):
        _sleep(command, rng.uniform(0, 0.08))
    else:
        _compute(command, rng.uniform(0, {"any": 9.0, "data": 2.0}.get(moment, 1.5)))


def _compute(command: Command, seconds: float) -> None:
    """Wait until a command has computed for so long, however busy the machine is."""
    first = _computed(command)
    while command.pid not in command.server.ended and _computed(command) - first < seconds:
        _sleep(command, 0.02)


def _computed(command: Command) -> float:
    try:
        fields = Path(f"/proc/{command.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 1e9
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
