"""Disks that fill, fail and forget: what was reported as saved is there; what was not leaves nothing that is believed."""

import ctypes
import json
import os
import random
import shutil
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dsrm_jax.cli import main as cli
from dsrm_jax.config import Config
from dsrm_jax.errors import InputError
from dsrm_jax.runs import checkpoint, run_directory
from dsrm_jax.runs.logging import append_metrics, read_metrics, truncate_metrics
from tests.reliability.campaign import Outcome, folder, sample, whole
from tests.reliability.faults import Crash, Faults
from tests.reliability.runs import judged, reference, server, train

pytestmark = [pytest.mark.timeout(0)]
STEPS = (8, 16, 24)
KINDS = ("crash", "crash", "full", "broken")
FINGERPRINT = "f" * 64


def state(step: int) -> dict[str, np.ndarray]:
    return {"weights": np.arange(40, dtype=np.float32) * step, "step": np.int32(step)}


def rows(step: int) -> list[dict]:
    return [{"step": s, "reward": [s / 7, s / 3]} for s in (step - 4, step)]


def session(run: run_directory.RunDirectory, done: int, reported: list[int]) -> None:
    """Do what a run does between `done` and its end: rows, then their checkpoint, then the summary."""
    truncate_metrics(run.metrics, done)
    for step in STEPS:
        if step > done:
            append_metrics(run.metrics, rows(step))
            checkpoint.save(run.checkpoints, step, state(step), FINGERPRINT, keep=2)
            reported.append(step)
    run_directory.write_summary(run, {"reward": 0.1 + 0.2, "steps": list(STEPS)})


def trial(number: int) -> Outcome:
    """Let one operation of a run on files fail, once or twice, and go on."""
    rng = random.Random(number)
    out = folder() / "faulty"
    shutil.rmtree(out, ignore_errors=True)
    reported: list[int] = [0]
    said: list[str] = []
    for turn in range(rng.choice((1, 1, 2)) + 1):
        last = turn > 0 and not said[turn - 1]
        faults = Faults(0 if last or turn == 2 else rng.randrange(1, _operations() + 1), rng.choice(KINDS), number)
        said.append("")
        try:
            with faults.installed():
                run = run_directory.create(out, Config())
                found = checkpoint.restore(run.checkpoints, state(0), FINGERPRINT)
                if found is not None:
                    step, restored = found
                    if not all(np.array_equal(restored[name], state(step)[name]) for name in restored):
                        return Outcome("silent", f"step {step} came back as something else")
                if max(reported) > (0 if found is None else found[0]):
                    return Outcome(
                        "silent", f"step {max(reported)} was reported as saved, and {found and found[0]} is there"
                    )
                session(run, 0 if found is None else found[0], reported)
        except Crash:
            said[-1] = f"died at operation {faults.count}"
        except InputError as error:
            said[-1] = str(error)
        except Exception as error:
            return Outcome("traceback", f"{faults.kind} at {faults.at}: {type(error).__name__}: {error}")
        if not said[-1] and faults.at == 0:
            break
    else:
        return ended_well(out, said)
    return ended_well(out, said)


def ended_well(out: Path, said: list[str]) -> Outcome:
    """Finish undisturbed where nothing has, and compare with what an undisturbed run leaves."""
    if said[-1]:
        run = run_directory.create(out, Config())
        found = checkpoint.restore(run.checkpoints, state(0), FINGERPRINT)
        session(run, 0 if found is None else found[0], [])
    run = run_directory.layout(out)
    wanted = [row for step in STEPS for row in rows(step)]
    problems = {
        "metrics": read_metrics(run.metrics) != wanted,
        "steps": checkpoint.steps(run.checkpoints)[-2:] != list(STEPS[-2:]),
        "summary": run_directory.read_summary(run) != {"reward": 0.1 + 0.2, "steps": list(STEPS)},
        "left behind": any(path.name.startswith(".saving") for path in run.checkpoints.iterdir())
        or any(path.name.endswith(".tmp") for path in out.iterdir() if f".{os.getpid()}." not in path.name),
    }
    wrong = [name for name, there in problems.items() if there]
    return Outcome("silent", f"{wrong}; {said}") if wrong else Outcome("exact", "; ".join(said))


@cache
def _operations() -> int:
    out = folder() / "counted"
    shutil.rmtree(out, ignore_errors=True)
    faults = Faults(0, "crash", 0)
    with faults.installed():
        session(run_directory.create(out, Config()), 0, [])
    return faults.count


def test_every_operation_of_a_run_on_files_may_fail():
    assert _operations() > 60
    sample(trial, 12)


@pytest.mark.slow
def test_faults():
    whole("disks: writes, flushes and renames that fail", trial, 1000)


# what a command may meet; each gives `(argv, keywords of the server's run, what else may be expected)`


def limited(argv: list[str]) -> None:
    """Run a command whose files may not grow beyond so many bytes: Python's, Orbax's and XLA's alike."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(argv[0]), int(argv[0])))
    cli.main(argv[1:])


def backwards(argv: list[str]) -> None:
    """Run a command whose clock goes back."""
    real, begun = time.time, time.time()
    time.time = lambda: 2 * begun - real()
    cli.main(argv)


def delayed(argv: list[str]) -> None:
    """Run a command whose renames take long, as on a file system far away."""

    def slowly(real):
        return lambda *arguments, **more: (time.sleep(0.05), real(*arguments, **more))[1]

    os.rename, os.replace = slowly(os.rename), slowly(os.replace)
    cli.main(argv)


def output(argv: list[str]) -> None:
    """Run a command whose output is closed, full or read by nobody."""
    kind = argv[0]
    if kind == "closed":
        os.close(1)
        sys.stdout = None  # as Python itself has it then
    elif kind == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    else:
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, 1)
    cli.main(argv[1:])


def obeying(argv: list[str]) -> None:
    """Run a command that permissions hold for, though it is root's: without the capabilities that set them aside."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    for name in range(3):  # effective, permitted, inheritable; CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER
        sets[name] &= ~0b1110
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")
    cli.main(argv)


HERE = "tests.reliability.test_disks"
CONDITIONS = {
    **{
        f"files of at most {size:,} bytes": (f"{HERE}:limited", (str(size),), {})
        for size in (500, 3000, 8000, 20_000, 60_000, 200_000)
    },
    "a clock that goes back": (f"{HERE}:backwards", (), {}),
    "slow renames": (f"{HERE}:delayed", (), {}),
    "output closed": (f"{HERE}:output", ("closed",), {}),
    "output full": (f"{HERE}:output", ("full",), {}),
    "output read by nobody": (f"{HERE}:output", ("broken",), {}),
    "a folder that may not be written": (f"{HERE}:obeying", (), {}),
    "caches that may not be written": (f"{HERE}:obeying", (), {}),
    "C locale": ("", (), {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "a dumb terminal of 20 columns": ("", (), {"TERM": "dumb", "COLUMNS": "20"}),
    "no home": ("", (), {"HOME": "", "XDG_CACHE_HOME": ""}),
    "a home that is not there": ("", (), {"HOME": "/nonexistent/home", "XDG_CACHE_HOME": "/nonexistent/cache"}),
    "a home that is a file": ("", (), {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache"}),
}
NAMES = ("with spaces", "line\nfeed", "Ünïcode 推薦 \U0001f642", "-dash", "quote'\"", "percent%s{}", "x" * 250)


def condition(number: int) -> Outcome:
    """Train, and where that ends well compare; where it does not, resume undisturbed and compare."""
    names = [*CONDITIONS, *NAMES]
    name = names[number % len(names)]
    call, before, environ = CONDITIONS.get(name, ("", (), {}))
    out = folder() / (name if name in NAMES else f"odd-{number}")
    shutil.rmtree(out, ignore_errors=True)
    reference()
    closed = folder() / "closed"
    closed.mkdir(exist_ok=True)
    closed.chmod(0o555)
    if name == "a folder that may not be written":
        out = closed / "run"
    elif name == "caches that may not be written":
        environ = {"XDG_CACHE_HOME": str(closed)}
    more = {"call": call} if call else {}
    words = train(f"./{name}" if name == "-dash" else out, "--data.no-cache")
    ended = server().run(*before, *words, cwd=folder(), seconds=300, **more, **environ)
    if ended.status == 0:
        outcome = judged(out, ended)
    elif ended.status in (2, 141) and "Traceback" not in ended.said:
        outcome = Outcome("refused", ended.said.strip().splitlines()[-1] if ended.said.strip() else "in silence")
        if ended.status == 2 and "dsrm-jax: " not in ended.said:
            outcome = Outcome("traceback", f"{name}: no sentence: {ended.said[-200:]}")
        elif out.exists() and any(out.iterdir()):
            words = ("resume", out) if (out / "config.json").exists() else train(out)
            again = judged(out, server().run(*words, seconds=300))
            outcome = again if again.kind not in ("exact", "recovered") else Outcome("refused", outcome.detail)
    else:
        outcome = Outcome(
            "traceback" if ended.status is not None else "hang", f"{name}: {ended.status}: {ended.said[-250:]}"
        )
    shutil.rmtree(out, ignore_errors=True)
    return outcome


@pytest.mark.slow
def test_odd_disks_and_terminals():
    whole("disks: full, odd names, outputs, homes, clocks", condition, len(CONDITIONS) + len(NAMES))


def test_an_output_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none"), tmp_path / ("x" * 5000)):
        with pytest.raises((InputError, OSError)):
            run_directory.create(out, Config())
    assert (tmp_path / "file").read_text() == "mine"


def test_a_summary_and_rows_whose_digits_were_changed_are_not_believed(tmp_path):
    run = run_directory.create(tmp_path, Config())
    run_directory.write_summary(run, {"reward": 0.125})
    run.summary.write_text(run.summary.read_text().replace("0.125", "0.135"))
    with pytest.raises(InputError, match="was changed since it was written"):
        run_directory.read_summary(run)
    run_directory.write_summary(run, {"reward": 0.125})
    run.summary.write_text(run.summary.read_text().replace("sha256", "sha25v"))
    with pytest.raises(InputError, match="was changed since it was written"):
        run_directory.read_summary(run)
    append_metrics(run.metrics, rows(8) + rows(16))
    lines = run.metrics.read_text().splitlines()
    run.metrics.write_text("\n".join([lines[0], lines[1].replace('"step": 8', '"step": 9'), *lines[2:]]) + "\n")
    with pytest.raises(InputError, match="line 2 is not a row of metrics"):
        read_metrics(run.metrics)
    run.metrics.write_text("\n".join([lines[0], lines[1].replace('"crc"', '"cRc"'), *lines[2:]]) + "\n")
    with pytest.raises(InputError, match="line 2 is not a row of metrics"):
        read_metrics(run.metrics)
    document = json.loads(run.config.read_text())
    document["config"]["training"]["steps"] += 1  # no fingerprint holds it
    run.config.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"config\.json was changed since it was written"):
        run_directory.open_run(tmp_path)


def test_a_full_disk_is_said_and_what_was_there_stays(tmp_path):
    run = run_directory.create(tmp_path, Config())
    session(run, 0, [])
    before = run.summary.read_bytes()
    faults = Faults(1, "full", 0)
    with faults.installed(), pytest.raises(InputError, match="cannot write"):
        run_directory.write_summary(run, {"reward": 9.0})
    assert run.summary.read_bytes() == before
