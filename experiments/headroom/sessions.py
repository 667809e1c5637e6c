"""Sessions for the ruler: users who arrive with a short history, policies that see what the ruler shows, every step kept.

Shapes: N sessions, T steps, U users of the world, J catalogue items, D state dimensions, F factors of the response.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from dsrm_jax.agents.agent import Agent
from dsrm_jax.config import EvaluationConfig
from dsrm_jax.errors import InputError
from dsrm_jax.purify.encoder import Embeddings, make_catalogue, recent_items
from dsrm_jax.purify.perception import Perceive, Perception
from dsrm_jax.purify.view import View
from dsrm_jax.simulator.environment import Environment, EnvState, Observation
from dsrm_jax.simulator.history import keep_last
from dsrm_jax.simulator.response import FactorResponse
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import Step, play, until_left
from dsrm_jax.types import PyTree

ORACLE_STEPS = 10
USERS_AT_ONCE = 64


@struct.dataclass
class Recorded:
    """N complete sessions, step by step.

    Attributes:
        clicks: `(N, T)` int32, items clicked at each step; 0 after the user left.
        popular: `(N, T)` int32, popular items shown.
        present: `(N, T)` bool, whether the user was still there.
    """

    clicks: Int[Array, "N T"]
    popular: Int[Array, "N T"]
    present: Bool[Array, "N T"]


@struct.dataclass
class Sighting(Observation):
    """An observation, and whose it is: `oracle_perceive` alone may look at that."""

    user: Int[Array, "..."] = struct.field(kw_only=True)


def arriving_with(environment: Environment, lengths: Sequence[int]) -> Environment:
    """Return an environment whose users arrive with at most so many events, and whose observation is a `Sighting`.

    The events of a session enter the history as ever.

    Args:
        environment: from `make_environment`.
        lengths: events kept at arrival; of several, each session draws one uniformly.
    """
    choices = jnp.asarray(lengths, jnp.int32)

    def reset(key: jax.Array, world: World) -> tuple[PyTree, EnvState]:
        reset_key, length_key = jax.random.split(key)
        observation, state = environment.reset(reset_key, world)
        history = keep_last(state.history, jax.random.choice(length_key, choices))
        unlogged = jnp.minimum(state.unlogged, history.length)
        state = replace(state, history=history, unlogged=unlogged)
        return sighted(replace(observation, history=history, unlogged=unlogged), state), state

    def step(key: jax.Array, state: EnvState, slate: Int[Array, "K"], world: World) -> tuple[PyTree, ...]:
        observation, state, *rest = environment.step(key, state, slate, world)
        return (sighted(observation, state), state, *rest)

    def step_auto_reset(key: jax.Array, state: EnvState, slate: Int[Array, "K"], world: World) -> tuple[PyTree, ...]:
        step_key, reset_key = jax.random.split(key)
        seen, final, reward, terminated, truncated, info = step(step_key, state, slate, world)
        next_seen, state = jax.tree.map(
            lambda new, old: jnp.where(info["ended"], new, old), reset(reset_key, world), (seen, final)
        )
        return next_seen, state, reward, terminated, truncated, info | {"final_observation": seen}

    def sighted(observation: Observation, state: EnvState) -> Sighting:
        return Sighting(**vars(observation), user=state.user)

    return environment._replace(reset=reset, step=step, step_auto_reset=step_auto_reset)


def oracle_states(embeddings: Embeddings, world: World, *, ridge: float = 1.0) -> Float[Array, "U D"]:
    """Return the best state of each user in the learnt space: the one whose predicted clicks are nearest to the true chances.

    Over the catalogue, minimises sum_j KL(p_j || sigmoid(<s, vector_j> + bias_j)) + ridge / 2 |s|^2: what endless histories of
    uniformly shown items would teach, so that what separates the oracle from a purified state is the state alone and never
    the item vectors. A regression of the true logits would spend its fit on chances near 0 and 1. It is a ceiling for predicting
    clicks, and not always for slates: in the kuairand world, whose item vectors are learnt from few rows, those of purified
    states earn more (`experiments/purifiers.md`).

    Args:
        embeddings: the frozen item side.
        world: with factor responses, whose truth is known.
        ridge: weight of the squared norm, positive.

    Returns:
        `(U, D)` float32, after `ORACLE_STEPS` Newton steps from zero.

    Raises:
        InputError: the world's responses are no factors.
    """
    response = world.response
    if not isinstance(response, FactorResponse):
        raise InputError(
            "the oracle state needs users whose true click logits are factors, which the embedded synthetic worlds have: "
            "leave data.path empty and the default data folder without files"
        )
    vectors, bias = embeddings.vectors[world.item], embeddings.bias[world.item]
    prior = ridge * jnp.eye(vectors.shape[1])

    def of_user(user: tuple[Array, Array]) -> Array:
        factors, user_bias = user
        truth = jax.nn.sigmoid(response.item @ factors + response.item_bias + user_bias)

        def newton(_: int, state: Array) -> Array:
            chance = jax.nn.sigmoid(vectors @ state + bias)
            gradient = vectors.T @ (truth - chance) - ridge * state
            curvature = (vectors * (chance * (1 - chance))[:, None]).T @ vectors + prior
            return state + jnp.linalg.solve(curvature, gradient)

        return jax.lax.fori_loop(0, ORACLE_STEPS, newton, jnp.zeros(vectors.shape[1]))

    return jax.lax.map(of_user, (response.user, response.user_bias), batch_size=USERS_AT_ONCE)


def oracle_perceive(perception: Perception, key: jax.Array, seen: Sighting) -> View:
    """`Perceive` of the ruler's ceiling: `perception.purifier` is the table `(U, D)` of `oracle_states`."""
    found = perception.purifier[seen.user]
    return View(found, found, seen.time, recent_items(seen.history))


def record_sessions(
    key: Key[Array, ""],
    agent: Agent,
    agent_state: PyTree,
    perceive: Perceive,
    environment: Environment,
    world: World,
    perception: Perception,
    *,
    num_sessions: int = EvaluationConfig.num_sessions,
) -> Recorded:
    """Run complete sessions of a policy by its mode and keep every step.

    Under one key all policies meet the same users with the same histories, and the same random numbers decide their clicks.

    Args:
        key: typed PRNG key; consumed.
        agent: whose mode acts.
        agent_state: its state.
        perceive: what it sees.
        environment: from `arriving_with`.
        world: the held-out world.
        perception: frozen encoder and one purifier.
        num_sessions: N, all in parallel.
    """
    catalogue = make_catalogue(perception.encoder.embeddings, world)

    def act(view_key: jax.Array, act_key: jax.Array, env: PyTree, observation: PyTree) -> PyTree:
        return agent.act(agent_state, act_key, perceive(perception, view_key, observation), catalogue, True)

    def keep(_: jax.Array, step: Step) -> tuple[jax.Array, ...]:
        present = step.env[1]
        clicks = jnp.where(present, jnp.sum(step.info["clicks"], axis=-1, dtype=jnp.int32), 0)
        popular = jnp.where(present, jnp.sum(world.is_popular[step.slate], axis=-1, dtype=jnp.int32), 0)
        return clicks, popular, present

    _, recorded = play(
        key, act, until_left(environment), world, keep, num_users=num_sessions, num_steps=environment.max_steps, draws=2
    )
    return Recorded(*(x.T for x in recorded))
