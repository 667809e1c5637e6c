"""Hours of serving and sweeping: every answer is the right one, and memory, files and threads do not grow."""

import gc
import json
import os
import random
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import linregress

from dsrm_jax.serving.load import ExportedPolicy, load_policy
from tests.reliability.campaign import Outcome, folder, whole
from tests.reliability.policies import K, expected, packed
from tests.reliability.runs import TINY, server

pytestmark = [pytest.mark.timeout(0)]
THREADS, USERS = 4, 250
MINUTES = float(os.environ.get("DSRM_MINUTES", 0.1))


def policy() -> ExportedPolicy:
    path = folder() / "served.dsrm"
    path.write_bytes(packed({}))
    return load_policy(path)


def histories(rng: random.Random, users: int) -> list[list[tuple[int, bool]]]:
    return [[(rng.randrange(18) * 10 + 5, rng.random() < 0.5) for _ in range(rng.randrange(9))] for _ in range(users)]


def serve(served: ExportedPolicy, seed: int, calls: int, wrong: list[str]) -> None:
    """Ask for users' items, again and again, and compare each answer with its closed form."""
    rng = random.Random(seed)
    for _ in range(calls):
        asked = histories(rng, USERS)
        k = rng.choice((1, K, K + 1))
        found = served.recommend(asked, k=k)
        for user, history in enumerate(asked):
            want = expected(history, min(k, K))
            have = found[user][: len(want)]
            if have != want:
                wrong.append(f"{history}: {have}, not {want}")
                return


def measured() -> dict[str, float]:
    """Return what may grow: resident memory in MB, open files, threads."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return {"memory": memory, "files": len(os.listdir("/proc/self/fd")), "threads": len(os.listdir("/proc/self/task"))}


def grows(rows: list[dict[str, float]]) -> str:
    """Return what grew from turn to turn, by the slope of a line through the later two thirds; nothing where none did.

    Memory may rise by less than 2 MB over all turns, or in no proof of a slope (two-sided p of 1 %).
    """
    late = rows[len(rows) // 3 :]
    for name in late[0]:
        line = linregress(range(len(late)), [row[name] for row in late])
        rise = line.slope * len(late)
        if rise > (2.0 if name == "memory" else 0.5) and line.pvalue < 0.01:
            return f"{name} grew by {rise:.2f} over {len(late)} turns ({late[0][name]:.1f} to {late[-1][name]:.1f})"
    return ""


def turn(served: ExportedPolicy, number: int, calls: int) -> list[str]:
    """Let some threads ask at once."""
    wrong: list[str] = []
    threads = [threading.Thread(target=serve, args=(served, number * 100 + i, calls, wrong)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def test_threads_get_the_right_answers():
    assert turn(policy(), 0, 3) == []


def test_a_slope_is_seen_and_noise_is_not():
    rng = np.random.default_rng(0)
    flat = [{"memory": 100 + rng.normal(), "files": 9, "threads": 5} for _ in range(60)]
    assert grows(flat) == ""
    assert "memory grew" in grows([row | {"memory": row["memory"] + i} for i, row in enumerate(flat)])
    assert "files grew" in grows([row | {"files": 9 + i // 20} for i, row in enumerate(flat)])


@pytest.mark.slow
def test_a_million_recommendations():
    """Each trial is 20,000 users' lists, asked for by four threads at once."""
    served = policy()

    def trial(number: int) -> Outcome:
        wrong = turn(served, number, 20)
        return Outcome("silent", wrong[0]) if wrong else Outcome("exact")

    whole("long runs: 20,000 recommendations from four threads", trial, 50)


@pytest.mark.slow
def test_serving_does_not_grow():
    served = policy()
    kept = folder() / "growth.json"
    until, rows, number = time.monotonic() + MINUTES * 60, [], 0
    while time.monotonic() < until or number < 30:
        assert turn(served, number, 2) == []
        rows.append(measured())
        number += 1
    kept.write_text(json.dumps({"minutes": MINUTES, "turns": number, "first": rows[0], "last": rows[-1]}))
    found = grows(rows)
    whole(
        f"long runs: serving for {MINUTES:g} minutes, growth",
        lambda _: Outcome("silent", found) if found else Outcome("exact", json.dumps(rows[-1])),
        1,
    )


def sweeping(argv: list[str]) -> None:
    """Train and evaluate the points of a small grid in this process, again and again, and write what grew."""
    from dsrm_jax.runs.memory import Memory
    from dsrm_jax.sweep.group import run_group
    from dsrm_jax.sweep.plan import expand, group, load_plan

    place, minutes = Path(argv[0]), float(argv[1])
    groups = group(expand(load_plan(place / "plan.toml")))
    memory: Memory = {}
    until, rows = time.monotonic() + minutes * 60, []
    while time.monotonic() < until or len(rows) < 30:
        for members in groups:
            run_group(members, place / "sweep", memory, lambda text: None, validate=False)
        rows.append(measured())
    (place / "rows.json").write_text(json.dumps(rows))


def write_plan(place: Path) -> None:
    text = TINY.read_text().replace("[data]", '[grid]\n"agent.learning_rate" = [1e-3, 3e-3]\n[data]')
    (place / "plan.toml").write_text('budget = "tiny"\n' + text)


@pytest.mark.slow
def test_sweeping_does_not_grow():
    place = folder() / "sweeping"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    write_plan(place)
    minutes = MINUTES
    ended = server().run(place, minutes, call="tests.reliability.test_long:sweeping", seconds=minutes * 60 + 600)
    assert ended.status == 0, ended.said[-500:]
    rows = json.loads((place / "rows.json").read_text())
    found = grows(rows)
    whole(
        f"long runs: sweeping for {minutes:g} minutes, growth",
        lambda _: Outcome("silent", found) if found else Outcome("exact", json.dumps(rows[-1])),
        1,
    )
