"""A ring buffer of transitions as a pytree, part of an agent's state; and what learns from batches drawn from it."""

from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.agents.agent import Transition
from dsrm_jax.agents.networks import features, seen
from dsrm_jax.agents.settings import SharedConfig, settings_of
from dsrm_jax.purify.view import Catalogue
from dsrm_jax.settings import COUNT, COUNT_OR_ZERO, POSITIVE_SHARE, Settings, configuration, number
from dsrm_jax.types import PyTree

T = TypeVar("T")
S = TypeVar("S", bound=Settings)
Params = dict[str, PyTree]
Optimisers = dict[str, optax.GradientTransformation]
Metrics = dict[str, jax.Array]


@configuration
class ReplayConfig:
    """The ring buffer of the off-policy methods, and how often they learn from it."""

    capacity: int = number(default=20480, within=COUNT)
    """Transitions kept; the oldest are overwritten."""
    batch_size: int = number(default=256, within=COUNT)
    """Transitions per gradient step."""
    gradient_steps: int = number(default=8, within=COUNT)
    """Gradient steps per rollout."""
    warm_up: int = number(default=1024, within=COUNT_OR_ZERO)
    """Transitions collected before the first gradient step, by the method's own exploring policy."""
    tau: float = number(default=0.01, within=POSITIVE_SHARE)
    """Polyak rate of the target networks, in (0, 1]."""


@struct.dataclass
class Replay:
    """The last `capacity` rows that were added."""

    rows: PyTree  # any pytree of arrays `(capacity, ...)`
    index: Int[Array, ""]  # `()` int32, where the next row goes
    size: Int[Array, ""]  # `()` int32, rows held, at most `capacity`


@struct.dataclass
class Experience:
    """What is kept of a transition: no more than values are learnt from."""

    # `(..., D + 1)` float32, state and clock (`networks.features`); with what the platform counts between them where it does
    features: Float[Array, "... D+1"]
    # `(..., E)` float32, the hyper-action that was carried out, noise included; or `(..., K)` int32, the slate
    action: Float[Array, "... E"] | Int[Array, "... K"]
    # `(...)` float32, `(..., M)` float32 of several objectives, or `(..., K)` bool, the slots' clicks
    reward: Float[Array, "..."] | Bool[Array, "... K"]
    terminated: Bool[Array, "..."]  # `(...)` bool
    # `(..., D + 1)` float32, of what the same user truly saw next; meaningless where terminated
    next_features: Float[Array, "... D+1"]


@struct.dataclass
class Learner:
    """Networks by name: their parameters, the parameters' slow copies, their optimisers' states; three dicts of the same keys."""

    params: Params
    target: Params
    opt_state: Params


@struct.dataclass
class ReplayState:
    """Arrays of an agent that replays; of an offline one `replay` holds the logged transitions and never changes."""

    learner: Learner
    replay: Replay


class Parts(NamedTuple, Generic[S]):
    """What the functions of a method that replays are closed over: static, but for the floats of its settings."""

    settings: S
    shared: SharedConfig
    replay: ReplayConfig
    slate_size: int
    networks: dict[str, nn.Module]
    optimisers: Optimisers

    def apply(self, name: str, params: PyTree, *inputs: PyTree) -> PyTree:
        """Return what a network says under its parameters."""
        return self.networks[name].apply(params, *inputs)


def make_parts(
    method: str,
    own: type[S],
    keywords: Mapping[str, PyTree],
    networks: dict[str, nn.Module],
    rates: Mapping[str, float | jax.Array],
) -> Parts[S]:
    """Return the parts that a method's keywords make, with Adam on clipped gradients for each of what `rates` names.

    Raises:
        InputError: a value outside its field's range.
    """
    shared = settings_of(SharedConfig, method, keywords)
    optimisers = {name: clipped_adam(rate, shared.max_grad_norm) for name, rate in rates.items()}
    buffer = settings_of(ReplayConfig, method, keywords)
    return Parts(settings_of(own, method, keywords), shared, buffer, keywords["slate_size"], networks, optimisers)


def start_replay(row: PyTree, *, capacity: int) -> Replay:
    """Return an empty buffer for rows of the shapes and dtypes of `row` (arrays or `jax.ShapeDtypeStruct`)."""
    rows = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), row)
    return Replay(rows, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def full_replay(rows: PyTree) -> Replay:
    """Return a buffer that holds exactly these N rows (leading axis): the fixed data of an offline method."""
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    return Replay(rows, jnp.zeros((), jnp.int32), jnp.full((), num_rows, jnp.int32))


def add(replay: Replay, rows: PyTree) -> Replay:
    """Append N rows (leading axis), overwriting the oldest; of more than `capacity` rows the last stay."""
    capacity = jax.tree.leaves(replay.rows)[0].shape[0]
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    kept = min(num_rows, capacity)
    slots = (replay.index + num_rows - kept + jnp.arange(kept)) % capacity
    held = jax.tree.map(lambda old, new: old.at[slots].set(new[num_rows - kept :]), replay.rows, rows)
    return Replay(held, (replay.index + num_rows) % capacity, jnp.minimum(replay.size + num_rows, capacity))


def sample(key: jax.Array, replay: Replay, *, batch_size: int) -> PyTree:
    """Draw rows uniformly with repeats from what is held; the key is consumed. An empty buffer gives its zeros."""
    index = jax.random.randint(key, (batch_size,), 0, jnp.maximum(replay.size, 1))
    return jax.tree.map(lambda x: x[index], replay.rows)


def experience(found: Transition, action: jax.Array, reward: jax.Array) -> Experience:
    """Keep of N transitions what `Experience` holds."""
    return Experience(
        features(seen(found.view), found.view.time),
        action,
        reward,
        found.terminated,
        features(seen(found.next_view), found.next_view.time),
    )


def hyper_row(catalogue: Catalogue, *objectives: int) -> Experience:
    """Return the shapes of an `Experience` of a hyper-action, whose reward is a scalar or has that many objectives."""
    size = catalogue.vectors.shape[1] + 3
    return _row(catalogue, ((size,), jnp.float32), (objectives, jnp.float32))


def slate_row(catalogue: Catalogue, slate_size: int) -> Experience:
    """Return the shapes of an `Experience` of a slate and its clicks."""
    return _row(catalogue, ((slate_size,), jnp.int32), ((slate_size,), jnp.bool_))


def _row(
    catalogue: Catalogue, action: tuple[tuple[int, ...], type], reward: tuple[tuple[int, ...], type]
) -> Experience:
    known = (catalogue.vectors.shape[1] + catalogue.context_size + 1,), jnp.float32
    shapes: list[PyTree] = [jax.ShapeDtypeStruct(*x) for x in (known, action, reward, ((), jnp.bool_), known)]
    return Experience(*shapes)


def clipped_adam(learning_rate: float | jax.Array, max_grad_norm: float | jax.Array) -> optax.GradientTransformation:
    """Return Adam on gradients whose global norm is clipped."""
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(learning_rate))


def start_learner(params: Params, optimisers: Optimisers) -> Learner:
    """Return a learner whose slow copies equal its parameters."""
    return Learner(params, params, {name: optimisers[name].init(params[name]) for name in params})


def improve(
    learner: Learner, name: str, optimisers: Optimisers, loss: Callable[[PyTree], tuple[jax.Array, T]]
) -> tuple[Learner, jax.Array, T]:
    """Take one optimiser step on the network `name`.

    Args:
        learner: what holds it.
        name: of the network.
        optimisers: of every network.
        loss: `params -> (loss, more)`.

    Returns:
        `(learner, loss, more)`, the last two before the step.
    """
    (error, more), grads = jax.value_and_grad(loss, has_aux=True)(learner.params[name])
    updates, opt_state = optimisers[name].update(grads, learner.opt_state[name], learner.params[name])
    params = learner.params | {name: optax.apply_updates(learner.params[name], updates)}
    return Learner(params, learner.target, learner.opt_state | {name: opt_state}), error, more


def track(learner: Learner, tau: float | jax.Array) -> Learner:
    """Move the slow copies by the share `tau` of the way to the parameters (Polyak averaging)."""
    target = optax.incremental_update(learner.params, learner.target, tau)
    return Learner(learner.params, target, learner.opt_state)


def learn(
    step: Callable[[T, jax.Array, PyTree, jax.Array], tuple[T, Metrics]],
    learner: T,
    key: jax.Array,
    replay: Replay,
    *,
    settings: ReplayConfig,
) -> tuple[T, Metrics]:
    """Take `gradient_steps` steps on batches from the buffer, none of them before it holds `warm_up` rows.

    Args:
        step: `(learner, key, batch, index) -> (learner, metrics)`; `index` counts the steps of this call from 0. It is not
            batched when the caller is, so that `lax.cond` on it stays a branch under `vmap`.
        learner: whatever learns: parameters, targets, optimisers' states.
        key: consumed.
        replay: where the batches come from.
        settings: batch size, steps and warm-up.

    Returns:
        The learner, unchanged during the warm-up, and the mean of the steps' metrics.
    """

    def body(learner: T, inputs: tuple[jax.Array, jax.Array]) -> tuple[T, Metrics]:
        step_key, index = inputs
        batch_key, learner_key = jax.random.split(step_key)
        return step(learner, learner_key, sample(batch_key, replay, batch_size=settings.batch_size), index)

    keys = jax.random.split(key, settings.gradient_steps)
    learnt, metrics = jax.lax.scan(body, learner, (keys, jnp.arange(settings.gradient_steps)))
    # A choice between two small trees, not a branch: under vmap over seeds a branch would copy the buffer.
    ready = replay.size >= settings.warm_up
    learner = jax.tree.map(lambda new, old: jnp.where(ready, new, old), learnt, learner)
    return learner, jax.tree.map(lambda x: jnp.where(ready, jnp.mean(x), 0.0), metrics)


def practise(
    step: Callable[[Learner, jax.Array, Experience, jax.Array], tuple[Learner, Metrics]],
    agent: ReplayState,
    key: jax.Array,
    rows: Experience | None,
    *,
    settings: ReplayConfig,
) -> tuple[ReplayState, Metrics]:
    """`Agent.update` of a method that replays: keep what was experienced (None: nothing), then `learn`; the key is consumed."""
    replay = agent.replay if rows is None else add(agent.replay, rows)
    learner, metrics = learn(step, agent.learner, key, replay, settings=settings)
    return ReplayState(learner, replay), metrics
