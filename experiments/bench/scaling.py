"""How cost grows: seconds of purification with users and with diffusion steps, the loop's memory with the catalogue."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import numpy as np
from rich.console import Console

from dsrm_jax.agents.slates import LARGEST_WHOLE
from dsrm_jax.config import Config
from dsrm_jax.config.budgets import budget
from dsrm_jax.errors import InputError
from dsrm_jax.parallel.sharding import make_mesh
from dsrm_jax.purify.perception import Perception
from dsrm_jax.runs.pieces import environment_of, perceive_of, trainer_of
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import reset_users
from dsrm_jax.types import Json, PyTree
from experiments.bench.measure import time_part
from experiments.bench.parts import Part, along_users, on_every_device
from experiments.bench.products import work_of
from experiments.bench.table import print_scaling
from experiments.bench.worlds import factor_world

USERS = (256, 512, 1024, 2048)
DIFFUSION_STEPS = (5, 10, 20, 50, 100)
ITEMS = (3_327, 33_270, 110_900, 332_700)
POPULATION = 1000  # users of the worlds; the time does not depend on it


def run_scaling(*, repeats: int = 5, console: Console | None = None) -> Json:
    """Measure how the cost of DSRM-HRL grows with its sizes, and print it.

    Args:
        repeats: timings of each size, at least 1; medians are reported.
        console: where to print; standard output by default.

    Returns:
        Plain numbers. `users` and `diffusion_steps`: seconds of one purification of the loop's states, as `x`, `seconds`,
        `floor_seconds` (its matrix products alone) and `linear_fit`; the one at the default number of diffusion steps, the
        other of the fewest users. `items`: what the loop's compiled program takes besides its arguments and results, as `x`,
        `temporary_bytes`, `table_bytes` of the item tables (what the catalogue says of its items, and what slates are scored
        with), `beyond_bytes` of the rest (None where it is not positive), and the `exponent` that fits the rest over the sizes
        in `fitted`, those above `LARGEST_WHOLE`:
        smaller catalogues run another program.

    Raises:
        InputError: repeats below 1.
    """
    if repeats < 1:
        raise InputError(f"repeats is {repeats}: give a whole number of at least 1")
    console = console or Console()
    config = budget("paper")
    config = replace(config, training=replace(config.training, seeds=config.training.seeds[:1]))

    def at_users(users: int) -> tuple[float, float]:
        return purify_seconds(config, users=users, repeats=repeats)

    def at_steps(steps: int) -> tuple[float, float]:
        changed = replace(config, purifier=replace(config.purifier, diffusion_steps=steps))
        return purify_seconds(changed, users=USERS[0], repeats=repeats)

    numbers = {
        "repeats": repeats,
        "users": _timed(at_users, USERS),
        "diffusion_steps": _timed(at_steps, DIFFUSION_STEPS),
        "items": memory_by_items(config, ITEMS),
    }
    print_scaling(numbers, console)
    return numbers


def _timed(seconds_at: Callable[[int], tuple[float, float]], x: Sequence[int]) -> Json:
    seconds, floor = zip(*(seconds_at(size) for size in x), strict=True)
    return {"x": list(x), "seconds": list(seconds), "floor_seconds": list(floor), **linear_fit(x, seconds)}


def linear_fit(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Return `intercept`, `slope` and `r2` of the least-squares line through points; `r2` is 1 where all y are equal."""
    at, value = np.asarray(x, float), np.asarray(y, float)
    slope, intercept = np.polyfit(at, value, 1)
    spread = np.sum((value - value.mean()) ** 2)
    error = np.sum((value - intercept - slope * at) ** 2)
    return {"intercept": float(intercept), "slope": float(slope), "r2": float(1 - error / spread) if spread else 1.0}


def power_fit(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the exponent p of the least-squares fit y = c x^p in logarithms; x and y positive."""
    return linear_fit(np.log(x).tolist(), np.log(y).tolist())["slope"]


def purify_seconds(config: Config, *, users: int, repeats: int) -> tuple[float, float]:
    """Return the median seconds that the loop's `perceive` takes for users who have just arrived, and its products alone."""
    world, perception = _world(config, items=ITEMS[0])
    environment, perceive = environment_of(config), perceive_of(config)
    key = jax.random.key(0)
    observation, _ = jax.jit(lambda key, world: reset_users(key, environment, world, num_users=users))(key, world)
    mesh = make_mesh(1, users)
    arguments = (*on_every_device((perception, key), mesh), along_users(observation, mesh))

    def states(*args: PyTree) -> jax.Array:
        return perceive(*args).state

    part = Part("perceive", states, arguments, mesh=mesh)
    return time_part(part, work_of(states, *arguments), repeats=repeats)[1:]


def memory_by_items(config: Config, items: Sequence[int]) -> Json:
    """Return what `run_scaling` documents under `items`; the loop is compiled and not run."""
    temporary, tables = [], []
    for count in items:
        world, perception = _world(config, items=count)
        trainer = trainer_of(config)
        state = jax.eval_shape(trainer.init, jax.random.key(0), world, perception)
        program = jax.jit(trainer.iterate).lower(state, world, perception).compile()
        analysis = program.memory_analysis()
        assert analysis is not None
        temporary.append(analysis.temp_size_in_bytes)
        # of an item, D numbers and a bias in `Catalogue`; D + 2 of `networks.lifted_vectors` and the log-popularity
        dim = perception.encoder.embeddings.vectors.shape[1]
        tables.append(count * (2 * dim + 4) * 4)
    sizes = {"x": list(items), "temporary_bytes": temporary, "table_bytes": tables}
    return sizes | beyond_fit(items, temporary, tables)


def beyond_fit(items: Sequence[int], temporary: Sequence[int], tables: Sequence[int]) -> Json:
    """Return `beyond_bytes`, `fitted` and `exponent` as `run_scaling` documents them; `exponent` is None below two sizes."""
    beyond = [total - table if total > table else None for total, table in zip(temporary, tables, strict=True)]
    pairs = zip(items, beyond, strict=True)
    fitted = {size: rest for size, rest in pairs if size > LARGEST_WHOLE and rest is not None}
    exponent = power_fit(list(fitted), list(fitted.values())) if len(fitted) > 1 else None
    return {"beyond_bytes": beyond, "fitted": list(fitted), "exponent": exponent}


def _world(config: Config, *, items: int) -> tuple[World, Perception]:
    """Return a training world and the perception of one seed."""
    prepared = factor_world(POPULATION, items)(config, print)
    purifier = jax.tree.map(lambda x: x[0], prepared.perception.purifier)
    return prepared.worlds.train, replace(prepared.perception, purifier=purifier)
