"""What is learnt from the training log whatever the purifier: item embeddings, history encoder, users' posteriors."""

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
from jaxtyping import Array, Key

from dsrm_jax.config import Config
from dsrm_jax.data.log import InteractionLog
from dsrm_jax.progress import phase
from dsrm_jax.purify.encoder import EncoderParams, embeddings_from, fit_encoder
from dsrm_jax.purify.posterior import UserPosterior
from dsrm_jax.purify.stage_one import check_loss, factorise, log_posterior, tail_mean
from dsrm_jax.runs.memory import Memory, once
from dsrm_jax.runs.pieces import encoder_of, windows_of
from dsrm_jax.simulator.response import FactorResponse
from dsrm_jax.simulator.world import SessionStarts, World
from dsrm_jax.types import Json, Say

T = TypeVar("T")
# of the data's key; 0 is that of the worlds, others are in `prepare`
FACTORS_STAGE, ENCODER_STAGE, POSTERIOR_STAGE = 1, 2, 5


class LogModels(NamedTuple):
    """What is learnt from the training log whatever the purifier."""

    encoder: EncoderParams
    posterior: UserPosterior  # what the log tells of every user of its vocabulary
    facts: Json  # losses and times, plain numbers


def fit_log_models(
    key: Key[Array, ""], config: Config, log: InteractionLog, world: World, say: Say, memory: Memory
) -> LogModels:
    """Run the steps of `stage_one.fit_perception` before the purifier's.

    `key` is that of everything that depends on the data alone. The log's training rows are read; the encoder learns from those of
    the training world. `memory` keeps embeddings and posteriors, which depend on the data alone.
    """
    data = config.data, config.synthetic, config.encoder
    factors, embedding_seconds = once(
        memory, ("factors", *data), lambda: _fit_factors(jax.random.fold_in(key, FACTORS_STAGE), config, log, say)
    )
    params, encoder_facts = _fit_encoder(jax.random.fold_in(key, ENCODER_STAGE), config, factors, world.starts, say)
    posterior, posterior_seconds = once(
        memory, ("posterior", *data), lambda: _posterior(jax.random.fold_in(key, POSTERIOR_STAGE), config, log, factors)
    )
    times = {"embedding_seconds": embedding_seconds, "posterior_seconds": posterior_seconds}
    return LogModels(params, posterior, times | encoder_facts)


def timed(make: Callable[[], T]) -> tuple[T, float]:
    """Return what a function makes, once it is there, and the seconds that it took."""
    started = time.perf_counter()
    made = jax.block_until_ready(make())
    return made, time.perf_counter() - started


def _fit_factors(key: Key[Array, ""], config: Config, log: InteractionLog, say: Say) -> tuple[FactorResponse, float]:
    settings = config.encoder
    with phase("item embeddings", work=len(log.train.user) * settings.embedding_epochs / 1e6):
        factors, seconds = timed(lambda: factorise(key, log, dim=settings.dim, epochs=settings.embedding_epochs))
    say(f"item embeddings: {seconds:.0f} s")
    return factors, seconds


def _posterior(
    key: Key[Array, ""], config: Config, log: InteractionLog, factors: FactorResponse
) -> tuple[UserPosterior, float]:
    with phase("users' posteriors", config.data.env):
        return timed(lambda: log_posterior(key, log, factors))


def _fit_encoder(
    key: Key[Array, ""], config: Config, factors: FactorResponse, starts: SessionStarts, say: Say
) -> tuple[EncoderParams, Json]:
    settings = config.encoder
    with phase("history encoder", settings.kind, work=settings.iterations):
        (params, losses), seconds = timed(
            lambda: fit_encoder(
                key,
                encoder_of(config),
                embeddings_from(factors),
                windows_of(config, starts),
                iterations=settings.iterations,
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
            )
        )
    check_loss(losses, "the history encoder", "encoder.learning_rate")
    loss = float(tail_mean(losses))
    say(f"history encoder: {seconds:.0f} s, next-click loss {loss:.3f} nats")
    return params, {"encoder_loss": loss, "encoder_seconds": seconds}
