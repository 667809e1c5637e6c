"""Stage I: from a training log to everything that is frozen in Stage II."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from dsrm_jax.data.log import InteractionLog
from dsrm_jax.errors import InputError
from dsrm_jax.purify.encoder import Embeddings, Encoder, EncoderParams, embeddings_from, fit_encoder, user_states
from dsrm_jax.purify.exposure import silent_exposure
from dsrm_jax.purify.leverage import leverage_of
from dsrm_jax.purify.perception import Perception
from dsrm_jax.purify.posterior import UserPosterior, fit_posterior
from dsrm_jax.purify.purifier import LogOfUsers, Purifier, PurifierBatch
from dsrm_jax.purify.rce import LabelledBatch, sample_labelled_states
from dsrm_jax.purify.settings import EncoderConfig
from dsrm_jax.purify.targets import sample_states
from dsrm_jax.purify.windows import Windows
from dsrm_jax.simulator.fit import fit_factors
from dsrm_jax.simulator.response import FactorResponse
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.simulator.world import SessionStarts
from dsrm_jax.types import PyTree

DIVERGED = 10.0  # times its first loss a phase ends with: it learnt nothing

Batch = PurifierBatch | LabelledBatch
SampleBatch = Callable[[Key[Array, ""]], Batch]


def fit_perception(
    key: Key[Array, ""],
    log: InteractionLog,
    encoder: Encoder,
    purifier: Purifier,
    *,
    starts: SessionStarts | None = None,
    users: Int[np.ndarray, "U"] | None = None,
    history_length: int = EnvironmentConfig.history_length,
    arrival_length: int = EnvironmentConfig.arrival_length,
    embedding_epochs: int = EncoderConfig.embedding_epochs,
    iterations: int = EncoderConfig.iterations,
    batch_size: int = EncoderConfig.batch_size,
    learning_rate: float = EncoderConfig.learning_rate,
) -> Perception:
    """Run Stage I: item embeddings, history encoder, users' posteriors and the purifier, all from the training log.

    The key is consumed. Histories end before the rows `starts`, such as those of a training world's users, who are `users` of the
    log; None: all training rows. `history_length` and `arrival_length` are as `Windows` takes them. The other keywords are fields
    of `EncoderConfig`; how the purifier is trained says its `learning`. The perception is of one seed, without a leading axis.
    """
    factor_key, encoder_key, posterior_key, purifier_key = jax.random.split(key, 4)
    factors = factorise(factor_key, log, dim=encoder.state_dim - 1, epochs=embedding_epochs)
    posterior = log_posterior(posterior_key, log, factors)
    windows = Windows(log_starts(log) if starts is None else starts, history_length, arrival_length)
    items = embeddings_from(factors)
    params, _ = fit_encoder(
        encoder_key, encoder, items, windows, iterations=iterations, batch_size=batch_size, learning_rate=learning_rate
    )
    of_users = posterior if users is None else posterior.of(users)
    fitted, _ = jax.jit(partial(_fit, encoder, purifier))(purifier_key, params, windows, of_users)
    return Perception(params, fitted)


def factorise(key: Key[Array, ""], log: InteractionLog, *, dim: int, epochs: int) -> FactorResponse:
    """Return item and user factors of the training log, of `dim` dimensions; the key is consumed."""
    rows = log.train
    return fit_factors(
        key, rows.user, rows.item, rows.click, num_users=log.num_users, num_items=log.num_items, dim=dim, epochs=epochs
    )


def log_starts(log: InteractionLog) -> SessionStarts:
    """Return the training rows of every user of the log's vocabulary, on the device."""
    rows = log.train
    first = rows.user_start(log.num_users).astype(np.int32)
    return SessionStarts(*(jnp.asarray(x) for x in (rows.user, rows.item, rows.click, first)))


def log_posterior(key: Key[Array, ""], log: InteractionLog, factors: FactorResponse) -> UserPosterior:
    """Return what the training log tells of every user of its vocabulary; the key is consumed."""
    return jax.jit(fit_posterior)(key, embeddings_from(factors), log_starts(log), user_states(factors))


def fit_purifiers(
    keys: Key[Array, "N"],
    encoder: Encoder,
    purifier: Purifier,
    params: EncoderParams,
    windows: Windows,
    posterior: UserPosterior,
) -> tuple[PyTree, Float[Array, "N iterations"]]:
    """Train one purifier per key, all in one program.

    The keys, one per seed, are consumed. `params` are those of the trained encoder; the other arguments are as `sample_states`
    takes them. Returned are the purifiers' parameters and losses, each with a leading axis N.
    """
    mapped = jax.jit(jax.vmap(partial(_fit, encoder, purifier), in_axes=(0, None, None, None)))
    return mapped(keys, params, windows, posterior)


def _fit(
    encoder: Encoder,
    purifier: Purifier,
    key: Key[Array, ""],
    params: EncoderParams,
    windows: Windows,
    posterior: UserPosterior,
) -> tuple[PyTree, Float[Array, "iterations"]]:
    """Train the purifier of one seed."""
    if purifier.fit is not None:
        return purifier.fit(key, LogOfUsers(params.embeddings, windows, posterior))
    fitted, losses = fit_purifier(key, purifier, batch_sampler(encoder, purifier, params, windows, posterior))
    if purifier.inform is not None:
        fitted = purifier.inform(fitted, posterior.exposure)
    return fitted, losses


def batch_sampler(
    encoder: Encoder, purifier: Purifier, params: EncoderParams, windows: Windows, posterior: UserPosterior
) -> SampleBatch:
    """Return `(key) -> batch` of what the purifier's `learning` asks for; arguments as `fit_purifiers` takes them."""
    learning = purifier.learning
    if learning.labelled:
        return lambda key: sample_labelled_states(key, encoder, params, windows, batch_size=learning.batch_size)
    return lambda key: sample_states(
        key,
        encoder,
        params,
        windows,
        posterior,
        mask_rate=learning.mask_rate,
        batch_size=learning.batch_size,
        target=learning.target,
    )


def fit_purifier(
    key: Key[Array, ""], purifier: Purifier, sample_batch: SampleBatch
) -> tuple[PyTree, Float[Array, "iterations"]]:
    """Train a purifier by its `learning` as one jitted scan; `vmap` over keys for several seeds.

    Adam with a cosine decay to 0 and gradient norms clipped at 1, and a moving average of the weights, whose decay is at most (1
    + i) / (10 + i) at iteration i. Purifiers of labelled batches are trained as the encoder is: neither clipped nor averaged. The
    key is consumed. `sample_batch` is called for `init`, 8 times for the normalisation, and once per iteration. Returned are
    the parameters and each iteration's loss.
    """
    learning = purifier.learning
    if learning.labelled:
        init_key, scan_key = jax.random.split(key)
        sample_key = jax.random.fold_in(init_key, 0)
    else:
        sample_key, init_key, scan_key = jax.random.split(key, 3)
    optimiser = optax.adam(optax.cosine_decay_schedule(learning.learning_rate, max(learning.iterations, 1)))
    if not learning.labelled:
        optimiser = optax.chain(optax.clip_by_global_norm(1.0), optimiser)

    def first_batch(sample_key: Array) -> Batch:
        if learning.labelled:
            return sample_batch(sample_key)
        batches = jax.vmap(sample_batch)(jax.random.split(sample_key, 8))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)

    def body(carry: tuple[PyTree, PyTree, PyTree], inputs: tuple[Array, Array]) -> tuple[PyTree, Array]:
        params, average, optimiser_state = carry
        iteration, step_key = inputs
        batch_key, loss_key = jax.random.split(step_key)
        batch = sample_batch(batch_key)
        if isinstance(batch, LabelledBatch):
            done = jnp.minimum(iteration / learning.ramp, 1.0) if learning.ramp else jnp.float32(1.0)
            batch = replace(batch, progress=done)
        loss, gradient = jax.value_and_grad(purifier.loss)(params, loss_key, batch)
        updates, optimiser_state = optimiser.update(gradient, optimiser_state, params)
        params = optax.apply_updates(params, updates)
        if learning.labelled:
            return (params, params, optimiser_state), loss
        decay = jnp.minimum(learning.ema, (1.0 + iteration) / (10.0 + iteration))
        # This form leaves leaves that never move, such as the normalisation, exactly where they are.
        average = jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), average, params)
        return (params, average, optimiser_state), loss

    @jax.jit
    def run(sample_key: Array, init_key: Array, scan_key: Array) -> tuple[PyTree, Array]:
        params = purifier.init(init_key, first_batch(sample_key))
        inputs = (jnp.arange(learning.iterations), jax.random.split(scan_key, learning.iterations))
        (_, average, _), losses = jax.lax.scan(body, (params, params, optimiser.init(params)), inputs)
        return average, losses

    return run(sample_key, init_key, scan_key)


def perception_like(
    encoder: Encoder, purifier: Purifier, *, num_items: int, num_seeds: int, history_length: int
) -> Perception:
    """Return the shapes of the perception that Stage I makes, to restore a checkpoint into.

    `num_items` is V, the vocabulary, and `num_seeds` the leading axis of the purifier's parameters.
    """
    dim = encoder.state_dim

    def build() -> Perception:
        items = Embeddings(vectors=jnp.zeros((num_items, dim)), bias=jnp.zeros(num_items))
        params = encoder.init(jax.random.key(0), items)
        row = jnp.zeros(1, jnp.int32)
        windows = Windows(SessionStarts(row, row, row > 0, jnp.arange(2, dtype=jnp.int32)), history_length)
        told, one = silent_exposure(dim), jnp.ones(())
        known = UserPosterior(jnp.zeros((1, dim)), one[None], leverage_of(jnp.eye(dim)), told, one)
        sample = batch_sampler(encoder, purifier, params, windows, known)

        def init(key: Key[Array, ""]) -> PyTree:
            made = purifier.init(key, sample(key))
            return made if purifier.inform is None else purifier.inform(made, known.exposure)

        return Perception(params, jax.vmap(init)(jax.random.split(jax.random.key(0), num_seeds)))

    return jax.eval_shape(build)


def check_loss(losses: Float[Array, "... iterations"], what: str, settings: str) -> None:
    """Refuse what a phase of Stage I made where its loss is not finite, or ends ten times above where it began.

    Raises:
        InputError: it says which phase broke, and with `settings` what to lower.
    """
    seen = np.asarray(losses, np.float64)
    if seen.shape[-1] == 0:
        return
    last = seen[..., -max(1, seen.shape[-1] // 20) :].mean(axis=-1)
    if not np.all(np.isfinite(seen)) or np.any(last > DIVERGED * seen[..., 0]):
        moved = f"{seen[..., 0].max():.3g} to {np.max(last):.3g}"
        raise InputError(
            f"{what} broke in training: its loss went from {moved}, and nothing was kept; lower {settings}"
        )


def tail_mean(losses: Float[Array, "... iterations"]) -> Float[Array, "..."]:
    """Return the mean of the last twentieth of the losses."""
    return jnp.mean(losses[..., -max(1, losses.shape[-1] // 20) :], axis=-1)
