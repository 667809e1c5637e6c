"""Many processes that run one command: how they join, tell each other small things, and leave.

Every process runs the same program on its own devices (`jax.distributed`); process 0 alone writes files and prints. What they
tell each other here are short texts through JAX's coordination service, with no device in it, so a process may wait for hours
while another reads data or evaluates. Arrays travel by `sharding.from_first` and `sharding.fetch`.

With one process, which is not joined to anything, all of it does nothing but call what it was given.
"""

import atexit
import contextlib
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from rich.console import Console

from dsrm_jax.errors import InputError, first_line
from dsrm_jax.files import from_json_value, json_value
from dsrm_jax.progress import QUIET

T = TypeVar("T")

WAIT_SECONDS = 7 * 24 * 3600  # for what another process computes; one that died is noticed by its heartbeat
TURN_SECONDS = 5
HEARTBEAT_SECONDS = 60
LEAVE_SECONDS = 20
CLIENT_CALLS = ("key_value_set", "blocking_key_value_get", "wait_at_barrier")

_spoken: Counter[str] = Counter()  # how often each topic was spoken of: the coordination service takes a key once


@dataclass(frozen=True)
class Processes:
    """Other processes that work on the same run, each with its own devices (experiments/many_devices.md)."""

    distributed: bool = False
    """Join the processes of this SLURM, TPU pod or Open MPI job, which says who is who."""
    coordinator: str = ""
    """host:port of process 0, where no cluster says it; the other two options go with it."""
    num_processes: int = 0
    """How many processes there are, the same for all."""
    process_index: int = -1
    """Which of them this one is, from 0 on; process 0 writes the files and prints."""


@contextlib.contextmanager
def joined(processes: Processes) -> Iterator[None]:
    """Join the other processes before JAX starts, and leave together with them; nothing where `processes` is the default.

    An error that all processes raise (see `everywhere` and `first`) is left to process 0 to report. A process that fails alone
    leaves at once; the others notice within `HEARTBEAT_SECONDS` and are stopped by JAX.

    Raises:
        InputError: options that do not go together, no cluster, or the coordinator cannot be reached.
    """
    check_processes(processes)
    if processes == Processes():
        yield
        return
    _join(processes)
    silent = False
    try:
        silent = not is_first()  # asked now: nobody is the second any more once the processes have left each other
        if silent:
            logging.getLogger("dsrm_jax").setLevel(logging.ERROR)
            os.environ[QUIET] = "1"
        yield
    except InputError:
        if _leave(2) and silent:
            raise SystemExit(2) from None
        raise
    except SystemExit as stop:
        _leave(stop.code if isinstance(stop.code, int) else 1)
        raise
    except KeyboardInterrupt as error:
        _leave(128 + (error.args[0] if error.args else 2))
        raise
    except BaseException:
        _leave(1)
        raise
    _leave(0)


def check_processes(processes: Processes) -> None:
    """Refuse options: `--distributed` beside the explicit ones, some of those without the others, or values out of range."""
    fields = {"--coordinator": "coordinator", "--num-processes": "num_processes", "--process-index": "process_index"}
    given = [name for name, field in fields.items() if getattr(processes, field) != getattr(Processes, field)]
    missing = [name for name in fields if name not in given]
    if processes.distributed and given:
        raise InputError(f"--distributed asks the cluster for what {given[0]} says: leave one of them out")
    if given and missing:
        raise InputError(
            f"{given[0]} needs {' and '.join(missing)} beside it: without a cluster every process is told "
            "--coordinator HOST:PORT, --num-processes and its own --process-index"
        )
    if not given:
        return
    host, _, port = processes.coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(
            f"--coordinator {processes.coordinator!r}: expected host:port of process 0, such as 10.0.0.1:1234"
        )
    if processes.num_processes < 1:
        raise InputError(f"--num-processes {processes.num_processes}: expected at least 1")
    if not 0 <= processes.process_index < processes.num_processes:
        raise InputError(
            f"--process-index {processes.process_index}: expected 0 to {processes.num_processes - 1}, "
            f"one of the {processes.num_processes} of --num-processes"
        )


def check_joined() -> None:
    """Refuse to work where JAX sees processes that this one has not joined, as on a TPU pod: all would write the same files."""
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise InputError(
            f"JAX sees {jax.process_count()} processes, and this one is joined to none of them: add --distributed"
        )


def is_first() -> bool:
    """Return whether this process is the one that writes files and prints."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def console(*, stderr: bool = False) -> Console:
    """Return a console that is silent in every process but the first."""
    return Console(stderr=stderr, quiet=not is_first())


def exchange(topic: str, value: object) -> list[Any]:
    """Return what every process said on a topic, in order; waits for all of them.

    All processes give the same topics in the same order; a value is what `files.json_value` takes.
    """
    if not jax.distributed.is_initialized():
        return [value]
    _spoken[topic] += 1
    key = f"dsrm_jax/{topic}/{_spoken[topic]}"
    _client().key_value_set(f"{key}/{jax.process_index()}", json.dumps(json_value(value)))
    answers = [_wait_for(f"{key}/{i}") for i in range(jax.process_count())]
    return [from_json_value(json.loads(answer)) for answer in answers]


def _wait_for(key: str) -> str:
    """Return what stands under a key once it is there; waits in short turns, so that a signal is heard between them."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return _client().blocking_key_value_get(key, TURN_SECONDS * 1000)
        except RuntimeError as error:  # jax.errors.JaxRuntimeError
            if "DEADLINE_EXCEEDED" not in str(error) or time.monotonic() > until:
                raise


def everywhere(topic: str, make: Callable[[], T]) -> T:
    """Return what `make()` returns in this process, once it has returned in all.

    Raises:
        InputError: it raised one somewhere; then it is raised everywhere.
    """
    if not jax.distributed.is_initialized():
        return make()
    result: Any
    result, failure = _attempt(make)
    for index, text in enumerate(exchange(topic, failure)):
        if text:
            raise InputError(text if index == 0 else f"in process {index}: {text}")
    return result


def first(topic: str, make: Callable[[], T]) -> T:
    """Return in every process what `make()` returns in process 0, where alone it is called; it travels as in `exchange`.

    Raises:
        InputError: it raised one; then it is raised everywhere.
    """
    if not jax.distributed.is_initialized():
        return make()
    result: Any
    result, failure = _attempt(make) if is_first() else (None, "")
    said = exchange(topic, [result, failure] if is_first() else None)[0]
    if said[1]:
        raise InputError(said[1])
    return result if is_first() else said[0]


def require_same(what: str, value: str) -> None:
    """Refuse to go on where the processes were given different things: `value` is a digest of `what`, such as "settings".

    Raises:
        InputError: in every process, naming the first that differs from process 0.
    """
    values = exchange(f"same {what}", value)
    for index, other in enumerate(values):
        if other != values[0]:
            raise InputError(
                f"process {index} has other {what} than process 0: give every process the same command and the same data"
            )


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as an Orbax checkpoint, in this process alone."""
    from orbax.checkpoint import v1

    if jax.process_count() == 1:
        v1.save(path, arrays)
        return
    # version 1 of Orbax's interface makes all processes meet
    import orbax.checkpoint as orbax

    options = orbax.options.MultiprocessingOptions(**_this_process())
    handler = orbax.CompositeCheckpointHandler(
        composite_options=orbax.CompositeOptions(multiprocessing_options=options),
        state=orbax.PyTreeCheckpointHandler(multiprocessing_options=options),
    )
    with orbax.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
        checkpointer.save(path, args=orbax.args.Composite(state=orbax.args.PyTreeSave(arrays)))


def load_arrays(path: Path, like: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Read what `save_arrays` wrote, in this process without waiting for the others."""
    from orbax.checkpoint import v1

    if not jax.distributed.is_initialized():
        return v1.load(path, like)
    import orbax.checkpoint as orbax

    options = orbax.options.MultiprocessingOptions(**_this_process())
    with v1.Context(multiprocessing_options=options):
        return v1.load(path, like)


def _this_process() -> dict[str, object]:
    this = jax.process_index()
    return {"primary_host": this, "active_processes": {this}, "barrier_sync_key_prefix": f"process_{this}"}


def _attempt(make: Callable[[], Any]) -> tuple[Any, str]:
    """Return `(result, "")`, or `(None, why)` where there is none."""
    try:
        return make(), ""
    except InputError as error:
        return None, str(error) or "failed"


def _join(processes: Processes) -> None:
    # JAX's own SIGTERM handler would swallow the signal wherever `interruptible` is not in charge.
    jax.config.update("jax_enable_preemption_service", False)
    explicit: dict[str, Any] = {
        "coordinator_address": processes.coordinator,
        "num_processes": processes.num_processes,
        "process_id": processes.process_index,
    }
    try:
        jax.distributed.initialize(
            **({} if processes.distributed else explicit),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=LEAVE_SECONDS,
        )
    except Exception as error:  # JAX raises what its cluster modules raise
        reason = first_line(error)
        if processes.distributed:
            raise InputError(
                f"--distributed found no cluster to join ({reason}): start it by srun, mpirun or on a TPU pod, or give "
                "--coordinator, --num-processes and --process-index"
            ) from error
        raise InputError(f"cannot join the processes at {processes.coordinator}: {reason}") from error
    if not all(hasattr(_client(), name) for name in CLIENT_CALLS):
        raise InputError(
            f"JAX {jax.__version__} has another coordination service than this version of dsrm_jax knows: "
            "train in one process, or use JAX 0.9.2 to 0.12.0"
        )


def _leave(status: int) -> bool:
    """Leave with the others and return True, or, where they stay, make the interpreter's exit an immediate one."""
    try:
        _client().wait_at_barrier("dsrm_jax/leaving", LEAVE_SECONDS * 1000)
        jax.distributed.shutdown()
    except RuntimeError:  # the others are still at work, or gone
        atexit.register(_exit, status)  # runs before JAX's own handler, which would wait for them and abort
        return False
    return True


def _exit(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _client() -> Any:
    from jax._src import distributed  # the service has no public interface for texts

    return getattr(distributed.global_state, "client", None)
