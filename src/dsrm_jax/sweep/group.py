"""Train and evaluate the points of one group as one program: points and seeds are vmapped axes.

Axes: P points, N seeds.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Compiled

from dsrm_jax.agents.methods import method_of
from dsrm_jax.config import AgentConfig, Config
from dsrm_jax.config.worlds import whereabouts
from dsrm_jax.evaluation.sessions import Sessions, of_each, run_sessions
from dsrm_jax.files import json_value, sealed, write_text
from dsrm_jax.purify.perception import Perception, seed_axes, share_process
from dsrm_jax.runs.evaluate import rule_of, summary_of
from dsrm_jax.runs.kept import shared_between
from dsrm_jax.runs.logging import line_of, nonfinite
from dsrm_jax.runs.memory import Memory
from dsrm_jax.runs.pieces import environment_of, purifier_of, trainer_of, without_process
from dsrm_jax.runs.prepare import perception_like, prepare, remembered_worlds, seed_keys
from dsrm_jax.runs.run import chunk_size, metric_rows, num_updates
from dsrm_jax.simulator.world import World
from dsrm_jax.sweep.plan import Point
from dsrm_jax.sweep.pool import STAGE_ONE
from dsrm_jax.sweep.programs import compiled
from dsrm_jax.types import Json, PyTree, Say

# stage of `seed_keys` of validation sessions: 2 is that of held-out ones
VALIDATION = 4


class Programs(NamedTuple):
    """What trains and evaluates a group, compiled; a method that learns nothing has neither `init` nor `train`."""

    init: Compiled | None
    train: Compiled | None
    evaluate: Compiled  # gives complete sessions
    updates: int  # of one call of `train`


def run_group(points: Sequence[Point], folder: Path, memory: Memory, say: Say, *, validate: bool) -> list[Json]:
    """Train, evaluate and write the points of one group.

    Each point gets `<folder>/<name>/`: `metrics.jsonl`, `sessions.npz` (of each seed, what `metrics.difference` needs) and,
    last of all, `result.json`: a point that has it is finished. Stage I is shared with the sweep's other workers and with other
    runs (`runs.kept`); while another makes it, the programs are compiled from its shapes.

    Args:
        points: of one group of `plan.group`.
        folder: of the sweep.
        memory: Stage I of earlier groups, see `prepare`.
        say: told what is being done.
        validate: evaluate in the training simulator, also where the method itself trains in a model of the log.

    Raises:
        InputError: settings or data that cannot be used.
    """
    config = points[0].config
    agents = jax.tree.map(lambda *values: jnp.asarray(values, jnp.float32), *(point.config.agent for point in points))
    log, worlds, _ = remembered_worlds(config, say, memory)
    plain = replace(config, agent=AgentConfig())
    world = remembered_worlds(plain, say, memory)[1].train if validate else worlds.test
    shared, share = without_process(config), partial(share_process, purifier_of(config))
    ahead = 0.0

    def programs(perception: Perception) -> tuple[Programs, float]:
        started = time.perf_counter()
        made = _compile(shared, agents, worlds.train, world, perception, memory)
        return made, time.perf_counter() - started

    def meanwhile() -> None:
        nonlocal ahead
        ahead = programs(jax.eval_shape(share, perception_like(config, log.num_items)))[1]

    prepared = prepare(config, say, memory, shared_between(config, folder / STAGE_ONE, meanwhile, say))
    perception = share(prepared.perception)
    made, compiling = programs(perception)
    timing = {"compile_seconds": ahead + compiling}
    state, rows, seconds = _train(made, shared, agents, worlds.train, perception)
    timing |= seconds
    started = time.perf_counter()
    keys = seed_keys(config, VALIDATION if validate else 2)
    sessions = jax.device_get(made.evaluate(agents, keys, state, world, perception))
    timing["evaluation_seconds"] = time.perf_counter() - started
    say(
        f"{config.agent.method}: compiled {timing['compile_seconds']:.0f} s, trained {timing['train_seconds']:.0f} s, "
        f"evaluated {timing['evaluation_seconds']:.0f} s"
    )
    timing = {name: value / len(points) if name.endswith("_seconds") else value for name, value in timing.items()}
    return [
        _write(point, folder, of_each(mine), _rows_of(rows, i), prepared.facts, timing)
        for i, (point, mine) in enumerate(zip(points, of_each(sessions), strict=True))
    ]


def _compile(
    config: Config, agents: AgentConfig, training: World, evaluated: World, perception: Perception, memory: Memory
) -> Programs:
    """Compile what the memory does not hold; the perception's shapes will do."""

    def init(agent: AgentConfig, key: jax.Array, world: World, perception: Perception) -> PyTree:
        return trainer_of(replace(config, agent=agent)).init(key, world, perception)

    def chunk(agent: AgentConfig, state: PyTree, world: World, perception: Perception) -> PyTree:
        return trainer_of(replace(config, agent=agent)).train(state, world, perception, updates)

    def mapped(function: Callable[..., PyTree], points: tuple[int | None, ...]) -> Callable[..., PyTree]:
        world_and_perception = (None, seed_axes(perception))
        seeds = tuple(None if i == 0 else 0 for i in range(len(points)))
        inside = jax.vmap(function, in_axes=(*seeds, *world_and_perception))
        return jax.vmap(inside, in_axes=(*points, None, None))

    updates = chunk_size(replace(config, training=replace(config.training, chunk_updates=25)))
    starting = training_program = None
    policy: PyTree = ()
    if method_of(config.agent.method).learns:
        begin = (agents, seed_keys(config, 0), training, perception)
        starting = compiled(memory, "init", config, mapped(init, (0, None)), *begin)
        state = starting.out_info
        go_on = (agents, state, training, perception)
        training_program = compiled(memory, "train", config, mapped(chunk, (0, 0)), *go_on, donate_argnums=1)
        policy = state.agent
    play = (agents, seed_keys(config, 2), policy, evaluated, perception)
    evaluate = compiled(memory, "evaluate", config, mapped(_player(config), (0, None, 0)), *play)
    return Programs(starting, training_program, evaluate, updates)


def _player(config: Config) -> Callable[..., Sessions]:
    """Return `(agent settings, key, policy, world, perception) -> Sessions`."""
    environment, settings = environment_of(config), config.evaluation
    size = {"num_sessions": settings.num_sessions, "num_users": settings.num_users}

    def play(agent: AgentConfig, key: jax.Array, policy: PyTree, world: World, perception: Perception) -> Sessions:
        rule = rule_of(replace(config, agent=agent), agent.method, policy, world, perception)
        return run_sessions(key, rule, environment, world, **size)

    return play


def _train(
    programs: Programs, config: Config, agents: AgentConfig, world: World, perception: Perception
) -> tuple[PyTree, list[Json], dict[str, float]]:
    """Return trained agent states `(P, N, ...)`, rows of metrics `(P, N)` and the group's seconds; yardsticks learn nothing."""
    if programs.init is None or programs.train is None:
        return (), [], {"train_seconds": 0.0, "user_steps_per_second": math.nan}
    started = time.perf_counter()
    state = jax.block_until_ready(programs.init(agents, seed_keys(config, 0), world, perception))
    began = time.perf_counter()
    rows: list[Json] = []
    for _ in range(num_updates(config) // programs.updates):
        state, metrics = programs.train(agents, state, world, perception)
        metrics = jax.tree.map(lambda x: np.moveaxis(np.asarray(x), -1, 1), metrics)  # (P, update, N)
        step = rows[-1]["step"] if rows else 0
        rows += metric_rows(metrics, step, config.training.rollout_length, time.perf_counter() - began)
    seconds = time.perf_counter() - began
    policies = len(config.training.seeds) * len(jax.tree.leaves(agents)[0])
    steps = num_updates(config) * config.training.rollout_length * config.training.num_users * policies
    # a method that fits models of its own before its first step trains then, too
    timing = {"train_seconds": began - started + seconds, "user_steps_per_second": steps / seconds}
    return state.agent, rows, timing


def _rows_of(rows: list[Json], point: int) -> list[Json]:
    return [{name: x[point] if isinstance(x, list) else x for name, x in row.items()} for row in rows]


def _write(
    point: Point, folder: Path, sessions: list[Sessions], rows: list[Json], facts: Json, timing: dict[str, float]
) -> Json:
    config, path = point.config, folder / point.name
    path.mkdir(parents=True, exist_ok=True)
    result = {
        "name": point.name,
        "values": point.values,
        "env": whereabouts(config),
        "method": config.agent.method,
        "max_len": config.environment.max_len,
        "source": facts["source"],
        "data_digest": facts["data_digest"],
        "diverged": any(nonfinite(row) for row in rows),
        "timing": timing,
        "result": summary_of(config, sessions),
        "stage_one": {k: v for k, v in facts.items() if k.endswith(("seconds", "loss")) or k == "probes"},
    }
    if rows:
        write_text(path / "metrics.jsonl", "".join(map(line_of, rows)))
    names = ("length", "clicks", "popular", "imbalance", "broken")
    arrays = {name: np.stack([getattr(s, name) for s in sessions]) for name in names}
    np.savez_compressed(path / "sessions.npz", **arrays)  # type: ignore[arg-type]
    write_text(path / "result.json", json.dumps(sealed(json_value(result)), indent=1) + "\n")
    return result
