"""Run the groups of a sweep over worker processes: one per core, restarted when killed, nothing run twice."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from dsrm_jax.config.serialise import from_json
from dsrm_jax.errors import InputError
from dsrm_jax.files import from_json_value, load_sealed, sealed, write_text
from dsrm_jax.progress import Report, Silent, steps
from dsrm_jax.purify.settings import at_defaults
from dsrm_jax.runs.lock import held
from dsrm_jax.sweep.plan import Plan, Point, expand, group, points_json
from dsrm_jax.types import Json, Say

STAGE_ONE = "stage-one"  # folder in that of the sweep, while it runs: what its workers share (`runs.handover`)
ATTEMPTS = 2  # a group that kills its worker this often is reported and left
LIFE = 64  # groups of one worker: then another takes its place; JAX keeps 0.15 MB of each, of `jnp.einsum`'s up to 2,048 calls
SILENT = 3600.0  # seconds of one group after which it is said, if that is also ten times as long as any group before it


def run_plans(plans: Sequence[Plan], folder: Path, *, workers: int, say: Say) -> list[list[Json]]:
    """Run the points of several plans as one sweep, so that what they share is made once; return each plan's results.

    Raises:
        InputError: as `run_points`, or some plans validate and others do not.
    """
    validate = {plan.validate for plan in plans}
    if len(validate) > 1:
        raise InputError("some of these sweep files validate and others do not: run them apart")
    every = [expand(plan) for plan in plans]
    together = {point.name: point for points in every for point in points}
    results = run_points(list(together.values()), folder, validate=validate.pop(), workers=workers, say=say)
    by_name = {result["name"]: result for result in results}
    return [[by_name[p.name] | {"values": p.values} for p in points if p.name in by_name] for points in every]


def run_points(points: Sequence[Point], folder: Path, *, validate: bool, workers: int, say: Say) -> list[Json]:
    """Run every point that has no result yet, and return all results in the points' order.

    The sweep's folder is made if absent; what was run in it before under the same names counts as finished. `validate`: evaluate
    on validation sessions in the training simulator. `workers` are processes, each on a core of its own; 0: one per core. Each
    result is what the `result.json` of a point holds; points that failed are left out, and were reported.

    Raises:
        InputError: there is no point, or the folder holds other files, is another sweep's at work or cannot be written.
    """
    if not points:
        raise InputError("the grid has no point: give every field at least one value")
    if workers < 0:
        raise InputError(f"--workers is {workers}, expected 0 (one per core) or more")
    _make_folder(folder)
    busy = f"another sweep is running in {folder}: wait for it, or choose another --out"
    with held(folder / ".lock", busy=busy, advice="choose another --out"):  # its workers would read this one's groups
        _forget_stage_one(folder)
        document = {"validate": validate, "points": points_json(points)}
        write_text(folder / "plan.json", json.dumps(sealed(document)) + "\n")
        unfinished = [p for p in points if not (folder / p.name / "result.json").exists()]
        groups = sorted(group(unfinished), key=lambda members: _affinity(members[0]))
        if unfinished:
            before = len(points) - len(unfinished)
            say(f"{len(points)} points, {before} of them finished before; {len(groups)} programs to run")
            _write_groups(folder, groups, validate=validate)
            _Pool(folder, groups, workers or cores(), say).run()
            _forget_stage_one(folder)
    paths = [folder / point.name / "result.json" for point in points]
    results = [from_json_value(load_sealed(path)) for path in paths if path.exists()]
    check_one_log(points, results, folder)
    return results


def check_one_log(points: Sequence[Point], results: Sequence[Json], folder: Path) -> None:
    """Refuse results of points that ask for the same data and did not get the same: a file changed while the sweep was away."""
    configs = {point.name: point.config for point in points}
    logs: dict[str, dict[str, str]] = {}
    for result in results:
        config = configs[result["name"]]
        asked = repr((config.data, config.synthetic))
        logs.setdefault(asked, {}).setdefault(result.get("data_digest", ""), result["name"])
    for found in logs.values():
        names = [name for digest, name in found.items() if digest]  # earlier versions wrote none
        if len(names) > 1:
            raise InputError(
                f"{folder} holds results of two logs, {names[0]} of one and {names[1]} of another: the data changed between. "
                "Remove the older ones and run the sweep again, or choose another --out"
            )


def _forget_stage_one(folder: Path) -> None:
    """Remove what an earlier sweep's workers shared: data or program may have changed since."""
    shutil.rmtree(folder / STAGE_ONE, ignore_errors=True)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_groups(folder: Path) -> tuple[list[list[Point]], bool]:
    """Return the groups that `run_points` wrote for its workers, and whether they validate."""
    document = load_sealed(folder / "groups.json")
    groups = [
        [Point(p["name"], p["values"], from_json(p["config"], "groups.json")) for p in members]
        for members in document["groups"]
    ]
    return groups, document["validate"]


def _affinity(point: Point) -> tuple[str, ...]:
    """Return what neighbours in the queue should share, since a worker keeps Stage I of what it did before, and its programs."""
    config = point.config
    stage_one = repr(config.synthetic), repr(config.encoder), repr(at_defaults(config.purifier))
    return (config.data.env, *stage_one, config.agent.method, repr(config.environment), repr(config))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror or error}; choose another --out") from error
    if others and not (folder / "plan.json").exists():
        raise InputError(f"{folder} is not empty and holds no sweep (no plan.json): choose a new or empty --out")


def _write_groups(folder: Path, groups: Sequence[Sequence[Point]], *, validate: bool) -> None:
    document = {"validate": validate, "groups": [points_json(members) for members in groups]}
    write_text(folder / "groups.json", json.dumps(sealed(document)) + "\n")


class _Pool:
    """Threads that each keep one worker process busy with the groups of a shared queue."""

    def __init__(self, folder: Path, groups: Sequence[Sequence[Point]], workers: int, say: Say) -> None:
        self.folder, self.groups, self.say = folder, groups, say
        self.queue = deque(range(len(groups)))
        self.attempts = [0] * len(groups)
        self.lock = threading.Lock()
        self.workers = min(workers, len(groups))
        self.finished = 0
        self.shown: Report = Silent()
        self.processes: dict[int, subprocess.Popen[str]] = {}
        self.asked: dict[int, tuple[int, float]] = {}  # of each worker: group, since when
        self.longest = 0.0
        self.stopped = False

    def run(self) -> None:
        """Work until the queue is empty; an interrupt stops the workers and is raised again."""
        with steps("sweep", len(self.groups)) as self.shown:
            self._work()

    def _work(self) -> None:
        threads = [threading.Thread(target=self._serve, args=(i,), daemon=True) for i in range(self.workers)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.5)
                    self._watch()
        except BaseException:
            self.stopped = True
            for process in list(self.processes.values()):
                process.kill()
            raise

    def _watch(self) -> None:
        """Say, once, which worker has been silent for long: nobody else could tell one that computes for ever."""
        with self.lock:
            for worker, (index, since) in list(self.asked.items()):
                seconds = time.monotonic() - since
                if seconds > max(SILENT, 10 * self.longest):
                    self.asked.pop(worker, None)
                    pid = self.processes[worker].pid
                    text = (
                        f"no answer for {seconds / 60:.0f} min; if it hangs, kill process {pid} and it is tried again"
                    )
                    self._say(index, text, counts=False)

    def _next(self, worker: int) -> int | None:
        """Take from one end or the other, so that neighbours in the queue meet the same worker."""
        with self.lock:
            if not self.queue or self.stopped:
                return None
            return self.queue.popleft() if worker % 2 == 0 else self.queue.pop()

    def _serve(self, worker: int) -> None:
        process, asked = None, 0
        while (index := self._next(worker)) is not None:
            process = process or self._start(worker)
            self.asked[worker] = index, (since := time.monotonic())
            answer = self._ask(process, index)
            self.asked.pop(worker, None)
            self.longest = max(self.longest, time.monotonic() - since if answer else 0.0)
            asked += 1
            if answer is not None and asked % LIFE == 0:
                self._let_go(process)
            if answer is None or asked % LIFE == 0:
                process = None
            self._record(index, answer)
        self._let_go(process)

    @staticmethod
    def _let_go(process: subprocess.Popen[str] | None) -> None:
        """End a worker that has answered all it was asked."""
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.wait()

    def _start(self, worker: int) -> subprocess.Popen[str]:
        core = str(worker if self.workers > 1 else -1)
        with (self.folder / f"worker-{worker}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dsrm_jax.sweep.worker", str(self.folder), core],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which stops its workers
            )
        self.processes[worker] = process
        return process

    @staticmethod
    def _ask(process: subprocess.Popen[str], index: int) -> Json | None:
        """Return the worker's answer, or None where it died."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{index}\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            process.kill()
            process.wait()
            return None

    def _record(self, index: int, answer: Json | None) -> None:
        with self.lock:
            if self.stopped:
                return
            if answer is None:
                self.attempts[index] += 1
                again = self.attempts[index] < ATTEMPTS
                if again:
                    self.queue.append(index)
                self._say(index, "its worker died" + ("; once more" if again else "; left out"), counts=not again)
            elif "failed" in answer:
                self._say(index, f"FAILED: {answer['failed']}")
            else:
                done = answer["done"]
                seconds = sum(result["seconds"] for result in done)
                length, reward, broken = (_range(done, *m) for m in (("length", 2), ("reward", 3), ("broken", 2)))
                points = f" of {len(done)} points" if len(done) > 1 else ""
                self._say(index, f"Len {length}, R_each {reward}, p {broken}{points}, {seconds:.0f} s")

    def _say(self, index: int, text: str, *, counts: bool = True) -> None:
        self.finished += counts
        point = self.groups[index][0].config
        name = f"{point.data.env} {point.agent.method} max_len {point.environment.max_len}"
        with self.shown.apart():
            self.say(f"[{self.finished}/{len(self.groups)}] {name}: {text}")
        self.shown(self.finished)


def _range(results: Sequence[Json], name: str, digits: int) -> str:
    """Return all results' range, and not the best: held-out sessions choose nothing."""
    ends = {f"{end(result[name] for result in results):.{digits}f}": None for end in (min, max)}
    return " to ".join(ends)
