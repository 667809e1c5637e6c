"""A ring buffer of transitions as a pytree, part of an agent's state; and what learns from batches drawn from it."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int

from dsrm_jax.config import ReplayConfig

T = TypeVar("T")
Params = dict[str, Any]


@struct.dataclass
class Replay:
    """The last `capacity` rows that were added.

    Attributes:
        rows: any pytree of arrays `(capacity, ...)`.
        index: `()` int32, where the next row goes.
        size: `()` int32, rows held, at most `capacity`.
    """

    rows: Any
    index: Int[Array, ""]
    size: Int[Array, ""]


def start_replay(row: object, *, capacity: int) -> Replay:
    """Return an empty buffer for rows of the shapes and dtypes of `row` (arrays or `jax.ShapeDtypeStruct`)."""
    rows = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), row)
    return Replay(rows, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def full_replay(rows: object) -> Replay:
    """Return a buffer that holds exactly these N rows (leading axis): the fixed data of an offline method."""
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    return Replay(rows, jnp.zeros((), jnp.int32), jnp.full((), num_rows, jnp.int32))


def add(replay: Replay, rows: object) -> Replay:
    """Append N rows (leading axis), overwriting the oldest; of more than `capacity` rows the last stay."""
    capacity = jax.tree.leaves(replay.rows)[0].shape[0]
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    kept = min(num_rows, capacity)
    slots = (replay.index + num_rows - kept + jnp.arange(kept)) % capacity
    held = jax.tree.map(lambda old, new: old.at[slots].set(new[num_rows - kept :]), replay.rows, rows)
    return Replay(held, (replay.index + num_rows) % capacity, jnp.minimum(replay.size + num_rows, capacity))


def sample(key: jax.Array, replay: Replay, *, batch_size: int) -> Any:
    """Draw rows uniformly with repeats from what is held; the key is consumed. An empty buffer gives its zeros."""
    index = jax.random.randint(key, (batch_size,), 0, jnp.maximum(replay.size, 1))
    return jax.tree.map(lambda x: x[index], replay.rows)


@struct.dataclass
class Learner:
    """Networks by name: their parameters, the parameters' slow copies, their optimisers' states; three dicts of the same keys."""

    params: Params
    target: Params
    opt_state: Params


def clipped_adam(
    learning_rate: float | jax.Array, max_grad_norm: float | jax.Array
) -> optax.GradientTransformation:
    """Return Adam on gradients whose global norm is clipped."""
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(learning_rate))


def start_learner(params: Params, optimiser: dict[str, optax.GradientTransformation]) -> Learner:
    """Return a learner whose slow copies equal its parameters."""
    return Learner(params, params, {name: optimiser[name].init(params[name]) for name in params})


def descend(learner: Learner, name: str, optimiser: optax.GradientTransformation, grads: Any) -> Learner:
    """Take one optimiser step on the network `name`."""
    updates, opt_state = optimiser.update(grads, learner.opt_state[name], learner.params[name])
    params = optax.apply_updates(learner.params[name], updates)
    return Learner(learner.params | {name: params}, learner.target, learner.opt_state | {name: opt_state})


def track(learner: Learner, tau: float | jax.Array) -> Learner:
    """Move the slow copies by the share `tau` of the way to the parameters (Polyak averaging)."""
    target = optax.incremental_update(learner.params, learner.target, tau)
    return Learner(learner.params, target, learner.opt_state)


def learn(
    step: Callable[[T, jax.Array, Any, jax.Array], tuple[T, dict[str, jax.Array]]],
    learner: T,
    key: jax.Array,
    replay: Replay,
    *,
    config: ReplayConfig,
) -> tuple[T, dict[str, jax.Array]]:
    """Take `config.gradient_steps` steps on batches from the buffer, none of them before it holds `config.warm_up` rows.

    Args:
        step: `(learner, key, batch, index) -> (learner, metrics)`; `index` counts the steps of this call from 0. It is not
            batched when the caller is, so that `lax.cond` on it stays a branch under `vmap`.
        learner: whatever learns: parameters, targets, optimisers' states.
        key: consumed.
        replay: where the batches come from.
        config: batch size, steps and warm-up.

    Returns:
        The learner, unchanged during the warm-up, and the mean of the steps' metrics.
    """

    def body(learner: T, inputs: tuple[jax.Array, jax.Array]) -> tuple[T, dict[str, jax.Array]]:
        step_key, index = inputs
        batch_key, learner_key = jax.random.split(step_key)
        batch = sample(batch_key, replay, batch_size=config.batch_size)
        return step(learner, learner_key, batch, index)

    keys = jax.random.split(key, config.gradient_steps)
    learnt, metrics = jax.lax.scan(body, learner, (keys, jnp.arange(config.gradient_steps)))
    # A choice between two small trees, not a branch: under vmap over seeds a branch would copy the buffer.
    ready = replay.size >= config.warm_up
    learner = jax.tree.map(lambda new, old: jnp.where(ready, new, old), learnt, learner)
    return learner, jax.tree.map(lambda x: jnp.where(ready, jnp.mean(x), 0.0), metrics)
