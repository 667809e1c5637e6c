"""A worker process of a sweep: `python -m dsrm_jax.sweep.worker FOLDER CORE`.

It pins itself to one core before JAX starts (vmapped programs on one thread each are the fastest and the safest use of a small
CPU), then reads group numbers from standard input, one a line, and answers each with one line of JSON on standard output:
`{"done": [summaries]}` or `{"failed": "one sentence"}`. Everything else goes to standard error. Where standard input ends, the
sweep has every answer or is dead: the worker stops at once, whatever it is doing, so that no orphan trains on.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from dsrm_jax.errors import InputError
from dsrm_jax.parallel.xla import set_flags
from dsrm_jax.types import Json


def main(argv: list[str]) -> None:
    """Serve groups of the sweep in `argv[0]` on core number `argv[1]` (-1: any) until standard input ends."""
    pin(int(argv[1]))
    set_flags(os.environ)
    with answers() as out:
        from dsrm_jax.parallel.xla import use_compilation_cache
        from dsrm_jax.runs.memory import Memory
        from dsrm_jax.sweep.group import run_group
        from dsrm_jax.sweep.pool import read_groups

        use_compilation_cache()
        folder = Path(argv[0])
        groups, validate = read_groups(folder)
        memory: Memory = {}
        for index in questions():
            try:
                results = run_group(groups[index], folder, memory, say, validate=validate)
                answer: Json = {"done": [brief(result) for result in results]}
            except InputError as error:
                answer = {"failed": str(error)}
            except Exception as error:  # one point's fault must not stop the sweep
                traceback.print_exc()
                answer = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
            print(json.dumps(answer), file=out, flush=True)


def pin(core: int) -> None:
    """Keep this process on one of the cores that it may use; where the system cannot, nothing happens."""
    if core >= 0 and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})


def questions() -> Iterator[int]:
    """Yield the group numbers of standard input; a thread of its own ends the process where the input ends."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            waiting.put(int(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


@contextlib.contextmanager
def answers() -> Iterator[TextIO]:
    """Keep standard output for answers alone: whatever else is printed goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        yield out
    finally:
        out.close()


def say(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def brief(result: Json) -> Json:
    """Return what the sweep's progress line shows of a result."""
    numbers = result["result"]
    return {
        "values": result["values"],
        **{name: numbers[name]["mean"] for name in ("length", "reward", "ad", "broken")},
        "seconds": sum(v for k, v in result["timing"].items() if k.endswith("seconds")),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
