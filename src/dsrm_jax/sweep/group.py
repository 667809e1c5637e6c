"""Train and evaluate the points of one group as one program: points and seeds are vmapped axes.

Axes: P points, N seeds.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsrm_jax.agents.methods import LEARNERS, make_agent
from dsrm_jax.config import AgentConfig, Config
from dsrm_jax.evaluation.metrics import summarise_seeds
from dsrm_jax.evaluation.sessions import Sessions, agent_decisions, of_each, oracle_decisions, run_sessions
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.world import World
from dsrm_jax.state.perception import Perception, make_perceive, seed_axes, share_process
from dsrm_jax.sweep.plan import Point
from dsrm_jax.sweep.programs import compiled
from dsrm_jax.training.logging import nonfinite
from dsrm_jax.training.loop import make_trainer
from dsrm_jax.training.prepare import Memory, Prepared, prepare, remembered_worlds, seed_keys
from dsrm_jax.training.run import chunk_size, metric_rows, num_updates
from dsrm_jax.training.serialise import json_value, write_text

Say = Callable[[str], None]
# stage of `seed_keys` of validation sessions: 2 is that of held-out ones, 3 of Stage I's refresh
VALIDATION = 4


def run_group(
    points: Sequence[Point], folder: Path, memory: Memory, say: Say, *, validate: bool
) -> list[dict[str, Any]]:
    """Train, evaluate and write the points of one group.

    Each point gets `<folder>/<name>/`: `metrics.jsonl`, `sessions.npz` (of each seed, what `metrics.difference` needs) and,
    last of all, `result.json`: a point that has it is finished.

    Args:
        points: of one group of `plan.group`.
        folder: of the sweep.
        memory: Stage I of earlier groups, see `prepare`.
        say: told what is being done.
        validate: evaluate in the training simulator.

    Returns:
        The results, as written.

    Raises:
        InputError: settings or data that cannot be used.
    """
    config = points[0].config
    prepared = prepare(config, say, memory)
    agents = _stack([point.config.agent for point in points])
    config, perception = share_process(config, prepared.perception)
    state, rows, timing = _train(config, agents, prepared.worlds.train, perception, memory, say)
    world = prepared.worlds.test
    if validate:
        plain = replace(config, agent=replace(config.agent, method="random"))
        world = remembered_worlds(plain, say, memory)[1].train
    sessions, evaluated = _evaluate(config, agents, state, world, perception, memory, validate=validate)
    timing["compile_seconds"] += evaluated.pop("compile_seconds")
    timing |= evaluated
    timing = {
        name: value / len(points) if name.endswith("_seconds") else value for name, value in timing.items()
    }
    return [
        _write(point, folder, of_each(mine), [_of_point(row, i) for row in rows], prepared, timing)
        for i, (point, mine) in enumerate(zip(points, of_each(sessions), strict=True))
    ]


def _stack(agents: Sequence[AgentConfig]) -> AgentConfig:
    """Return one configuration whose floats are arrays `(P,)`."""
    return jax.tree.map(lambda *values: jnp.asarray(values, jnp.float32), *agents)


def _train(
    config: Config, agents: AgentConfig, world: World, perception: Perception, memory: Memory, say: Say
) -> tuple[Any, list[dict[str, Any]], dict[str, float]]:
    """Return trained agent states `(P, N, ...)`, rows of metrics `(P, N)` and the group's seconds; yardsticks learn nothing."""
    if config.agent.method not in LEARNERS:
        return (), [], {"compile_seconds": 0.0, "train_seconds": 0.0, "user_steps_per_second": math.nan}

    def per_seed(function: Callable[..., Any]) -> Callable[..., Any]:
        seeds = jax.vmap(function, in_axes=(None, 0, None, seed_axes(perception)))
        return jax.vmap(seeds, in_axes=(0, None if function is init else 0, None, None))

    def init(agent: AgentConfig, key: jax.Array, world: World, perception: Perception) -> Any:
        return make_trainer(replace(config, agent=agent)).init(key, world, perception)

    length = chunk_size(replace(config, training=replace(config.training, chunk_updates=25)))

    def chunk(agent: AgentConfig, state: Any, world: World, perception: Perception) -> Any:
        return make_trainer(replace(config, agent=agent)).train(state, world, perception, length)

    started = time.perf_counter()
    begin = (agents, seed_keys(config, 0), world, perception)
    state = compiled(memory, "init", config, per_seed(init), *begin)(*begin)
    go_on = (agents, state, world, perception)
    program = compiled(memory, "train", config, per_seed(chunk), *go_on, donate_argnums=1)
    ready = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for _ in range(num_updates(config) // length):
        state, metrics = program(agents, state, world, perception)
        metrics = jax.tree.map(lambda x: np.moveaxis(np.asarray(x), -1, 1), metrics)  # (P, update, N)
        step = rows[-1]["step"] if rows else 0
        rows += metric_rows(metrics, step, config.training.rollout_length, time.perf_counter() - ready)
    seconds = time.perf_counter() - ready
    policies = len(config.training.seeds) * len(jax.tree.leaves(agents)[0])
    steps = num_updates(config) * config.training.rollout_length * config.training.num_users * policies
    say(f"{config.agent.method}: compiled {ready - started:.0f} s, trained {seconds:.0f} s")
    return (
        state.agent,
        rows,
        {
            "compile_seconds": ready - started,
            "train_seconds": seconds,
            "user_steps_per_second": steps / seconds,
        },
    )


def _evaluate(
    config: Config,
    agents: AgentConfig,
    state: Any,
    world: World,
    perception: Perception,
    memory: Memory,
    *,
    validate: bool,
) -> tuple[Sessions, dict[str, float]]:
    """Return complete sessions of every point and seed, leaves `(P, N, ...)` on the host, and the group's seconds."""
    environment = make_environment(config.environment)
    settings = config.evaluation

    def run(agent: AgentConfig, key: jax.Array, state: Any, world: World, perception: Perception) -> Sessions:
        if config.agent.method == "oracle":
            decide = oracle_decisions(slate_size=config.environment.slate_size)
        else:
            rule = make_agent(agent, slate_size=config.environment.slate_size)
            decide = agent_decisions(rule, make_perceive(config), greedy=settings.greedy)
        return run_sessions(
            key,
            decide,
            state,
            environment,
            world,
            perception,
            num_sessions=settings.num_sessions,
            num_users=min(settings.num_users, settings.num_sessions),
        )

    seeds = jax.vmap(run, in_axes=(None, 0, 0, None, seed_axes(perception)))
    points = jax.vmap(seeds, in_axes=(0, None, 0, None, None))
    arguments = (agents, seed_keys(config, VALIDATION if validate else 2), state, world, perception)
    started = time.perf_counter()
    program = compiled(memory, "evaluate", config, points, *arguments)
    ready = time.perf_counter()
    sessions = jax.device_get(program(*arguments))
    seconds = {"compile_seconds": ready - started, "evaluation_seconds": time.perf_counter() - ready}
    return sessions, seconds


def _of_point(row: dict[str, Any], index: int) -> dict[str, Any]:
    return {name: value[index] if isinstance(value, list) else value for name, value in row.items()}


def _write(
    point: Point,
    folder: Path,
    sessions: list[Sessions],
    rows: list[dict[str, Any]],
    prepared: Prepared,
    timing: dict[str, float],
) -> dict[str, Any]:
    config, path = point.config, folder / point.name
    path.mkdir(parents=True, exist_ok=True)
    result = {
        "name": point.name,
        "values": point.values,
        "env": config.data.env,
        "method": config.agent.method,
        "max_len": config.environment.max_len,
        "source": prepared.facts["source"],
        "diverged": any(nonfinite(row) for row in rows),
        "timing": timing,
        "result": summarise_seeds(
            sessions,
            slate_size=config.environment.slate_size,
            max_len=config.environment.max_len,
            confidence=config.evaluation.confidence,
            ad_penalty=config.environment.ad_penalty,
            step_cap=config.environment.step_cap,
        ),
        "stage_one": {
            k: v for k, v in prepared.facts.items() if k.endswith(("seconds", "loss")) or k == "probes"
        },
    }
    if rows:
        write_text(path / "metrics.jsonl", "".join(json.dumps(json_value(row)) + "\n" for row in rows))
    _write_sessions(path / "sessions.npz", sessions)
    write_text(path / "result.json", json.dumps(json_value(result), indent=1) + "\n")
    return result


def _write_sessions(path: Path, sessions: Sequence[Sessions]) -> None:
    names = ("length", "clicks", "popular", "imbalance", "broken")
    arrays = {name: np.stack([getattr(s, name) for s in sessions]) for name in names}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
