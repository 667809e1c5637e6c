"""Probes of a trained perception: P1, P2 and P6 of facts 5.5 on histories of users it need not have seen."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float, Key

from dsrm_jax.config import Config, EnvironmentConfig, TrainingConfig
from dsrm_jax.purify.perception import (
    Perception,
    perception_modules,
    purifier_settings,
    sample_states,
    seed_axes,
    share_process,
)
from dsrm_jax.purify.posterior import UserPosterior
from dsrm_jax.purify.probes import change, gaussian_floor, leak_ratio, oracle_recovery
from dsrm_jax.purify.process import ReverseProcess
from dsrm_jax.purify.purifier import level_losses
from dsrm_jax.purify.schedule import Schedule, make_schedule
from dsrm_jax.simulator.world import SessionStarts


def probe_perception(
    key: Key[Array, ""],
    config: Config,
    perception: Perception,
    starts: SessionStarts,
    posterior: UserPosterior,
    *,
    num_states: int = 2000,
) -> dict[str, Float[Array, "N"]]:
    """Measure P1, P2 and P6 of trained purifiers on histories of users they need not have seen.

    Args:
        key: consumed; draws the histories, the purifier's noise and P2's.
        config: of the run.
        perception: purifier parameters with a leading axis N, one per seed.
        starts: log rows of the users to probe.
        posterior: of these users; its mode without the window's own events stands for the clean state, so that no kind is
            rewarded for what it shares with the target's own estimate.
        num_states: histories drawn.

    Returns:
        `change` (P1, relative), `cosine`, `cka`, `recovery` (P6) and, for diffusion purifiers, `leak` (P2: error at k = 1 over
        the unconditional floor; below .2 the condition contains the target), each `(N,)`.
    """
    settings = purifier_settings(config)
    schedule = make_schedule(settings.schedule, settings.diffusion_steps)
    lowest = jax.tree.map(lambda x: x[:1], schedule)
    config, perception = share_process(replace(config, purifier=settings), perception)
    # nothing else of it is read: what differs in the rest is served by one compiled program
    read = Config(
        environment=EnvironmentConfig(
            history_length=config.environment.history_length,
            arrival_length=config.environment.arrival_length,
        ),
        encoder=config.encoder,
        purifier=config.purifier,
        denoiser=config.denoiser,
        training=TrainingConfig(seeds=tuple(range(len(config.training.seeds)))),
    )
    return _probe(key, perception, lowest, starts, posterior, config=read, num_states=num_states)


@partial(jax.jit, static_argnames=("config", "num_states"))
def _probe(
    key: Key[Array, ""],
    perception: Perception,
    lowest: Schedule,
    starts: SessionStarts,
    posterior: UserPosterior,
    *,
    config: Config,
    num_states: int,
) -> dict[str, Float[Array, "N"]]:
    """`probe_perception`, given the coefficients of level 1, leaves `(1,)`."""
    encoder, purifier = perception_modules(config)
    kind = config.purifier.kind
    batch_key, purify_key, loss_key = jax.random.split(key, 3)
    batch = sample_states(
        batch_key,
        encoder,
        perception.encoder,
        starts,
        posterior,
        history_length=config.environment.history_length,
        arrival_length=config.environment.arrival_length,
        mask_rate=0.0,
        batch_size=num_states,
        kind="full",
    )

    def of_seed(params: Any, process: ReverseProcess | None) -> dict[str, Array]:
        given = () if process is None else (process,)
        purified = purifier.purify(params, purify_key, batch.state, batch.condition, *given)
        moved = change(batch.state, purified)
        found = {
            "change": moved.relative,
            "cosine": moved.cosine,
            "cka": moved.cka,
            "recovery": oracle_recovery(batch.state, purified, batch.target),
        }
        if kind in ("paper", "sdedit", "masked", "guided"):
            target = batch.state if kind in ("paper", "sdedit") else batch.target
            floor = gaussian_floor(params.target.apply(target), lowest)
            losses = level_losses(params, loss_key, batch, lowest, config=config.purifier)
            found["leak"] = leak_ratio(losses, floor)[0]
        return found

    # the identity has no parameters that could tell the number of seeds
    axes = seed_axes(perception)
    mapped = jax.vmap(of_seed, in_axes=(0, axes.process), axis_size=len(config.training.seeds))
    return mapped(perception.purifier, perception.process)
