"""Hours of serving and sweeping: every answer is the right one, and memory, files and threads do not grow."""

import contextlib
import gc
import json
import os
import random
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import linregress, t

from dsrm_jax.serving.load import ExportedPolicy, load_policy
from dsrm_jax.sweep import pool
from dsrm_jax.sweep.plan import expand, load_plan
from tests.reliability.campaign import Outcome, folder, is_whole, whole
from tests.reliability.policies import K, expected, packed
from tests.reliability.runs import TINY, reference, server
from tests.reliability.test_sweeps import workers

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


MOST = {"memory": 2.0, "files": 0.5, "threads": 0.5}  # MB or pieces that may come before it counts as growth
BLOCKS = 20


def slopes(rows: list[dict[str, float]]) -> dict[str, tuple[float, float, float]]:
    """Return what comes in an hour, and its interval of 95 %, of each quantity.

    Of the later two thirds of the rows, in which all is compiled; through the means of blocks, since rows that follow each other
    are alike, and a line through them would be too sure of itself.
    """
    late = rows[len(rows) // 3 :]
    found = {}
    for name in MOST:
        hours, values = (np.array([row[x] for row in late]) for x in ("hours", name))
        means = [[block.mean() for block in np.array_split(x, min(BLOCKS, len(late)))] for x in (hours, values)]
        line = linregress(*means)
        half = np.nan_to_num(line.stderr) * t.ppf(0.975, len(means[0]) - 2)  # nan: of one value
        found[name] = line.slope, line.slope - half, line.slope + half
    return found


def grows(rows: list[dict[str, float]]) -> str:
    """Return what grew: by more than `MOST` in the time measured, with an interval above zero; nothing where nothing did."""
    span = rows[-1]["hours"] - rows[len(rows) // 3]["hours"]
    grown = [name for name, (slope, low, _) in slopes(rows).items() if slope * span > MOST[name] and low > 0]
    return f"{', '.join(grown)} grew: {in_words(rows)}" if grown else ""


def in_words(rows: list[dict[str, float]]) -> str:
    found = [f"{name} {mid:+.2f} [{low:+.2f}, {high:+.2f}]" for name, (mid, low, high) in slopes(rows).items()]
    memory = f"memory {rows[len(rows) // 3]['memory']:.0f} to {rows[-1]['memory']:.0f} MB"
    return f"{rows[-1]['hours'] * 60:.0f} min, an hour brings {', '.join(found)}; {memory}"


def settled(name: str, rows: list[dict[str, float]], done: str, grown: str = "") -> None:
    """Write the row of a long run into the table; `grown`: what else grew."""
    found = grown or grows(rows)
    outcome = Outcome("silent", f"{done}; {found}") if found else Outcome("exact", f"{done}; {in_words(rows)}")
    whole(f"long runs: {name}", lambda _: outcome, 1)


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
    flat = [{"hours": i / 60, "memory": 100 + rng.normal(), "files": 9, "threads": 5} for i in range(60)]
    assert grows(flat) == ""
    rising = [row | {"memory": row["memory"] + 30 * row["hours"]} for row in flat]
    assert "memory grew" in grows(rising)
    slope, low, high = slopes(rising)["memory"]
    assert low < 30 < high
    assert abs(slope - 30) < 3
    assert "files grew" in grows([row | {"files": 9 + i // 20} for i, row in enumerate(flat)])


@pytest.mark.slow
def test_a_million_recommendations():
    """Each trial is 20,000 users' lists, asked for by four threads at once."""
    served = policy()

    def trial(number: int) -> Outcome:
        wrong = turn(served, number, 20)
        return Outcome("silent", wrong[0]) if wrong else Outcome("exact")

    whole("long runs: 20,000 recommendations from four threads", trial, 50)


A_SECOND = 50.0  # requests, of all threads together


def asking(served: list[ExportedPolicy], seed: int, until: float, answered: list[int], wrong: list[str]) -> None:
    """Ask for a few users' items so many times a second: of the policy in closed form, and of one that was trained."""
    rng = random.Random(seed)
    small, trained = served
    ids = trained.item_ids[trained.catalogue].tolist()
    known = [[(item, rng.random() < 0.5) for item in rng.sample(ids, rng.randrange(20))] for _ in range(20)]
    first = [trained.recommend([history])[0] for history in known]
    at = time.monotonic()
    while time.monotonic() < until and not wrong:
        users = rng.randrange(1, 20)
        if rng.random() < 0.5:
            asked = histories(rng, users)
            want = [expected(history, K) for history in asked]
            found = small.recommend(asked, k=K)
            have = [found[user][: len(want[user])] for user in range(users)]
        else:
            rows = rng.choices(range(len(known)), k=users)
            want = [first[row] for row in rows]
            found = trained.recommend([known[row] for row in rows])
            have = [found[user] for user in range(users)]
        if have != want:
            wrong.append(f"{have}, not {want}")
        answered[seed] += users
        at = max(at + THREADS / A_SECOND, time.monotonic() - 1)  # a machine that was busy is not chased after
        time.sleep(max(0.0, at - time.monotonic()))


@pytest.mark.slow
def test_serving_does_not_grow():
    path = folder() / "trained.dsrm"
    ended = server().run("export", reference(), "--out", path, seconds=300)
    assert ended.status == 0, ended.said
    served = [policy(), load_policy(path)]
    begun = time.monotonic()
    until = begun + MINUTES * 60
    answered, wrong, rows = [0] * THREADS, list[str](), list[dict[str, float]]()
    threads = [threading.Thread(target=asking, args=(served, i, until, answered, wrong)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    with (folder() / "serving.rows").open("w") as kept:
        while any(thread.is_alive() for thread in threads):
            time.sleep(max(MINUTES / 6, 0.01))
            rows.append(measured() | {"hours": (time.monotonic() - begun) / 3600, "lists": sum(answered)})
            kept.write(json.dumps(rows[-1]) + "\n")
            kept.flush()
    assert not wrong, wrong[0]
    rows = rows[:-1]  # in which threads may have ended
    settled(
        "an hour of serving", rows, f"{sum(answered):,} lists of {THREADS} threads at {A_SECOND:g} requests a second"
    )


WORKERS = 4  # one after the other
LIFE = int(os.environ.get("DSRM_LIFE", pool.LIFE if is_whole() else 2))  # groups of each
BOUND = 0.02  # of what the second one took at most, the first makes Stage I as well: what a later one may take more


def sweeping(argv: list[str]) -> None:
    """Run a sweep whose groups compile a program each, and write what this process and its workers take, once a second."""
    place = Path(argv[0])
    pool.LIFE = LIFE
    threading.Thread(target=watching, args=(place,), daemon=True).start()
    pool.run_points(expand(load_plan(place / "plan.toml")), place / "sweep", validate=False, workers=1, say=print)


def watching(place: Path) -> None:
    begun = time.monotonic()
    with (place / "rows").open("w") as kept:
        while True:
            row = measured() | {"hours": (time.monotonic() - begun) / 3600, "workers": peaks(workers(place / "sweep"))}
            kept.write(json.dumps(row) + "\n")
            kept.flush()
            time.sleep(1)


def peaks(pids: list[int]) -> dict[int, float]:
    """Return the most resident memory that processes had, in MB."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            said = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            found |= {pid: int(said[1]) / 1e3} if said else {}
    return found


@pytest.mark.slow
def test_a_sweep_of_replaced_workers_does_not_grow():
    place = folder() / "sweeping"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    bounds = [0.3 + i / 10_000 for i in range(LIFE * WORKERS)]  # a constant of the program: each compiles anew
    grid = f'[grid]\n"environment.ad_bound" = {bounds}\n[data]'
    (place / "plan.toml").write_text('budget = "tiny"\n' + TINY.read_text().replace("[data]", grid))
    environ = {"XDG_CACHE_HOME": str(place / "cache"), "DSRM_LIFE": str(LIFE)}
    ended = server().run(place, call="tests.reliability.test_long:sweeping", seconds=90 * len(bounds), **environ)
    assert ended.status == 0, ended.said[-500:]
    assert len(list((place / "sweep").glob("*/result.json"))) == len(bounds), ended.said[-500:]
    rows = [json.loads(line) for line in (place / "rows").read_text().splitlines()]
    most = {pid: peak for row in rows for pid, peak in row["workers"].items()}  # the last of each
    taken = list(most.values())
    said = f"{len(bounds)} groups, {LIFE} of each worker, which took at most {', '.join(f'{x:.0f}' for x in taken)} MB"
    assert len(taken) == WORKERS, said
    settled("sweeping, workers replaced", rows, said, "" if max(taken[1:]) < (1 + BOUND) * taken[1] else "workers grew")
