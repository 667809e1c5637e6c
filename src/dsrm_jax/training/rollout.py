"""One rollout for all: act, respond, look, keep. What trains, evaluates, refreshes Stage I and records are scans of one step.

Shapes: B users in parallel, T steps, K slate size.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dsrm_jax.agents.agent import Rollout
from dsrm_jax.purify.perception import Perceive, Perception
from dsrm_jax.purify.view import View
from dsrm_jax.simulator.environment import Environment, EnvState, Info, Observation, StepResult
from dsrm_jax.simulator.world import World
from dsrm_jax.types import PyTree

Slates = Int[Array, "B K"]
# (*keys, env, what is seen) -> (slates, what the rule says of them); the keys are consumed
Act = Callable[..., tuple[Slates, PyTree]]


class Step(NamedTuple):
    """One step of B users."""

    env: PyTree  # the sessions before it
    seen: PyTree  # what was acted on
    slate: Slates  # `(B, K)` int32 catalogue positions
    record: PyTree  # what `act` returned beside the slate
    reward: Float[Array, "B"]
    terminated: Bool[Array, "B"]
    truncated: Bool[Array, "B"]
    info: Info  # of the environment


Keep = Callable[[jax.Array, Step], PyTree]  # (key, step) -> what is kept of it; the key is consumed


def make_step(
    respond: Callable[[jax.Array, PyTree, Int[Array, "K"], World], StepResult],
    act: Act,
    world: World,
    *,
    look: Callable[[jax.Array, Observation], PyTree],
    keep: Keep,
    draws: int = 1,
    couple: Callable[[Observation, PyTree], tuple[Observation, PyTree]] | None = None,
) -> Callable[[tuple[PyTree, PyTree], jax.Array], tuple[tuple[PyTree, PyTree], PyTree]]:
    """Build the body of a rollout's scan.

    A step's key is split in the order in which it is used: `draws` keys to act, one to respond, one to look, one to keep.

    Args:
        respond: how one user answers a slate: `Environment.step`, `Environment.step_auto_reset`, or another of their signature.
        act: how slates are filled, given `draws` keys.
        world: where.
        look: what of the observation after the step the next one acts on.
        keep: what is kept of the step.
        draws: keys that `act` consumes.
        couple: what users share is settled by it after the step (`Environment.couple`); None: nothing.

    Returns:
        `((env, seen), key) -> ((env, seen), kept)`; the key is consumed.
    """

    def step(carry: tuple[PyTree, PyTree], key: jax.Array) -> tuple[tuple[PyTree, PyTree], PyTree]:
        env, seen = carry
        *act_keys, env_key, look_key, keep_key = jax.random.split(key, draws + 3)
        slate, record = act(*act_keys, env, seen)
        observation, following, reward, terminated, truncated, info = jax.vmap(respond, in_axes=(0, 0, 0, None))(
            jax.random.split(env_key, slate.shape[0]), env, slate, world
        )
        if couple is not None:
            observation, following = couple(observation, following)
        kept = keep(keep_key, Step(env, seen, slate, record, reward, terminated, truncated, info))
        return (following, look(look_key, observation)), kept

    return step


def reset_users(
    key: jax.Array, environment: Environment, world: World, *, num_users: int
) -> tuple[Observation, EnvState]:
    """Let `num_users` users arrive; the key is consumed. Observation and state have a leading axis."""
    return jax.vmap(environment.reset, in_axes=(0, None))(jax.random.split(key, num_users), world)


def experience(
    keys: Key[Array, "T"],
    act: Callable[[jax.Array, View], tuple[Slates, PyTree]],
    start: tuple[EnvState, View],
    environment: Environment,
    perceive: Perceive,
    world: World,
    perception: Perception,
) -> tuple[tuple[EnvState, View], Rollout, Info]:
    """Go on with sessions for T steps, a new one wherever one ends, and keep what an agent learns from.

    The keys are consumed. `start` are sessions under way and what is seen of them. Returned are where the next T steps start, the
    rollout, and what else the environment says of each step.
    """

    def keep(key: jax.Array, step: Step) -> tuple[Rollout, Info]:
        info = dict(step.info)
        final = info.pop("final_observation")
        rollout = Rollout(
            view=step.seen,
            slate=step.slate,
            record=step.record,
            clicks=info.pop("clicks"),
            reward=step.reward,
            popular_share=info.pop("popular_share"),
            terminated=step.terminated,
            truncated=step.truncated,
            final_view=perceive(perception, key, final) if environment.can_truncate else None,
            last_view=None,  # type: ignore[arg-type]  # set once, after the scan
            price=info.pop("price", None),
        )
        return rollout, info

    step = make_step(
        environment.step_auto_reset,
        lambda key, env, view: act(key, view),
        world,
        look=lambda key, observation: perceive(perception, key, observation),
        keep=keep,
        couple=environment.couple,
    )
    end, (rollout, info) = jax.lax.scan(step, start, keys)
    return end, replace(rollout, last_view=end[1]), info


def play(
    key: Key[Array, ""],
    act: Act,
    environment: Environment,
    world: World,
    keep: Keep,
    *,
    num_users: int,
    num_steps: int,
    draws: int = 1,
) -> tuple[PyTree, PyTree]:
    """Let B users come and act on what is seen of them for T steps; where one leaves, the environment says who is next.

    The key is consumed. With an environment of `until_left`, nobody is next. `act`, `keep` and `draws` are as in `make_step`.
    Returned are the sessions after the last step and what was kept, time-major.
    """
    reset_key, run_key = jax.random.split(key)
    observation, env = reset_users(reset_key, environment, world, num_users=num_users)
    step = make_step(
        environment.step_auto_reset,
        act,
        world,
        look=lambda _, seen: seen,
        keep=keep,
        draws=draws,
        couple=environment.couple,
    )
    (env, _), kept = jax.lax.scan(step, (env, observation), jax.random.split(run_key, num_steps))
    return env, kept


def until_left(environment: Environment) -> Environment:
    """Return an environment of one session per user; a state is `(session, present)`, the session as it ended."""

    def reset(key: jax.Array, world: World) -> PyTree:
        observation, env = environment.reset(key, world)
        return observation, (env, jnp.ones((), bool))

    def step(key: jax.Array, state: PyTree, slate: Int[Array, "K"], world: World) -> PyTree:
        env, present = state
        observation, following, *outcome, info = environment.step(key, env, slate, world)
        following = jax.tree.map(lambda new, old: jnp.where(present, new, old), following, env)
        return observation, (following, present & ~info["ended"]), *outcome, info

    together = environment.couple

    def couple(observation: Observation, state: PyTree) -> tuple[Observation, PyTree]:
        assert together is not None
        env, present = state
        observation, env = together(observation, env)
        return observation, (env, present)

    return environment._replace(reset=reset, step_auto_reset=step, couple=together and couple)
