"""The pool against a worker of a few lines that finishes, fails, or is killed on demand: no point runs twice."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from dsrm_jax.cli import main as cli
from dsrm_jax.cli.commands import Command
from dsrm_jax.config import Config
from dsrm_jax.errors import InputError
from dsrm_jax.runs.lock import held
from dsrm_jax.runs.memory import MOST, Memory, once
from dsrm_jax.sweep import pool
from dsrm_jax.sweep.plan import Plan, expand

# Behaves as the group's max_len says: 1 fails, 2 dies the first time, 3 dies always, others finish.
WORKER = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
groups = json.loads((folder / "groups.json").read_text())["groups"]
for line in sys.stdin:
    (point,) = groups[int(line)]
    length = point["config"]["environment"]["max_len"]
    with (folder / "calls.txt").open("a") as calls:
        calls.write(f"{length}\\n")
    seen = (folder / "calls.txt").read_text().split().count(str(length))
    if length == 3 or (length == 2 and seen == 1):
        os._exit(9)
    if length == 1:
        print(json.dumps({"failed": "no such thing"}), flush=True)
        continue
    (folder / point["name"]).mkdir()
    result = {"name": point["name"], "max_len": length, "low": "NaN"}
    (folder / point["name"] / "result.json").write_text(json.dumps(result))
    brief = {"length": length, "reward": 0.5, "broken": 0.0, "seconds": 1.0}
    print(json.dumps({"done": [brief]}), flush=True)
"""


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Start the stand-in instead of a worker; return what reads which groups were begun."""

    def start(self, worker):
        command = [sys.executable, "-c", WORKER, str(self.folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.processes[worker] = process
        return process

    monkeypatch.setattr(pool._Pool, "_start", start)
    return lambda: sorted(map(int, (tmp_path / "sweep" / "calls.txt").read_text().split()))


def sweep(tmp_path, lengths, *, workers=2):
    lines = []
    plan = Plan(Config(), {"environment.max_len": tuple(lengths)})
    (results,) = pool.run_plans([plan], tmp_path / "sweep", workers=workers, say=lines.append)
    return [r["max_len"] for r in results], lines


@pytest.mark.parametrize("workers", [1, 3])
def test_every_point_runs_once_and_results_come_in_the_grids_order(tmp_path, calls, workers):
    found, lines = sweep(tmp_path, [40, 10, 30, 20], workers=workers)
    assert found == [40, 10, 30, 20]
    assert calls() == [10, 20, 30, 40]
    assert sum(line.startswith("[4/4]") for line in lines) == 1


def test_finished_points_are_not_run_again_and_new_ones_are(tmp_path, calls):
    sweep(tmp_path, [10, 20])
    found, lines = sweep(tmp_path, [10, 20, 30])
    assert found == [10, 20, 30]
    assert calls() == [10, 20, 30]
    assert lines[0].startswith("3 points, 2 of them finished before")


def test_a_killed_worker_is_replaced_and_its_point_runs_once_more(tmp_path, calls):
    found, lines = sweep(tmp_path, [2, 10, 20])
    assert sorted(found) == [2, 10, 20]
    assert calls() == [2, 2, 10, 20]
    assert any("worker died; once more" in line for line in lines)


def test_a_point_that_always_kills_or_fails_is_reported_and_stops_no_other(tmp_path, calls):
    found, lines = sweep(tmp_path, [3, 1, 10, 20], workers=1)
    assert found == [10, 20]
    assert calls() == [1, 3, 3, 10, 20]
    assert any("FAILED: no such thing" in line for line in lines)
    assert any("worker died; left out" in line for line in lines)
    assert "[4/4]" in lines[-1]


def test_a_worker_is_replaced_after_its_life_and_nothing_is_lost(tmp_path, calls, monkeypatch):
    started, start = [], pool._Pool._start
    monkeypatch.setattr(pool, "LIFE", 2)
    monkeypatch.setattr(pool._Pool, "_start", lambda self, worker: started.append(start(self, worker)) or started[-1])
    found, _ = sweep(tmp_path, [10, 20, 30, 40, 50], workers=1)
    assert found == [10, 20, 30, 40, 50]
    assert calls() == [10, 20, 30, 40, 50]
    assert [process.wait(60) for process in started] == [0, 0, 0]


def test_a_process_remembers_the_last_few_of_each_kind():
    memory: Memory = {}
    made = []
    for key in [("log", 0), ("world", 0), *(("log", i) for i in range(1, MOST)), ("log", 0), ("log", MOST)]:
        assert once(memory, key, lambda key=key: made.append(key) or key) == key
    kept = [("log", i) for i in (*range(2, MOST), 0, MOST)]
    assert list(memory) == [("world", 0), *kept]
    assert made.count(("log", 0)) == 1


def test_results_of_two_logs_are_never_one_table():
    """The file was changed while the sweep was away; points that ask for other data may have other data."""
    first, second = expand(Plan(Config(), {"environment.max_len": (10, 20)}))
    other = replace(second, config=replace(second.config, data=replace(second.config.data, seed=5)))

    def results(*digests):
        return [{"name": p.name, "data_digest": d} for p, d in zip((first, second), digests, strict=True)]

    pool.check_one_log([first, second], results("a", "a"), Path("out"))
    pool.check_one_log([first, second], results("a", ""), Path("out"))  # of an earlier version, which wrote none
    pool.check_one_log([first, other], results("a", "b"), Path("out"))
    with pytest.raises(InputError, match=rf"out holds results of two logs, {first.name} of one and {second.name} of"):
        pool.check_one_log([first, second], results("a", "b"), Path("out"))


def test_infinities_and_nan_come_back_as_numbers(tmp_path, calls):
    plan = Plan(Config(), {"environment.max_len": (10,)})
    ((result,),) = pool.run_plans([plan], tmp_path / "sweep", workers=1, say=lambda line: None)
    assert result["low"] != result["low"]


def test_a_folder_with_other_files_is_refused_untouched(tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty and holds no sweep"):
        pool.run_plans([Plan(Config(), {})], tmp_path / "sweep", workers=1, say=print)
    assert [p.name for p in (tmp_path / "sweep").iterdir()] == ["mine.txt"]


def test_the_groups_that_workers_read_are_the_points(tmp_path):
    points = pool.expand(Plan(Config(), {"agent.clip": (0.1, 0.2), "environment.max_len": (30, 50)}))
    pool._write_groups(tmp_path, pool.group(points), validate=True)
    groups, validate = pool.read_groups(tmp_path)
    assert validate
    assert groups == pool.group(points)
    assert json.loads((tmp_path / "groups.json").read_text())["validate"] is True


def test_points_that_one_program_serves_are_neighbours_in_the_queue(tmp_path, calls):
    grid = {"purifier.diffusion_steps": (5, 10, 100), "environment.max_len": (4, 5), "purifier.hidden": (32, 64)}
    pool.run_plans([Plan(Config(), grid)], tmp_path / "sweep", workers=2, say=lambda _: None)
    groups, _ = pool.read_groups(tmp_path / "sweep")
    served = [(p.config.purifier.hidden, p.config.environment.max_len) for (p,) in groups]
    assert len(served) == 12
    assert served == [pair for pair in dict.fromkeys(served) for _ in range(3)]


def test_two_sweeps_never_share_a_folder(tmp_path, calls):
    sweep(tmp_path, [10])
    before = (tmp_path / "sweep" / "groups.json").read_bytes()
    with (
        held(tmp_path / "sweep" / ".lock", busy="a sweep of the test's own"),
        pytest.raises(InputError, match=r"another sweep is running in .*sweep: wait for it"),
    ):
        sweep(tmp_path, [10, 20])
    assert (tmp_path / "sweep" / "groups.json").read_bytes() == before
    assert sweep(tmp_path, [10, 20])[0] == [10, 20]


def test_less_than_no_workers_are_refused_before_the_folder_is_made(tmp_path):
    with pytest.raises(InputError, match="--workers is -3, expected 0"):
        sweep(tmp_path, [10], workers=-3)
    assert not (tmp_path / "sweep").exists()


# A worker that never answers: it writes its number where the test finds it, and waits until its input ends or it is killed.
WAITING = """
import os, pathlib, sys, threading
line = sys.stdin.readline()
pathlib.Path(sys.argv[1], "pid.tmp").write_text(str(os.getpid()))
os.replace(pathlib.Path(sys.argv[1], "pid.tmp"), pathlib.Path(sys.argv[1], "pid"))
threading.Event().wait(60)
"""


def waiting(monkeypatch):
    """Start workers that never answer, and return them as they come."""
    started = []

    def start(self, worker):
        command = [sys.executable, "-c", WAITING, str(self.folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.processes[worker] = process
        started.append(process)
        return process

    monkeypatch.setattr(pool._Pool, "_start", start)
    return started


def test_a_worker_that_never_answers_is_told_of_and_may_be_killed(tmp_path, monkeypatch):
    started, lines = waiting(monkeypatch), []
    monkeypatch.setattr(pool, "SILENT", 0.0)

    def obey(line):
        lines.append(line)
        if found := re.search(r"no answer for 0 min; if it hangs, kill process (\d+) and", line):
            os.kill(int(found[1]), signal.SIGKILL)

    assert pool.run_plans([Plan(Config(), {})], tmp_path / "sweep", workers=1, say=obey) == [[]]
    assert ["no answer" in line for line in lines[1:]] == [True, False, True, False]
    assert "its worker died; once more" in lines[2]
    assert "its worker died; left out" in lines[4]
    assert [process.wait(30) for process in started] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_or_a_termination_of_the_command_kills_the_workers(tmp_path, monkeypatch, sent):
    started = waiting(monkeypatch)

    def signal_when_started():
        while not (tmp_path / "sweep" / "pid").exists():
            threading.Event().wait(0.02)
        os.kill(os.getpid(), sent)

    threading.Thread(target=signal_when_started, daemon=True).start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # parallel test processes ignore it
    monkeypatch.setattr(cli, "commands", lambda: {"x": Command("about", lambda _: sweep(tmp_path, [10], workers=1))})
    try:
        with pytest.raises(SystemExit, match=str(128 + sent)):
            cli.main(["x"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert started[0].wait(30) == -signal.SIGKILL


def test_a_worker_stops_where_its_input_ends_though_a_group_still_runs(tmp_path):
    script = (
        "import threading\nfrom dsrm_jax.sweep.worker import questions\n"
        "assert next(questions()) == 7\nprint('begun', flush=True)\nthreading.Event().wait(60)\nraise SystemExit(3)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write("7\n")
    process.stdin.flush()
    assert process.stdout.readline() == "begun\n"
    process.stdin.close()
    assert process.wait(30) == 0


def test_a_finished_program_shows_the_range_of_its_points_and_no_best(tmp_path):
    lines = []
    points = pool.expand(Plan(Config(), {"agent.clip": (0.1, 0.2, 0.3)}))
    running = pool._Pool(tmp_path, [points], 1, lines.append)
    done = [
        {"length": length, "reward": 0.5, "broken": broken, "seconds": 2.0}
        for length, broken in ((9.0, 0.25), (7.5, 0.0), (8.0, 0.5))
    ]
    running._record(0, {"done": done})
    assert "Len 7.50 to 9.00, R_each 0.500, p 0.00 to 0.50 of 3 points, 6 s" in lines[0]
