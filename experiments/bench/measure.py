"""`dsrm-jax bench`: run a named size, print the table, return the numbers."""

import contextlib
import dataclasses
import os
import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.parallel.sharding import using
from dsrm_jax.types import Json
from experiments.bench.floor import compile_products, median_seconds
from experiments.bench.parts import Part
from experiments.bench.products import Done, matrix_products, operations, random_bits, work_of
from experiments.bench.roofline import BITS, BYTES, OPERATIONS, Machine, bytes_of, limit_of, measure_machine
from experiments.bench.sizes import SIZES
from experiments.bench.table import print_report
from experiments.bench.work import make_work


def run(size: str, *, repeats: int = 5, console: Console | None = None) -> Json:
    """Measure speed, compile time and memory at a named size and print them.

    Compilations are cold: the persistent compilation cache is off while this runs.

    Args:
        size: a key of `SIZES`.
        repeats: timings of each part, at least 1; medians are reported.
        console: where to print; standard output by default.

    Returns:
        Plain numbers: `machine`, `shape` (`work.Work`), `source` of the data, `stage_one` (seconds of each stage before the
        loop), `most` (what the machine does in a second, `roofline.Machine`), `parts` (by name, as `measure_part`), `budget`
        (`work.budget_numbers`) and `peak_memory_gb`.

    Raises:
        InputError: an unknown size, or repeats below 1.
    """
    if size not in SIZES:
        raise unknown_name("size", size, SIZES)
    if repeats < 1:
        raise InputError(f"repeats is {repeats}: give a whole number of at least 1")
    console = console or Console()
    chosen = SIZES[size]

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    with without_compilation_cache():
        work = make_work(chosen, chosen.prepare(chosen.config, say))
        user_steps = work.shape["users"] * work.shape["steps_per_update"]
        parts, most = {}, measure_machine(repeats=repeats)
        for part in work.parts:
            parts[part.name] = measure_part(part, most, user_steps=user_steps, repeats=repeats)
            say(f"{part.name}: {parts[part.name]['milliseconds']:.1f} ms an update")
        budget = work.budget()
    numbers = {
        "size": size,
        "repeats": repeats,
        "machine": machine(),
        "shape": work.shape,
        "source": work.facts["source"],
        "stage_one": {name[:-8]: value for name, value in work.facts.items() if name.endswith("_seconds")},
        "most": dataclasses.asdict(most),
        "parts": parts,
        "budget": budget,
        "peak_memory_gb": peak_memory_bytes() / 1e9,
    }
    print_report(numbers, console)
    return numbers


def measure_part(part: Part, most: Machine, *, user_steps: int, repeats: int) -> Json:
    """Measure a part beside what the machine needs for it at least, and beside its matrix products alone.

    Args:
        part: what to time.
        most: what the machine does.
        user_steps: of one update.
        repeats: timings, at least 1.

    Returns:
        `milliseconds` of one update's worth; `limit`, the least that the machine could take (`roofline.limit_of`), and
        `of_limit`, how many times that it is; `work`, what was counted; `floor_milliseconds` of the part's matrix products
        alone, in its own shapes, and the `ratio` to it, both 0 where there are none; `gigaflops_per_second`,
        `user_steps_per_second`, `compile_seconds`.
    """
    counts = work_of(part.function, *part.args)
    compile_seconds, seconds, floor = time_part(part, counts, repeats=repeats)
    written = bytes_of(jax.eval_shape(part.function, *part.args))
    whole = {OPERATIONS: operations(counts), BYTES: written, BITS: random_bits(counts)}
    work = {name: amount / part.updates for name, amount in whole.items()}
    limit = limit_of(work, most)
    return {
        "milliseconds": 1e3 * seconds,
        "limit": limit,
        "of_limit": 1e3 * seconds / limit["milliseconds"],
        "work": work,
        "floor_milliseconds": 1e3 * floor,
        "ratio": seconds / floor if floor else 0.0,
        "gigaflops_per_second": work[OPERATIONS] / seconds / 1e9,
        "user_steps_per_second": user_steps / seconds,
        "compile_seconds": compile_seconds,
    }


def time_part(part: Part, counts: Counter[Done], *, repeats: int) -> tuple[float, float, float]:
    """Compile a part cold, time it on its mesh, and its matrix products alone on one device, over whose cores XLA splits them.

    `counts` are of `work_of`. Returned are the seconds of compiling, of one update's worth and of its products, 0 where there
    are none.
    """
    started = time.perf_counter()
    with using(part.mesh):
        program = jax.jit(part.function).lower(*part.args).compile()
    compile_seconds = time.perf_counter() - started
    seconds = median_seconds(lambda: jax.block_until_ready(program(*part.args)), repeats=repeats)
    products = matrix_products(counts)
    floor = median_seconds(compile_products(products), repeats=repeats) if products else 0.0
    return compile_seconds, seconds / part.updates, floor / part.updates


@contextlib.contextmanager
def without_compilation_cache() -> Iterator[None]:
    """Compile everything anew inside the block: neither read nor write JAX's persistent compilation cache."""
    enabled = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def machine() -> Json:
    """Return what the numbers depend on besides the program: cores, devices, versions, flags."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": platform.machine(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "jax": jax.__version__,
        "python": platform.python_version(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def peak_memory_bytes() -> int:
    """Return the most resident memory that this process has held; device memory of an accelerator is not in it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
