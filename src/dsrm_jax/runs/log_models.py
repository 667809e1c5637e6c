"""What is learnt from the training log whatever the purifier: item embeddings, history encoder, users' posteriors."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key

from dsrm_jax.config import Config
from dsrm_jax.data.log import InteractionLog
from dsrm_jax.purify.encoder import EncoderParams, embeddings_from, fit_encoder, user_states
from dsrm_jax.purify.perception import perception_modules
from dsrm_jax.purify.posterior import UserPosterior, fit_posterior
from dsrm_jax.runs.memory import Memory, once
from dsrm_jax.simulator.build import Worlds
from dsrm_jax.simulator.fit import fit_factors
from dsrm_jax.simulator.response import FactorResponse
from dsrm_jax.simulator.world import SessionStarts

Say = Callable[[str], None]
# of the data's key; 0 is that of the worlds, others are in `prepare`
FACTORS_STAGE, ENCODER_STAGE, POSTERIOR_STAGE = 1, 2, 5


@struct.dataclass
class LogModels:
    """What is learnt from the training log whatever the purifier.

    Attributes:
        encoder: of histories.
        posterior: what the log tells of every user of its vocabulary.
        facts: losses and times, plain numbers.
    """

    encoder: EncoderParams
    posterior: UserPosterior
    facts: dict[str, Any] = struct.field(pytree_node=False)


def fit_log_models(
    key: Key[Array, ""], config: Config, log: InteractionLog, worlds: Worlds, say: Say, memory: Memory
) -> LogModels:
    """Train them; embeddings and posteriors, which depend on the data alone, are remembered.

    Args:
        key: of everything that depends on the data alone.
        config: of the run.
        log: its training rows are read.
        worlds: the training world's rows are those that the encoder learns from.
        say: told what is being done, a line each.
        memory: added to.
    """
    data = config.data, config.synthetic, config.encoder
    factors, fit_facts = once(
        memory,
        ("factors", *data),
        lambda: _fit_factors(jax.random.fold_in(key, FACTORS_STAGE), config, log, say),
    )
    params, encoder_facts = _fit_encoder(jax.random.fold_in(key, ENCODER_STAGE), config, factors, worlds, say)
    posterior, posterior_facts = once(
        memory,
        ("posterior", *data),
        lambda: _fit_posterior(jax.random.fold_in(key, POSTERIOR_STAGE), log, factors),
    )
    return LogModels(params, posterior, fit_facts | encoder_facts | posterior_facts)


def _fit_factors(
    key: jax.Array, config: Config, log: InteractionLog, say: Say
) -> tuple[FactorResponse, dict[str, Any]]:
    """Factorise the training log: item embeddings and full-log embeddings of its users."""
    started = time.perf_counter()
    factors = fit_factors(
        key,
        log.train.user,
        log.train.item,
        log.train.click,
        num_users=log.num_users,
        num_items=log.num_items,
        dim=config.encoder.dim,
        epochs=config.encoder.embedding_epochs,
    )
    jax.block_until_ready(factors)
    seconds = time.perf_counter() - started
    say(f"item embeddings: {seconds:.0f} s")
    return factors, {"embedding_seconds": seconds}


def _fit_encoder(
    key: jax.Array, config: Config, factors: FactorResponse, worlds: Worlds, say: Say
) -> tuple[EncoderParams, dict[str, Any]]:
    """Train the history encoder on the training world's rows."""
    started = time.perf_counter()
    encoder, _ = perception_modules(config)
    params, losses = fit_encoder(
        key,
        encoder,
        embeddings_from(factors),
        worlds.train.starts,
        history_length=config.environment.history_length,
        arrival_length=config.environment.arrival_length,
        iterations=config.encoder.iterations,
        batch_size=config.encoder.batch_size,
        learning_rate=config.encoder.learning_rate,
    )
    loss = float(tail_mean(losses))
    seconds = time.perf_counter() - started
    say(f"history encoder: {seconds:.0f} s, next-click loss {loss:.3f} nats")
    return params, {"encoder_loss": loss, "encoder_seconds": seconds}


def _fit_posterior(
    key: jax.Array, log: InteractionLog, factors: FactorResponse
) -> tuple[UserPosterior, dict[str, Any]]:
    """Return what the training log tells of each user of the vocabulary."""
    started = time.perf_counter()
    rows = log.train
    first = rows.user_start(log.num_users).astype(np.int32)
    starts = SessionStarts(*(jnp.asarray(x) for x in (rows.user, rows.item, rows.click, first)))
    fitted = jax.jit(fit_posterior)(key, embeddings_from(factors), starts, user_states(factors))
    jax.block_until_ready(fitted)
    return fitted, {"posterior_seconds": time.perf_counter() - started}


def tail_mean(losses: Float[Array, "... iterations"]) -> Float[Array, "..."]:
    """Return the mean of the last twentieth of the losses."""
    return jnp.mean(losses[..., -max(1, losses.shape[-1] // 20) :], axis=-1)
