"""A training run on the host: chunks of the jitted program with progress, logs and checkpoints between them.

The same on one device, on many and in many processes: `sharding` says where arrays lie, `processes` who writes files.
"""

import logging
import math
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jax.stages import Compiled

from dsrm_jax.agents.methods import method_of
from dsrm_jax.config import Config
from dsrm_jax.config.serialise import config_fingerprint
from dsrm_jax.errors import InputError
from dsrm_jax.parallel.devices import alone_on_cpu
from dsrm_jax.parallel.processes import everywhere, exchange, first, is_first
from dsrm_jax.parallel.sharding import all_finite, fetch, from_first, make_mesh, mesh_of, place, using
from dsrm_jax.parallel.xla import LONG, MOMENTARY, options
from dsrm_jax.progress import phase, steps
from dsrm_jax.purify.perception import SEED_AXES, Perception
from dsrm_jax.runs import checkpoint
from dsrm_jax.runs.logging import (
    Writer,
    append_metrics,
    interruptible,
    nonfinite,
    open_tensorboard,
    truncate_metrics,
    write_tensorboard,
)
from dsrm_jax.runs.pieces import trainer_of
from dsrm_jax.runs.placement import place_frozen, placement_of_results, state_shardings
from dsrm_jax.runs.prepare import perception_like, seed_keys
from dsrm_jax.runs.run_directory import RunDirectory
from dsrm_jax.simulator.world import World
from dsrm_jax.training.loop import Metrics, TrainState
from dsrm_jax.types import Json, PyTree

MANY_UPDATES = 1_000  # that are worth compiling for longer

_log = logging.getLogger("dsrm_jax")


class NonFiniteError(InputError):
    """Training produced NaN or infinity; the last good checkpoint is kept."""


@struct.dataclass
class Saved:
    """What a checkpoint holds: the training state of every seed and the frozen perception."""

    train: TrainState
    perception: Perception


def num_updates(config: Config) -> int:
    """Return how many updates make up `training.steps` environment steps, rounded up."""
    return math.ceil(config.training.steps / config.training.rollout_length)


def chunk_size(config: Config, done: int = 0) -> int:
    """Return how many updates one compiled chunk makes; `chunk_updates` at most, and the chunks end at the last update exactly.

    It is the largest such divisor of the run's updates, whatever was `done` before (fewer than `num_updates`), so that a resumed
    run has the chunks of an uninterrupted one. Where it does not divide what is left, since the run goes on with other
    `training.steps`, it is the largest divisor of that.
    """
    updates = num_updates(config)
    sizes = range(min(config.training.chunk_updates, updates), 0, -1)
    size = next(c for c in sizes if updates % c == 0)
    left = updates - done
    return size if left % size == 0 else next(c for c in sizes if left % c == 0)


def start(config: Config, world: World, perception: Perception, *, mesh: Mesh | None = None) -> TrainState:
    """Return the state of every seed before its first step, with a leading seed axis, spread over a mesh if there is one.

    It is made on one device: orthogonal weights come from LAPACK, and jaxlib 0.10.2 waits for ever where a mesh of CPU devices
    factorises a batch of matrices (`jax.vmap` over three seeds; of one seed it does not).
    """
    init = jax.vmap(trainer_of(config).init, in_axes=(0, None, SEED_AXES))
    with phase("making networks", config.agent.method):
        program = jax.jit(init, compiler_options=options(MOMENTARY))
        state = jax.block_until_ready(program(seed_keys(config, 0), world, perception))
    return state if mesh is None else place(from_first(fetch(state)), state_shardings(mesh))


def run_mesh(config: Config) -> Mesh | None:
    """Return the mesh that a run is spread over, of all devices that JAX sees; None where it has one to itself.

    Methods that replay (`Method.replays`) share their seeds alone over the cores of a CPU, and not their users.

    Raises:
        InputError: its seeds and users cannot be shared evenly by the processes.
    """
    whole = alone_on_cpu() and method_of(config.agent.method).replays
    return make_mesh(len(config.training.seeds), 1 if whole else config.training.num_users)


def restore(run: RunDirectory, config: Config, world: World, num_items: int, data: str) -> tuple[int, Saved] | None:
    """Return the newest good checkpoint of a run and its step, or None where none was saved; process 0 reads it for all.

    `world` is the training world, `num_items` V, the vocabulary, and `data` the log's digest, `InteractionLog.digest`.

    Raises:
        InputError: the checkpoints belong to another configuration or other data, or all of them are damaged.
    """
    like = perception_like(config, num_items)
    init = jax.vmap(trainer_of(config).init, in_axes=(0, None, SEED_AXES))
    keys = jax.eval_shape(lambda: seed_keys(config, 0))
    train = jax.eval_shape(init, keys, jax.eval_shape(lambda: world), like)
    saved = Saved(train, like)
    found: list[PyTree] = []

    def read() -> int | None:
        found.extend(checkpoint.restore(run.checkpoints, saved, config_fingerprint(config, data=data)) or ())
        return found[0] if found else None

    step = first("restore", read)
    if step is None:
        return None
    whole = from_first(found[1] if found else jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), saved))
    if run_mesh(config) is not None:
        whole = fetch(whole)  # to the host: no device need hold what the mesh will share
    return step, whole


def compile_chunk(config: Config, state: TrainState, world: World, perception: Perception, *, length: int) -> Compiled:
    """Compile `length` updates of all seeds as one program that reuses the state's memory and is spread as the state is.

    The program is `(state, world, perception) -> (state, metrics)`; metrics have axes (seed, update) and lie everywhere.
    """
    trainer = trainer_of(config)

    def chunk(state: TrainState, world: World, perception: Perception) -> tuple[TrainState, Metrics]:
        return trainer.train(state, world, perception, length)

    mapped = jax.vmap(chunk, in_axes=(0, None, SEED_AXES))
    placement = placement_of_results(state)
    told = options(LONG) if num_updates(config) >= MANY_UPDATES else {}
    with using(mesh_of(state.step)):
        return jax.jit(mapped, donate_argnums=0, **placement).lower(state, world, perception).compile(told)


def train(run: RunDirectory, config: Config, saved: Saved, world: World, data: str) -> tuple[TrainState, Json]:
    """Train all seeds to the end from a saved state, with logs, checkpoints and a progress line.

    Metrics are appended before the checkpoint that covers them; rows beyond the state's step are cut first, so the file of a
    resumed run is that of an uninterrupted one.

    `saved` is where to start, the same in every process; its training state is given up to the program and cannot be used again.
    `world` is the training world, and `data` the log's digest. It returns `(state, facts)`: the state is whole, on one device or,
    where there were many, on the host; facts has `compile_seconds`, `train_seconds`, `user_steps_per_second`.

    Raises:
        NonFiniteError: a metric or the state became NaN or infinite; nothing of that chunk was saved.
        InputError: the state is beyond `training.steps` already.
        SystemExit: 130 or 143 after a signal, once everything reached has been saved.
    """
    per_update = config.training.rollout_length
    done, last = int(fetch(saved.train.step)[0]), num_updates(config) * per_update
    rows = first("truncate", lambda: truncate_metrics(run.metrics, done, of=config_fingerprint(config)))
    if rows != done // per_update:
        _log.warning(
            "%s holds %d rows up to step %d, expected %d: some were lost or changed since; the checkpoint is intact",
            *(run.metrics, rows, done, done // per_update),
        )
    if done > last:
        raise InputError(
            f"{run.path} is at step {done:,} already, beyond training.steps = {config.training.steps:,}: "
            "ask for more steps, or choose another output folder"
        )
    if done == last:
        return saved.train, {}
    mesh = run_mesh(config)
    if mesh is not None:
        world, perception = place_frozen(mesh, world, saved.perception)
        saved = Saved(place(saved.train, state_shardings(mesh)), perception)
    fingerprint, keep = config_fingerprint(config, data=data), config.training.keep_checkpoints

    def save(saved: Saved, step: int) -> None:
        """Save whole arrays, from process 0; the others wait, so that none is far ahead of it."""
        whole = fetch(saved)
        first("save", lambda: checkpoint.save(run.checkpoints, step, whole, fingerprint, keep=keep))

    if done == 0:  # Stage I is worth keeping, whatever happens next
        save(saved, 0)
    started = time.perf_counter()
    length = chunk_size(config, done // per_update)
    with phase("compiling", config.agent.method):
        program = compile_chunk(config, saved.train, world, saved.perception, length=length)
    exchange("compiled", None)  # a collective waits for the slowest compiler less patiently than this
    compiled = time.perf_counter()
    state = _run_chunks(run, config, saved, world, program, save)
    seconds = time.perf_counter() - compiled
    return state if mesh is None else fetch(state), {
        "compile_seconds": compiled - started,
        "train_seconds": seconds,
        "user_steps_per_second": (last - done) * _num_users(config) / seconds,
    }


def _run_chunks(
    run: RunDirectory, config: Config, saved: Saved, world: World, program: Compiled, save: Callable[[Saved, int], None]
) -> TrainState:
    """Call a compiled chunk until the last step; log every chunk, save now and then, at the end and on a signal."""
    per_update = config.training.rollout_length
    state, step = saved.train, int(fetch(saved.train.step)[0])
    last, before, started = num_updates(config) * per_update, step, time.perf_counter()
    wanted = config.training.tensorboard and is_first()
    seeds = config.training.seeds
    writers = everywhere("tensorboard", lambda: open_tensorboard(run.tensorboard, seeds, step) if wanted else [])
    shown = steps("training", last, start=step)
    with interruptible() as stop, shown as report:
        last_save, good = started, step
        while step < last:
            state, metrics = program(state, world, saved.perception)
            rows = metric_rows(metrics, step, per_update, time.perf_counter() - started)
            check_finite(rows, state, config, last_good=good)
            first("rows", partial(_log_rows, run, config, writers, rows))
            step = rows[-1]["step"]
            reward, broken = (np.mean(rows[-1][name]) for name in ("reward", "broken"))
            rate = (step - before) * _num_users(config) / (time.perf_counter() - started)
            report(step, f"R_each {reward:.3f}, p {broken:.2f}, {rate:,.0f} user-steps/s")
            minutes = (time.perf_counter() - last_save) / 60
            said = exchange("step", [stop(), minutes > config.training.checkpoint_minutes])
            stopped, due = max(code for code, _ in said), said[0][1]
            if stopped or step == last or due:
                save(Saved(state, saved.perception), step)
                last_save, good = time.perf_counter(), step
                stopped = max(exchange("saved", stop()))  # saving takes time, and a signal may have come meanwhile
            if stopped:
                _log.warning("stopped at step %d, saved; continue with: dsrm-jax resume %s", step, run.path)
                raise SystemExit(stopped)
    return state


def _log_rows(run: RunDirectory, config: Config, writers: list[Writer], rows: list[Json]) -> None:
    append_metrics(run.metrics, rows, of=config_fingerprint(config))
    try:
        write_tensorboard(writers, rows[-1])
    except OSError as error:
        raise InputError(
            f"cannot write {run.tensorboard}: {error.strerror or error}; free some space, or --training.no-tensorboard"
        ) from error


def _num_users(config: Config) -> int:
    return config.training.num_users * len(config.training.seeds)


def metric_rows(metrics: Metrics, step: int, per_update: int, seconds: float) -> list[Json]:
    """Turn a chunk's metrics, axes (seed, update), into one row per update; every value is a list over seeds."""
    host = {name: np.asarray(value) for name, value in metrics.items()}
    return [
        {"step": step + (i + 1) * per_update, "seconds": round(seconds, 3)}
        | {name: value[:, i].tolist() for name, value in host.items()}
        for i in range(next(iter(host.values())).shape[1])
    ]


def check_finite(rows: list[Json], state: TrainState, config: Config, *, last_good: int) -> None:
    """Raise `NonFiniteError` where a chunk's rows, or the state it ended in, hold NaN or infinity.

    The error names what broke, the seeds, the step and the checkpoint to go back to. The state counts as well: the last
    update of a chunk can ruin the parameters without any metric having seen them.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    floats = [(path, leaf) for path, leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    ruined = [jax.tree_util.keystr(path) for path, leaf in floats if not all_finite(leaf)]
    for step, bad in [*((row["step"], nonfinite(row)) for row in rows), (rows[-1]["step"], ruined)]:
        if bad:
            raise NonFiniteError(
                f"training broke at step {step}: {', '.join(bad[:3])} (seeds {list(config.training.seeds)}) is not finite; "
                f"the checkpoint of step {last_good} is good: lower agent.learning_rate or agent.max_grad_norm, "
                "in a new output folder"
            )
