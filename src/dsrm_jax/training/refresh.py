"""Refresh rounds: Stage I goes on with histories that a policy made in the TRAINING simulator.

A purifier that reads its condition by a learnt network is used off its training distribution once a policy acts on it: log
windows hold what the logging policy showed, sessions what the ranking showed. `guided` purifiers read our own
slates by the likelihood of their clicks alone, whatever chose them, and need none of this.
"""

import jax
from jaxtyping import Array, Float, Key

from dsrm_jax.agents.yardsticks import make_yardstick
from dsrm_jax.config import Config
from dsrm_jax.purify.encoder import make_catalogue
from dsrm_jax.purify.perception import (
    FROM_PAIRS,
    SEED_AXES,
    Perception,
    fit_perception_purifier,
    make_perceive,
    perception_modules,
    purifier_settings,
)
from dsrm_jax.purify.posterior import UserPosterior
from dsrm_jax.purify.targets import Visited
from dsrm_jax.simulator.environment import Environment, EnvState, Observation
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import play
from dsrm_jax.types import PyTree

NUM_USERS = 128
NUM_STEPS = 64  # about two sessions of each user


def collect_histories(
    key: Key[Array, ""], config: Config, environment: Environment, world: World, perception: Perception
) -> Visited:
    """Let half-and-half greedy slates on the purified state make histories, and keep them with their users.

    Args:
        key: typed PRNG key; consumed.
        config: of the run.
        environment: the simulator.
        world: the training world, never the held-out one.
        perception: frozen encoder and one purifier.

    Returns:
        `NUM_USERS * NUM_STEPS` histories as they stood before each step.
    """
    perceive = make_perceive(*perception_modules(config))
    agent = make_yardstick("quota_greedy_purified", slate_size=environment.slate_size)
    catalogue = make_catalogue(perception.encoder.embeddings, world)

    def act(view_key: jax.Array, act_key: jax.Array, env: EnvState, observation: Observation) -> PyTree:
        return agent.act((), act_key, perceive(perception, view_key, observation), catalogue, True)

    found = play(
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
    keys: Key[Array, "N"],
    config: Config,
    environment: Environment,
    perception: Perception,
    world: World,
    posterior: UserPosterior,
) -> tuple[PyTree, Float[Array, "N iterations"] | None]:
    """Run `purifier.refresh_rounds` rounds of collecting histories and training on them mixed with log windows.

    Args:
        keys: `(N,)` typed PRNG keys, one per seed; consumed.
        config: of the run.
        environment: the simulator.
        perception: trained so far, purifiers with a leading axis N.
        world: the training world.
        posterior: of its users, as `fit_perception_purifier` takes it.

    Returns:
        `(purifier params, losses)` with a leading axis N; the purifiers as they were and None where the kind has no use for it or
        no round is asked for.
    """
    settings = purifier_settings(config)
    purifier, losses = perception.purifier, None
    if settings.kind not in FROM_PAIRS:
        return purifier, losses

    def collect(key: jax.Array, world: World, perception: Perception) -> Visited:
        return collect_histories(key, config, environment, world, perception)

    collect_all = jax.jit(jax.vmap(collect, in_axes=(0, None, SEED_AXES)))
    for r in range(settings.refresh_rounds):
        collect_keys, fit_keys = (
            jax.vmap(lambda key, stage=stage: jax.random.fold_in(key, stage))(keys)
            for stage in (2 * r, 2 * r + 1)
        )
        visited = collect_all(collect_keys, world, Perception(perception.encoder, purifier))
        purifier, losses = fit_perception_purifier(
            fit_keys,
            config,
            perception.encoder,
            world.starts,
            posterior,
            visited=visited,
            initial=purifier,
        )
    return purifier, losses
