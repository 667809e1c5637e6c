"""Sweeps whose workers and parents are killed, and processes that meet in one folder: the results are those of a quiet sweep."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.reliability.campaign import Outcome, folder, whole
from tests.reliability.runs import TINY, _program, _timeless, facts, judged, reference, server, train
from tests.reliability.server import Ended

pytestmark = [pytest.mark.timeout(0)]


def plan() -> Path:
    path = folder() / "kills.toml"
    grid = '[grid]\n"environment.max_len" = [4, 5]\n"agent.learning_rate" = [1e-3, 3e-3]\n[data]'
    path.write_text('budget = "tiny"\n' + TINY.read_text().replace("[data]", grid))
    return path


def sweep(out: Path):
    return server().start("sweep", plan(), "--out", out, "--workers", 1)


def results(out: Path) -> dict[str, object]:
    found = {}
    for path in sorted(out.glob("*/result.json")):
        document = _timeless(json.loads(path.read_text()))
        rows = [_timeless(json.loads(line)) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        found[path.parent.name] = [document, rows]
    return found


def quiet() -> dict[str, object]:
    out = folder() / f"sweep-{_program()}"
    if not (out / "done").exists():
        shutil.rmtree(out, ignore_errors=True)
        command, most = sweep(out), 0.0
        while command.server.wait(command.pid, 0.1) is None:
            most = max(most, computed(out))
        ended = command.wait(1)
        assert ended.status == 0, ended.said
        (out / "done").write_text(str(most))
    return results(out)


def workers(out: Path) -> list[int]:
    """Return the process ids of a sweep's workers, by what they were started with."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"dsrm_jax.sweep.worker" in words and os.fsencode(out) in words:
            found.append(int(path.parent.name))
    return found


def computed(out: Path) -> float:
    """Return the seconds that a sweep's workers have computed for."""
    found = 0.0
    for pid in workers(out):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def trial(number: int) -> Outcome:
    """Kill a worker, the parent or both, or send the parent a signal, once or twice, and run the same command to its end."""
    want = quiet()
    rng = random.Random(number)
    out = folder() / f"swept-{number}"
    shutil.rmtree(out, ignore_errors=True)
    hits = []
    for _ in range(rng.choice((1, 1, 2))):
        whom = rng.choice(("worker", "parent", "both")) if number < 20 else rng.choice(("SIGTERM", "SIGINT", "SIGHUP"))
        most = rng.uniform(0.1, 0.95) * float((folder() / f"sweep-{_program()}" / "done").read_text())
        while True:  # until it is stopped before its end
            command = sweep(out)
            while computed(out) < most and command.server.wait(command.pid, 0.05) is None:
                pass
            if workers(out) and command.server.wait(command.pid, 0) is None:
                break
            command.wait(60)
            shutil.rmtree(out)
            most /= 2
        done = len(list(out.glob("*/result.json")))
        if whom in ("worker", "both"):
            for pid in workers(out):
                os.kill(pid, signal.SIGKILL)
        if whom != "worker":
            command.send(getattr(signal, whom, signal.SIGKILL))
        ended = command.wait(400 if whom == "worker" else 60)
        if ended.status is None or "Traceback" in ended.said or ended.status not in (0, 2, -9, 129, 130, 143):
            kind = "hang" if ended.status is None else "traceback"
            return Outcome(kind, f"{whom}: {ended.status}: {ended.said[-200:]}")
        deadline = time.monotonic() + 30
        while workers(out) and time.monotonic() < deadline:
            time.sleep(0.1)
        if workers(out):
            return Outcome("hang", f"{whom}: a worker lives on")
        hits.append(f"{whom} killed after {done} of 4 points")
    ended = sweep(out).wait(600)
    if ended.status != 0:
        return Outcome("silent", f"not finished: {ended.status}: {ended.said[-200:]}")
    if results(out) != want:
        return Outcome("silent", f"{sorted(results(out))} differ")
    shutil.rmtree(out)
    return Outcome("exact", ", then ".join(hits))


@pytest.mark.slow
def test_killed_sweeps():
    """The first 20 by SIGKILL, the others by signals to the parent."""
    whole("kills: of a sweep's worker, parent or both", trial, 25)


def meeting(number: int) -> Outcome:
    """Start two processes at once: in one run directory, or in two beside one cache that both must fill."""
    want = facts(reference())
    apart = number % 2 == 1
    outs = [folder() / f"meets-{number}-{i if apart else 0}" for i in range(2)]
    for out in outs:
        shutil.rmtree(out, ignore_errors=True)
    cache = folder() / f"meets-cache-{number}"
    shutil.rmtree(cache, ignore_errors=True)
    if not apart:
        cache = folder() / "cache"
    rng = random.Random(number)
    commands = []
    for out in outs:
        commands.append(server().start(*train(out), XDG_CACHE_HOME=str(cache)))
        time.sleep(rng.choice((0, 0.05, 1.5)))
    ended = [command.wait(600) for command in commands]
    outcomes = [_met(out, end) for out, end in zip(outs, ended, strict=True)]
    bad = [outcome for outcome in outcomes if outcome.kind in ("silent", "traceback", "hang")]
    if bad:
        return bad[0]
    if not apart and sum(outcome.kind == "refused" for outcome in outcomes) > 1:
        return Outcome("silent", "both were refused")
    same = all(facts(out) == want for out in outs)
    for path in (*outs, *([cache] if apart else [])):
        shutil.rmtree(path, ignore_errors=True)
    return (
        (outcomes[0] if outcomes[0].kind == "refused" else outcomes[1]) if same else Outcome("silent", "facts differ")
    )


def _met(out: Path, ended: Ended) -> Outcome:
    if ended.status == 2 and "another process is training in" in ended.said:
        return Outcome("refused", ended.said.strip().splitlines()[-1])
    return judged(out, ended)


@pytest.mark.slow
def test_processes_that_meet():
    whole("two processes in one run directory, or on one cache", meeting, 10)
