"""Complete sessions of chosen users under a rule, every user as often as every other.

Shapes: N sessions, U users of the world, T steps.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dsrm_jax.simulator.environment import Environment, EnvState, Observation
from dsrm_jax.simulator.world import SessionStarts, World
from dsrm_jax.training.rollout import Act, Step, make_step, until_left


class Played(NamedTuple):
    """What N sessions came to; of users who come back, all their sessions together."""

    length: Int[Array, "N"]  # steps
    returned: Float[Array, "N"]  # R_cum
    popular: Int[Array, "N"]  # popular items shown
    step_share: Float[Array, "T"]  # popular share of what all who were there were shown at a step
    step_slates: Int[Array, "T"]  # how many were there


def arrive(
    key: jax.Array, environment: Environment, world: World, users: Int[Array, "N"]
) -> tuple[Observation, EnvState]:
    """Let these users arrive, without a history; the key is consumed."""
    zero = jnp.zeros(1, jnp.int32)

    def one(key: jax.Array, user: Int[Array, ""]) -> tuple[Observation, EnvState]:
        row = SessionStarts(user[None], zero, zero.astype(bool), jnp.zeros_like(world.starts.first))
        return environment.reset(key, replace(world, starts=row))

    return jax.vmap(one)(jax.random.split(key, users.shape[0]), users)


def play_sessions(key: jax.Array, act: Act, environment: Environment, world: World, users: Int[Array, "N"]) -> Played:
    """Let each of `users` (repeated as often as wanted) go through one session; the key is consumed.

    Who arrives and with which luck depends on the key alone: rules under one key are compared session by session.
    """
    reset_key, run_key = jax.random.split(key)
    observation, env = arrive(reset_key, environment, world, users)
    alone = until_left(environment)

    def keep(_: jax.Array, step: Step) -> tuple[jax.Array, jax.Array]:
        present = step.env[1]
        shown = jnp.sum(world.is_popular[step.slate], axis=1)
        return jnp.sum(jnp.where(present, shown, 0)), jnp.sum(present)

    step = make_step(
        alone.step_auto_reset,
        lambda key, env, seen: act(key, env[0], seen),
        world,
        look=lambda _, seen: seen,
        keep=keep,
        couple=alone.couple,
    )
    start = (env, jnp.ones(users.shape[0], bool)), observation
    keys = jax.random.split(run_key, environment.max_steps)
    ((env, _), _), (popular, slates) = jax.lax.scan(step, start, keys)
    size = environment.slate_size
    share = popular / jnp.maximum(slates * size, 1)
    return Played(env.time, env.clicks / size, env.popular, share, slates)
