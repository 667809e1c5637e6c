"""What is measured at a size: the program's parts, and the whole budget from a cold start."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax

from dsrm_jax.config import Config
from dsrm_jax.runs.pieces import purifier_settings
from dsrm_jax.runs.placement import place_frozen
from dsrm_jax.runs.prepare import Prepared
from dsrm_jax.runs.run import chunk_size, compile_chunk, num_updates, run_mesh, start
from dsrm_jax.types import Json, PyTree
from experiments.bench.parts import Part, make_parts, make_ranking_parts
from experiments.bench.sizes import Size
from experiments.fcpo_ml100k.held_ratings import NUM_RECENT
from experiments.fcpo_ml100k.ranker import HORIZON, ITERATIONS, RankingData, train_ranker


@dataclass(frozen=True)
class Work:
    """Something to measure.

    Attributes:
        parts: the program taken apart.
        shape: sizes that decide the work of a step; `users` times `steps_per_update` user-steps make an update.
        facts: plain numbers of how it was prepared, and its `source`.
        budget: runs the whole budget from its cold start, or some updates of it once warm; returns `budget_numbers`.
    """

    parts: list[Part]
    shape: dict[str, int]
    facts: Json
    budget: Callable[[], Json]


def make_work(size: Size, prepared: Prepared | RankingData) -> Work:
    """Return what to measure at a size in the world that was prepared for it."""
    if isinstance(prepared, RankingData):
        return _ranking_work(size.config, prepared)
    config, world = size.config, prepared.worlds.train
    purifier = jax.tree.map(lambda x: x[0], prepared.perception.purifier)
    return Work(
        # it purifies whatever was chosen: of a branch on that the cheaper side would be counted
        parts=make_parts(config, world, replace(prepared.perception, purifier=purifier, purifies=None)),
        shape={
            "users": config.training.num_users,
            "steps_per_update": config.training.rollout_length,
            "slate_size": config.environment.slate_size,
            "items": world.num_items,
            "population": world.num_users,
            "diffusion_steps": 0 if purifier_settings(config).kind == "identity" else config.purifier.diffusion_steps,
            "history_length": config.environment.history_length,
        },
        facts=prepared.facts,
        budget=lambda: _run_budget(size, prepared),
    )


def _run_budget(size: Size, prepared: Prepared) -> Json:
    """Run the full loop, spread over the devices as training is, without logs and checkpoints."""
    config = size.config
    mesh = run_mesh(config)
    started = time.perf_counter()
    state = start(config, prepared.worlds.train, prepared.perception, mesh=mesh)
    world, perception = place_frozen(mesh, prepared.worlds.train, prepared.perception)
    jax.block_until_ready(state)
    chunk, updates = chunk_size(config), num_updates(config)
    program = compile_chunk(config, state, world, perception, length=chunk)
    compile_seconds = time.perf_counter() - started
    chunks = -(-min(size.updates or updates, updates) // chunk)
    if chunks * chunk < updates:  # what is slow only once must not be extrapolated
        state, metrics = program(state, world, perception)
        jax.block_until_ready(metrics)
    started = time.perf_counter()
    for _ in range(chunks):
        state, metrics = program(state, world, perception)
        jax.block_until_ready(metrics)
    return budget_numbers(
        updates=updates,
        updates_run=chunks * chunk,
        steps_per_update=config.training.rollout_length,
        users=config.training.num_users,
        train_seconds=time.perf_counter() - started,
        compile_seconds=compile_seconds,
    )


def _ranking_work(config: Config, data: RankingData) -> Work:
    """Return one run of `dsrm-jax fcpo`, one limit and one seed of its table."""
    users, items = data.train.liked.shape

    def train(key: jax.Array, data: RankingData) -> PyTree:
        limit = config.agent.fcpo.popular_limit
        return train_ranker(key, data, popular_limit=limit, config=config.agent)

    def budget() -> Json:
        key = jax.random.key(config.training.seeds[0])
        started = time.perf_counter()
        program = jax.jit(train).lower(key, data).compile()
        compiled = time.perf_counter()
        jax.block_until_ready(program(key, data))
        return budget_numbers(
            updates=ITERATIONS,
            updates_run=ITERATIONS,
            steps_per_update=HORIZON,
            users=users,
            train_seconds=time.perf_counter() - compiled,
            compile_seconds=compiled - started,
        )

    shape = {
        "users": users,
        "steps_per_update": HORIZON,
        "slate_size": 1,
        "items": items,
        "population": users,
        "diffusion_steps": 0,
        "history_length": NUM_RECENT,
    }
    source = f"random likes of {users:,} users and {items:,} items"
    return Work(make_ranking_parts(config, data), shape, {"source": source}, budget)


def budget_numbers(
    *, updates: int, updates_run: int, steps_per_update: int, users: int, train_seconds: float, compile_seconds: float
) -> Json:
    """Extrapolate the updates that were run to all of the budget; compile time counts once.

    Returns:
        `steps` and `seconds` of the whole budget, `compile_seconds` of them, `updates_run`, `train_seconds` (of the updates
        run), `user_steps_per_second` and `extrapolated`.
    """
    return {
        "steps": updates * steps_per_update,
        "seconds": compile_seconds + train_seconds * updates / updates_run,
        "compile_seconds": compile_seconds,
        "updates_run": updates_run,
        "train_seconds": train_seconds,
        "user_steps_per_second": updates_run * steps_per_update * users / train_seconds,
        "extrapolated": updates_run < updates,
    }
