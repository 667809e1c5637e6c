"""Refresh rounds: Stage I goes on with histories that a policy made in the TRAINING simulator.

A purifier that reads its condition by a learnt network is used off its training distribution once a policy acts on it: log
windows hold what the logging policy showed, sessions what the ranking showed. `guided` purifiers read our own
slates by the likelihood of their clicks alone, whatever chose them, and need none of this.
"""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Key

from dsrm_jax.agents.agent import Agent
from dsrm_jax.purify.encoder import Encoder, make_catalogue
from dsrm_jax.purify.perception import SEED_AXES, Perception, make_perceive
from dsrm_jax.purify.posterior import UserPosterior
from dsrm_jax.purify.purifier import Purifier
from dsrm_jax.purify.stage_one import fit_purifiers
from dsrm_jax.purify.targets import Visited
from dsrm_jax.purify.windows import Windows
from dsrm_jax.simulator.environment import Environment, EnvState, Observation
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import play
from dsrm_jax.types import PyTree

NUM_USERS = 128
NUM_STEPS = 64  # about two sessions of each user


class Collectors(NamedTuple):
    """Who makes histories: an environment, a policy that needs no training, and how it perceives."""

    environment: Environment
    agent: Agent
    encoder: Encoder
    purifier: Purifier


def collect_histories(key: Key[Array, ""], collectors: Collectors, world: World, perception: Perception) -> Visited:
    """Let a policy on the purified state make histories, and keep them with their users.

    The key is consumed. The agent's state is `()`, and it acts greedily. `world` is the training world, never the held-out one;
    `perception` has one purifier. There are `NUM_USERS * NUM_STEPS` histories, as they stood before each step.
    """
    environment, agent, encoder, purifier = collectors
    perceive = make_perceive(encoder, purifier)
    catalogue = make_catalogue(perception.encoder.embeddings, world)

    def act(view_key: jax.Array, act_key: jax.Array, env: EnvState, observation: Observation) -> PyTree:
        return agent.act((), act_key, perceive(perception, view_key, observation), catalogue, True)

    _, found = play(
        key,
        act,
        environment,
        world,
        keep=lambda _, step: (step.env.history, step.env.user),
        num_users=NUM_USERS,
        num_steps=NUM_STEPS,
        draws=2,
    )
    return Visited(*jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found))


def refresh_perception(
    keys: Key[Array, "N"], collectors: Collectors, perception: Perception, world: World, posterior: UserPosterior
) -> tuple[PyTree, Float[Array, "N iterations"] | None]:
    """Run the purifier's `refresh_rounds` rounds of collecting histories and training on them mixed with log windows.

    The keys, one per seed, are consumed. The collectors' purifier is the one that is trained; those trained so far have a leading
    axis N in `perception`. `world` is the training world, and `posterior` that of its users.

    Returns:
        `(purifier params, losses)` with a leading axis N; the purifiers as they were and None where no round is asked for.
    """
    params, losses = perception.purifier, None
    environment, _, encoder, purifier = collectors

    def collect(key: Key[Array, ""], world: World, perception: Perception) -> Visited:
        return collect_histories(key, collectors, world, perception)

    collect_all = jax.jit(jax.vmap(collect, in_axes=(0, None, SEED_AXES)))
    for r in range(purifier.learning.refresh_rounds):
        collect_keys, fit_keys = (
            jax.vmap(lambda key, stage=stage: jax.random.fold_in(key, stage))(keys) for stage in (2 * r, 2 * r + 1)
        )
        visited = collect_all(collect_keys, world, Perception(perception.encoder, params))
        params, losses = fit_purifiers(
            fit_keys,
            encoder,
            purifier,
            perception.encoder,
            Windows(world.starts, environment.history_length, environment.arrival_length),
            posterior,
            visited=visited,
            initial=params,
        )
    return params, losses
