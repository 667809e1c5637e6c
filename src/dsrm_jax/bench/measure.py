"""`dsrm-jax bench`: run a named size, print the table, return the numbers."""

import contextlib
import dataclasses
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console
from rich.table import Table

from dsrm_jax.bench.floor import compile_products, matrix_products, median_seconds
from dsrm_jax.bench.made_up import table_world, transformer_world
from dsrm_jax.bench.parts import Part, make_parts
from dsrm_jax.budgets import BUDGETS
from dsrm_jax.config import Config
from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.simulator.presets import PRESETS
from dsrm_jax.training.prepare import Prepared, prepare
from dsrm_jax.training.run import chunk_size, compile_chunk, num_updates, start
from dsrm_jax.training.serialise import merge


@dataclass(frozen=True)
class Size:
    """What a named size runs.

    Attributes:
        config: of one seed.
        updates: updates of the full loop to run; 0: all of them. The budget's time is extrapolated from fewer.
        prepare: makes what the loop runs in, `(config, say) -> Prepared`.
    """

    config: Config
    updates: int = 0
    prepare: Callable[..., Prepared] = prepare


def _size(
    budget: str, updates: int = 0, prepare: Callable[..., Prepared] = prepare, **sections: dict[str, Any]
) -> Size:
    config = merge(Config(), BUDGETS[budget], budget)
    config = merge(config, {"training": {"seeds": [config.training.seeds[0]]}}, budget)
    return Size(merge(config, sections, budget), updates, prepare)


SIZES = {
    "paper": _size("paper"),
    "paper-quick": _size("paper", updates=100),
    "easyrl4rec": _size(
        "paper",
        100,
        table_world,
        agent={"method": "a2c"},
        environment={"slate_size": 1, "ad_penalty": 0, "history_length": 50},
        training={"num_users": 100},
    ),
    "kuaisim": _size(
        "paper",
        20,
        transformer_world,
        agent={"method": "a2c"},
        environment={**dataclasses.asdict(PRESETS["kuaisim"]), "history_length": 100, "arrival_length": 100},
        training={"num_users": 32},
    ),
    "tiny": _size("tiny"),
}
"""Sizes by name. `paper`: 20,000 steps of 64 users, slate 6, 3,327 items, 20 diffusion steps, all of them run;
`paper-quick`: the same, extrapolated from 100 updates; `easyrl4rec`: A2C, one item a step to 100 users out of a random table of
1,411 x 3,327 answers; `kuaisim`: A2C, slates of 6 of 5,637 items to 32 users who answer by a transformer over 100 events;
`tiny`: seconds, to try the command."""


def run(size: str, *, repeats: int = 5, console: Console | None = None) -> dict[str, Any]:
    """Measure speed, compile time and memory at a named size and print them.

    Compilations are cold: the persistent compilation cache is off while this runs.

    Args:
        size: a key of `SIZES`.
        repeats: timings of each part, at least 1; medians are reported.
        console: where to print; standard output by default.

    Returns:
        Plain numbers: `machine`, `shape` (users, slate size, items, diffusion steps, steps per update), `source` of the
        data, `stage_one` (seconds of each stage before the loop), `parts` (by name: `milliseconds` of one update's
        worth, `floor_milliseconds` of its matrix products alone, their `ratio`, `gigaflops_per_second`,
        `user_steps_per_second`, `compile_seconds`), `budget` (`seconds` of the whole budget, `compile_seconds` of
        them, `extrapolated`) and `peak_memory_gb`.

    Raises:
        InputError: an unknown size, or repeats below 1.
    """
    if size not in SIZES:
        raise unknown_name("size", size, SIZES)
    if repeats < 1:
        raise InputError(f"repeats is {repeats}: give a whole number of at least 1")
    console = console or Console()
    chosen = SIZES[size]
    config = chosen.config

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    with without_compilation_cache():
        prepared = chosen.prepare(config, say)
        one_seed = replace(
            prepared.perception, purifier=jax.tree.map(lambda x: x[0], prepared.perception.purifier)
        )
        parts = {}
        for part in make_parts(config, prepared.worlds.train, one_seed):
            parts[part.name] = measure_part(part, config, repeats=repeats)
            say(f"{part.name}: {parts[part.name]['milliseconds']:.1f} ms an update")
        budget = measure_budget(chosen, prepared)
    numbers = {
        "size": size,
        "repeats": repeats,
        "machine": machine(),
        "shape": shape(config, prepared),
        "source": prepared.facts["source"],
        "stage_one": {
            name[:-8]: value for name, value in prepared.facts.items() if name.endswith("_seconds")
        },
        "parts": parts,
        "budget": budget,
        "peak_memory_gb": peak_memory_bytes() / 1e9,
    }
    print_report(numbers, console)
    return numbers


def measure_part(part: Part, config: Config, *, repeats: int) -> dict[str, float]:
    """Compile a part cold, time it and its matrix products alone.

    Returns:
        What `run` documents under `parts`; `ratio` and `floor_milliseconds` are 0 for a part without matrix products.
    """
    started = time.perf_counter()
    program = jax.jit(part.function).lower(*part.args).compile()
    compile_seconds = time.perf_counter() - started
    seconds = median_seconds(lambda: jax.block_until_ready(program(*part.args)), repeats=repeats)
    products = matrix_products(part.function, *part.args)
    floor = median_seconds(compile_products(products), repeats=repeats) if products else 0.0
    user_steps = config.training.num_users * config.training.rollout_length
    operations = sum(product.operations * times for product, times in products.items())
    return {
        "milliseconds": 1e3 * seconds,
        "floor_milliseconds": 1e3 * floor,
        "ratio": seconds / floor if floor else 0.0,
        "gigaflops_per_second": operations / seconds / 1e9,
        "user_steps_per_second": user_steps / seconds,
        "compile_seconds": compile_seconds,
    }


def measure_budget(size: Size, prepared: Prepared) -> dict[str, Any]:
    """Run the full loop from its cold start, without logs and checkpoints.

    Args:
        size: how many updates to run.
        prepared: what Stage II trains on.

    Returns:
        What `run` documents under `budget`, with `steps`, `updates_run`, `train_seconds` (of the updates run) and
        `user_steps_per_second`.
    """
    config, world, perception = size.config, prepared.worlds.train, prepared.perception
    started = time.perf_counter()
    state = jax.block_until_ready(start(config, world, perception))
    chunk, updates = chunk_size(config), num_updates(config)
    program = compile_chunk(config, state, world, perception, length=chunk)
    compile_seconds = time.perf_counter() - started
    chunks = -(-min(size.updates or updates, updates) // chunk)
    started = time.perf_counter()
    for _ in range(chunks):
        state, metrics = program(state, world, perception)
        jax.block_until_ready(metrics)
    return budget_numbers(config, chunks * chunk, time.perf_counter() - started, compile_seconds)


def budget_numbers(
    config: Config, updates_run: int, train_seconds: float, compile_seconds: float
) -> dict[str, Any]:
    """Extrapolate the updates that were run to all of the budget; compile time counts once."""
    updates = num_updates(config)
    user_steps = updates_run * config.training.rollout_length * config.training.num_users
    return {
        "steps": updates * config.training.rollout_length,
        "seconds": compile_seconds + train_seconds * updates / updates_run,
        "compile_seconds": compile_seconds,
        "updates_run": updates_run,
        "train_seconds": train_seconds,
        "user_steps_per_second": user_steps / train_seconds,
        "extrapolated": updates_run < updates,
    }


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


def machine() -> dict[str, Any]:
    """Return what the numbers depend on besides the program: cores, devices, versions, flags."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": platform.machine(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "jax": jax.__version__,
        "python": platform.python_version(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def shape(config: Config, prepared: Prepared) -> dict[str, int]:
    """Return the sizes that decide the work of a step."""
    return {
        "users": config.training.num_users,
        "steps_per_update": config.training.rollout_length,
        "slate_size": config.environment.slate_size,
        "items": prepared.worlds.train.num_items,
        "diffusion_steps": config.purifier.diffusion_steps,
        "history_length": config.environment.history_length,
    }


def peak_memory_bytes() -> int:
    """Return the most resident memory that this process has held; device memory of an accelerator is not in it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def print_report(numbers: dict[str, Any], console: Console) -> None:
    """Print the numbers of `run` as a table with a few lines around it."""
    shape, budget, machine = numbers["shape"], numbers["budget"], numbers["machine"]
    title = (
        f"{numbers['size']}: {shape['users']} users, slate {shape['slate_size']}, {shape['items']:,} items, "
        f"S = {shape['diffusion_steps']}, {shape['steps_per_update']} steps an update"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("part")
    for heading in ("ms / update", "floor ms", "ratio", "GFLOP/s", "user-steps/s", "compile s"):
        table.add_column(heading, justify="right")
    for name, part in numbers["parts"].items():
        floor = (f"{part['floor_milliseconds']:.2f}", f"{part['ratio']:.1f}") if part["ratio"] else ("-", "-")
        table.add_row(
            name,
            f"{part['milliseconds']:.2f}",
            *floor,
            f"{part['gigaflops_per_second']:.0f}",
            f"{part['user_steps_per_second']:,.0f}",
            f"{part['compile_seconds']:.1f}",
        )
    console.print(table)
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in numbers["stage_one"].items())
    how = f"extrapolated from {budget['updates_run']} updates" if budget["extrapolated"] else "all of it run"
    for line in (
        f"before the loop: {stages}",
        f"whole budget of {budget['steps']:,} steps: {budget['seconds']:.0f} s, {budget['compile_seconds']:.0f} s of them "
        f"compiling ({how}): {budget['user_steps_per_second']:,.0f} user-steps/s",
        f"peak memory {numbers['peak_memory_gb']:.2f} GB; {machine['cores']} cores, {', '.join(machine['devices'])}, "
        f"jax {machine['jax']}; medians of {numbers['repeats']}; floor: the part's matrix products alone",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
