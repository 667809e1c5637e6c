"""Rollout and update as one pure program: jit it, vmap it over seeds, scan it in chunks.

Shapes: B users in parallel, T rollout steps, K slate size.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Key

from dsrm_jax.agents.agent import Agent, LoggedData, Rollout, transitions
from dsrm_jax.agents.expected import informing
from dsrm_jax.purify.encoder import Encoder, make_catalogue
from dsrm_jax.purify.perception import Perceive, Perception, make_perceive
from dsrm_jax.purify.purifier import Purifier
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.simulator.environment import Environment, EnvState
from dsrm_jax.simulator.world import World
from dsrm_jax.training.logged import logged_data
from dsrm_jax.training.rollout import experience, reset_users
from dsrm_jax.training.settings import TrainingConfig
from dsrm_jax.types import PyTree

Metrics = dict[str, jax.Array]
# of a behaviour policy whose sessions an offline method learns from
BEHAVIOUR_USERS, BEHAVIOUR_STEPS = 128, 64


@struct.dataclass
class TrainState:
    """Everything that a resumed run needs, arrays only."""

    agent: PyTree  # the agent's own state
    env: EnvState  # `(B,)` sessions under way
    view: View  # `(B,)` what the agent will act on next
    key: Key[Array, ""]  # typed PRNG key of this seed
    step: Int[Array, ""]  # int32, batched environment steps taken


class Trainer(NamedTuple):
    """Pure functions of one seed."""

    # `(key, world, perception) -> TrainState`. The key is consumed.
    init: Callable[[jax.Array, World, Perception], TrainState]
    # `(state, world, perception) -> (state, metrics)`: T steps of B users and one update
    iterate: Callable[[TrainState, World, Perception], tuple[TrainState, Metrics]]
    # `(state, world, perception, num_updates) -> (state, metrics)`: a scan of `iterate`, metrics stacked
    train: Callable[[TrainState, World, Perception, int], tuple[TrainState, Metrics]]


def make_trainer(
    environment: Environment,
    agent: Agent,
    encoder: Encoder,
    purifier: Purifier,
    *,
    num_users: int = TrainingConfig.num_users,
    rollout_length: int = TrainingConfig.rollout_length,
) -> Trainer:
    """Build the training program of an agent; the pieces' own floats may be traced, so that a sweep can vmap over them.

    Args:
        environment: where it acts.
        agent: what learns.
        encoder: of histories.
        purifier: of observed states.
        num_users: B, users in parallel.
        rollout_length: T, steps between updates.

    Returns:
        A `Trainer`; nothing in it calls back to the host, and nothing is jitted.
    """
    perceive = make_perceive(encoder, purifier)

    def init(key: jax.Array, world: World, perception: Perception) -> TrainState:
        key, reset_key, view_key, agent_key = jax.random.split(key, 4)
        observation, env = reset_users(reset_key, environment, world, num_users=num_users)
        catalogue = make_catalogue(perception.encoder.embeddings, world)
        look = informing(perceive, catalogue)
        view = look(perception, view_key, observation)
        catalogue = replace(catalogue, context_size=0 if view.context is None else view.context.shape[-1])
        logged_key, agent_key = jax.random.split(agent_key)
        logged = None
        if agent.offline is not None:
            logged = offline_data(logged_key, agent.offline, environment, world, perception, look, catalogue)
        return TrainState(
            agent=agent.init(agent_key, catalogue, logged), env=env, view=view, key=key, step=jnp.zeros((), jnp.int32)
        )

    def iterate(state: TrainState, world: World, perception: Perception) -> tuple[TrainState, Metrics]:
        catalogue = make_catalogue(perception.encoder.embeddings, world)
        key, rollout_key, update_key = jax.random.split(state.key, 3)
        (env, view), rollout, infos = experience(
            jax.random.split(rollout_key, rollout_length),
            lambda key, view: agent.act(state.agent, key, view, catalogue),
            (state.env, state.view),
            environment,
            informing(perceive, catalogue),
            world,
            perception,
        )
        learnt, metrics = agent.update(state.agent, update_key, rollout, catalogue)
        metrics |= rollout_metrics(rollout, infos)
        return TrainState(learnt, env, view, key, state.step + rollout_length), metrics

    def train(state: TrainState, world: World, perception: Perception, num_updates: int) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(lambda s, _: iterate(s, world, perception), state, length=num_updates)

    return Trainer(init, iterate, train)


def make_train(
    environment: Environment,
    agent: Agent,
    encoder: Encoder,
    purifier: Purifier,
    *,
    num_users: int = TrainingConfig.num_users,
    rollout_length: int = TrainingConfig.rollout_length,
    num_updates: int = 200,
) -> Callable[[Key[Array, ""], World, Perception], tuple[PyTree, Metrics]]:
    """Build a whole training as one pure function, to be jitted and vmapped over seeds.

    Arguments are as `make_trainer` takes them; `num_updates` is the number of rollouts, each followed by one update.

    Returns:
        `train(key, world, perception) -> (policy, metrics)`: the agent's trained state, as `Agent.act` takes it, and metrics with
        a leading axis of updates. The key is consumed.
    """
    trainer = make_trainer(environment, agent, encoder, purifier, num_users=num_users, rollout_length=rollout_length)

    def train(key: Key[Array, ""], world: World, perception: Perception) -> tuple[PyTree, Metrics]:
        state, metrics = trainer.train(trainer.init(key, world, perception), world, perception, num_updates)
        return state.agent, metrics

    return train


def offline_data(
    key: jax.Array,
    source: Literal["log"] | Agent,
    environment: Environment,
    world: World,
    perception: Perception,
    perceive: Perceive,
    catalogue: Catalogue,
) -> LoggedData:
    """Return what an offline method learns from (`Agent.offline`): the log, or a behaviour policy's sessions.

    A behaviour policy acts in the training simulator; the log's item sequences stay those of the log. The key is consumed.
    """
    log_key, reset_key, view_key, scan_key = jax.random.split(key, 4)
    logged = logged_data(log_key, environment, world, perception, perceive, catalogue)
    if source == "log":
        return logged
    observation, env = reset_users(reset_key, environment, world, num_users=BEHAVIOUR_USERS)
    _, rollout, _ = experience(
        jax.random.split(scan_key, BEHAVIOUR_STEPS),
        lambda key, view: source.act((), key, view, catalogue),
        (env, perceive(perception, view_key, observation)),
        environment,
        perceive,
        world,
        perception,
    )
    return replace(logged, transitions=transitions(rollout))


def rollout_metrics(rollout: Rollout, info: Metrics) -> Metrics:
    """Summarise a rollout in the click reward alone, never a shaped one.

    Returns:
        Scalars: `reward` (R_each), `ad` (batch AD averaged over steps), `slate_ad`, `broken` (share of slates at or above the
        bound), `sessions` ended, and the means over those sessions of `length` and `return` (NaN-free: 0 where none ended).
    """
    ended = info["ended"]
    sessions = jnp.sum(ended)
    per_session = 1.0 / jnp.maximum(sessions, 1)
    batch_share = jnp.mean(rollout.popular_share, axis=1)
    return {
        "reward": jnp.mean(rollout.reward),
        "ad": jnp.mean(jnp.abs(2 * batch_share - 1)),
        "slate_ad": jnp.mean(jnp.abs(2 * rollout.popular_share - 1)),
        "broken": jnp.mean(info["broken"].astype(jnp.float32)),
        "sessions": sessions,
        "length": jnp.sum(jnp.where(ended, info["session_length"], 0)) * per_session,
        "return": jnp.sum(jnp.where(ended, info["session_return"], 0.0)) * per_session,
    }
