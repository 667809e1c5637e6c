"""Commands at the price of a fork: a process that has imported everything, and started no JAX, forks each command.

`python -m tests.reliability.server` reads a line of JSON for each command, `{"argv", "cwd", "environ", "out", "call"}`, answers
with its process id, and with its exit status once it has ended. `call` is the command line by default, or `module:function`,
which is called with `argv`.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
COMMAND = "dsrm_jax.cli.main:main"
WARM = (  # what starts threads when imported, as Polars does, is left to the commands
    *("jax", "jax.export", "optax", "flax.linen", "orbax.checkpoint", "matplotlib.pyplot", "rich.progress"),
    *("dsrm_jax.cli.pipeline", "dsrm_jax.serving.load", "dsrm_jax.serving.export", "dsrm_jax.sweep.group"),
    *("dsrm_jax.sweep.worker", "dsrm_jax.runs.kept", "dsrm_jax.parallel.processes"),
)


class Ended(NamedTuple):
    """How a command ended."""

    status: int | None  # as of `Popen.returncode`; None: it was stopped, since it took too long
    said: str  # both its outputs


class Command:
    """A command that runs."""

    def __init__(self, server: "Server", pid: int, out: Path) -> None:
        self.server, self.pid, self.out = server, pid, out

    def send(self, number: int) -> None:
        """Send it a signal; nothing where it has ended."""
        if self.server.ended.get(self.pid) is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> Ended:
        """Wait for its end, and kill it after some seconds."""
        status = self.server.wait(self.pid, seconds)
        if status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.server.wait(self.pid, 60)
        return Ended(status, self.out.read_text(errors="replace"))


class Server:
    """The process that forks commands; one for a test session."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder, self.count, self.ended = folder, 0, dict[int, int]()
        folder.mkdir(parents=True, exist_ok=True)
        here = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **here, **environ},
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text = ""

    def start(self, *argv: object, cwd: Path | None = None, call: str = COMMAND, **environ: str) -> Command:
        """Start a command."""
        self.count += 1
        out = self.folder / f"out-{self.count}"
        out.write_text("")
        words = {"argv": list(map(str, argv)), "cwd": str(cwd or self.folder), "environ": environ}
        self.process.stdin.write(json.dumps(words | {"out": str(out), "call": call}) + "\n")
        self.process.stdin.flush()
        while not (lines := self._read("pid")):
            time.sleep(0.002)
        return Command(self, lines[0]["pid"], out)

    def run(self, *argv: object, seconds: float = 120, **more: object) -> Ended:
        """Run a command to its end."""
        return self.start(*argv, **more).wait(seconds)

    def wait(self, pid: int, seconds: float) -> int | None:
        """Return the status of a command once it has ended, or None after some seconds."""
        until = time.monotonic() + seconds
        while pid not in self.ended and time.monotonic() < until:
            self._read("")
            time.sleep(0.005)
        return self.ended.get(pid)

    def _read(self, wanted: str) -> list[dict]:
        if self.process.poll() is not None:
            raise RuntimeError("the server of commands is gone")
        with contextlib.suppress(BlockingIOError):
            self.text += os.read(self.process.stdout.fileno(), 1 << 16).decode()
        *lines, self.text = self.text.split("\n")
        said = [json.loads(line) for line in lines if line.strip()]
        self.ended |= {line["ended"]: line["status"] for line in said if "ended" in line}
        return [line for line in said if wanted in line]

    def close(self) -> None:
        """End the server."""
        self.process.stdin.close()
        self.process.wait(60)


def main() -> None:
    """Serve until standard input ends."""
    from dsrm_jax.parallel.xla import set_flags, use_cores

    set_flags(os.environ)
    use_cores(os.environ)
    for name in WARM:
        importlib.import_module(name)
    from orbax.checkpoint import v1  # noqa: F401  # a module of its own that only its package can be asked for

    assert len(os.listdir("/proc/self/task")) == 1, "a process of several threads cannot be forked safely"
    signal.signal(signal.SIGCHLD, _reap)
    for line in sys.stdin:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            _run(json.loads(line))
        _say({"pid": pid})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _reap(number: int, frame: object) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say({"ended": pid, "status": os.waitstatus_to_exitcode(status)})


def _say(line: Mapping[str, int]) -> None:
    os.write(1, (json.dumps(line) + "\n").encode())


def _run(words: Mapping[str, object]) -> None:
    """Be the command: as a new process would, with its own outputs, folder and environment."""
    status = 1
    try:
        out = os.open(str(words["out"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        null = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((null, 0), (out, 1), (out, 2)):
            os.dup2(old, new)
        os.chdir(str(words["cwd"]))
        os.environ.update(words["environ"])  # type: ignore[call-overload]
        module, _, name = str(words["call"]).partition(":")
        status = _status(getattr(importlib.import_module(module), name), words["argv"])  # type: ignore[arg-type]
    finally:
        os._exit(status)


def _status(call: object, argv: Sequence[str]) -> int:
    import traceback

    try:
        call(argv)  # type: ignore[operator]
        status = 0
    except SystemExit as stop:
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
        ):  # the command has ended: what comes now meets an interpreter that ends
            signal.signal(number, signal.SIG_IGN)
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 120
    return status


if __name__ == "__main__":
    main()
