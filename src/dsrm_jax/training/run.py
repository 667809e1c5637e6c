"""A training run on the host: chunks of the jitted program with progress, logs and checkpoints between them."""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import struct

from dsrm_jax.config import Config
from dsrm_jax.errors import InputError
from dsrm_jax.simulator.world import World
from dsrm_jax.state.perception import Perception
from dsrm_jax.training import checkpoint
from dsrm_jax.training.logging import (
    append_metrics,
    interruptible,
    nonfinite,
    open_tensorboard,
    progress,
    truncate_metrics,
    write_tensorboard,
)
from dsrm_jax.training.loop import TrainState, make_trainer
from dsrm_jax.training.prepare import perception_like, seed_keys
from dsrm_jax.training.run_directory import RunDirectory
from dsrm_jax.training.serialise import config_fingerprint

_log = logging.getLogger("dsrm_jax")
SEED_AXES = Perception(None, 0)  # type: ignore[arg-type]


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


def chunk_size(config: Config) -> int:
    """Return the largest divisor of the number of updates that `training.chunk_updates` allows: one shape, one compilation."""
    updates = num_updates(config)
    return next(c for c in range(min(config.training.chunk_updates, updates), 0, -1) if updates % c == 0)


def start(config: Config, world: World, perception: Perception) -> TrainState:
    """Return the state of every seed before its first step, with a leading seed axis."""
    init = jax.vmap(make_trainer(config).init, in_axes=(0, None, SEED_AXES))
    return jax.jit(init)(seed_keys(config, 0), world, perception)


def restore(
    run: RunDirectory, config: Config, world: World, num_items: int, data: str
) -> tuple[int, Saved] | None:
    """Return the newest good checkpoint of a run and its step, or None where none was saved.

    Args:
        run: its folder.
        config: its configuration.
        world: the training world.
        num_items: V, the vocabulary.
        data: digest of the log, `InteractionLog.digest`.

    Raises:
        InputError: the checkpoints belong to another configuration or other data, or all of them are damaged.
    """
    like = perception_like(config, num_items)
    init = jax.vmap(make_trainer(config).init, in_axes=(0, None, SEED_AXES))
    keys = jax.eval_shape(lambda: seed_keys(config, 0))
    train = jax.eval_shape(init, keys, jax.eval_shape(lambda: world), like)
    return checkpoint.restore(run.checkpoints, Saved(train, like), config_fingerprint(config, data=data))


def compile_chunk(
    config: Config, state: TrainState, world: World, perception: Perception
) -> Callable[..., Any]:
    """Compile `chunk_size` updates of all seeds as one program that reuses the state's memory.

    Returns:
        `(state, world, perception) -> (state, metrics)`; metrics have axes (seed, update).
    """
    trainer, length = make_trainer(config), chunk_size(config)

    def chunk(state: TrainState, world: World, perception: Perception) -> Any:
        return trainer.train(state, world, perception, length)

    mapped = jax.vmap(chunk, in_axes=(0, None, SEED_AXES))
    return jax.jit(mapped, donate_argnums=0).lower(state, world, perception).compile()


def train(
    run: RunDirectory, config: Config, saved: Saved, world: World, data: str
) -> tuple[TrainState, dict[str, Any]]:
    """Train all seeds to the end from a saved state, with logs, checkpoints and a progress line.

    Metrics are appended before the checkpoint that covers them; rows beyond the state's step are cut first, so the file of a
    resumed run is that of an uninterrupted one.

    Args:
        run: where to write.
        config: what to train.
        saved: where to start.
        world: the training world.
        data: digest of the log.

    Returns:
        `(state, facts)`: facts has `compile_seconds`, `train_seconds`, `user_steps_per_second`.

    Raises:
        NonFiniteError: a metric became NaN or infinite; nothing of that chunk was saved.
        SystemExit: 130 or 143 after a signal, once everything reached has been saved.
    """
    updates, chunk = num_updates(config), chunk_size(config)
    per_update = config.training.rollout_length
    done = int(np.asarray(saved.train.step)[0])
    truncate_metrics(run.metrics, done)
    if done >= updates * per_update:
        return saved.train, {}
    started = time.perf_counter()
    program = compile_chunk(config, saved.train, world, saved.perception)
    facts: dict[str, Any] = {"compile_seconds": time.perf_counter() - started}
    writer = open_tensorboard(run.tensorboard, done) if config.training.tensorboard else None
    state, step, started = saved.train, done, time.perf_counter()
    last_save = started

    def save() -> None:
        checkpoint.save(
            run.checkpoints,
            step,
            Saved(state, saved.perception),
            config_fingerprint(config, data=data),
            keep=config.training.keep_checkpoints,
        )

    users = config.training.num_users * len(config.training.seeds)
    with (
        interruptible() as stop,
        progress(updates * per_update, users=users, start=done, label="training") as report,
    ):
        if not done:
            save()
        while step < updates * per_update:
            state, metrics = program(state, world, saved.perception)
            rows = metric_rows(metrics, step, per_update, time.perf_counter() - started)
            check_finite(rows, config, last_good=checkpoint.steps(run.checkpoints)[-1])
            append_metrics(run.metrics, rows)
            write_tensorboard(writer, rows[-1])
            step += chunk * per_update
            report(
                step,
                f"reward {np.mean(rows[-1]['reward']):.3f}, slates off balance {np.mean(rows[-1]['broken']):.2f}",
            )
            finished = step >= updates * per_update
            if (
                stop()
                or finished
                or time.perf_counter() - last_save > 60 * config.training.checkpoint_minutes
            ):
                save()
                last_save = time.perf_counter()
            if stop() and not finished:
                _log.warning("stopped at step %d, saved; continue with: dsrm-jax resume %s", step, run.path)
                raise SystemExit(stop())
    facts["train_seconds"] = time.perf_counter() - started
    facts["user_steps_per_second"] = (step - done) * users / facts["train_seconds"]
    return state, facts


def metric_rows(metrics: dict[str, Any], step: int, per_update: int, seconds: float) -> list[dict[str, Any]]:
    """Turn a chunk's metrics, axes (seed, update), into one row per update; every value is a list over seeds."""
    host = {name: np.asarray(value) for name, value in metrics.items()}
    length = next(iter(host.values())).shape[1]
    return [
        {"step": step + (i + 1) * per_update, "seconds": round(seconds, 3)}
        | {name: value[:, i].tolist() for name, value in host.items()}
        for i in range(length)
    ]


def check_finite(rows: list[dict[str, Any]], config: Config, *, last_good: int) -> None:
    """Raise `NonFiniteError` where a row holds NaN or infinity, naming metric, seed, step and the checkpoint to go back to."""
    for row in rows:
        bad = nonfinite(row)
        if bad:
            raise NonFiniteError(
                f"training broke at step {row['step']}: {', '.join(bad[:3])} (seeds {list(config.training.seeds)}) is not "
                f"finite; the checkpoint of step {last_good} is good: lower agent.learning_rate, or agent.max_grad_norm"
            )
