"""R-CE (Wang et al., WSDM 2021) as a state purifier, and what all three denoising losses share.

A denoising loss trains a history encoder again, of the frozen one's kind: a linear map of the clicked items' mean. The
trained encoder is the purifier. Two readings of how a denoiser enters the hierarchy (facts/methods.md 3.12): `pretrain`
stops there; `online` also weights each click of the history by what the denoiser thinks of it.

R-CE weights each sample's cross-entropy by y_hat^beta where it was clicked and (1 - y_hat)^beta where not, so that samples
the model disagrees with count less.

Shapes: N histories, M labelled events after each, H history length, D state dimensions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Key

from dsrm_jax.errors import unknown_name
from dsrm_jax.purify.encoder import Encoder, EncoderParams, Evidence, gather_evidence, labels_from
from dsrm_jax.purify.purifier import Purifier
from dsrm_jax.purify.settings import DenoiserConfig
from dsrm_jax.simulator.history import random_windows
from dsrm_jax.simulator.world import SessionStarts

READINGS = ("pretrain", "online")


@struct.dataclass
class LabelledBatch:
    """Histories and the events that followed them.

    Attributes:
        state: `(N, D)` float32, observed state.
        condition: `(N, ...)` evidence of the history.
        vectors: `(N, M, D)` float32, item vectors of the events.
        bias: `(N, M)` float32, the click logit that an average user gives each item.
        click: `(N, M)` bool.
        present: `(N, M)` bool, whether there is such an event.
        progress: `()` float32 in [0, 1], share of `DenoiserConfig.ramp` done; `fit_denoiser` sets it.
    """

    state: Float[Array, "N D"]
    condition: Evidence
    vectors: Float[Array, "N M D"]
    bias: Float[Array, "N M"]
    click: Bool[Array, "N M"]
    present: Bool[Array, "N M"]
    progress: Float[Array, ""] | float = 1.0


@struct.dataclass
class LinearEncoder:
    """The re-trained encoder: state = clicked mean @ kernel + bias."""

    kernel: Float[Array, "D D"]
    bias: Float[Array, "D"]


def sample_labelled_states(
    key: Key[Array, ""],
    encoder: Encoder,
    params: EncoderParams,
    starts: SessionStarts,
    *,
    history_length: int,
    arrival_length: int,
    batch_size: int,
) -> LabelledBatch:
    """Draw histories of the training log and the up to M events that follow each.

    Args:
        key: typed PRNG key; consumed.
        encoder: module of `params`.
        params: trained encoder, for the observed states and the frozen item side.
        starts: training rows.
        history_length: H.
        arrival_length: the fewest events of a window, where the log holds them.
        batch_size: N.
    """
    row_key, window_key = jax.random.split(key)
    rows = jax.random.randint(row_key, (batch_size,), 0, starts.user.shape[0])
    history = random_windows(window_key, starts, rows, length=history_length, least=arrival_length)
    evidence = gather_evidence(params.embeddings, history)
    label = labels_from(starts, rows)
    return LabelledBatch(
        state=encoder.encode(params, evidence.summary),
        condition=evidence,
        vectors=params.embeddings.vectors[label.item],
        bias=params.embeddings.bias[label.item],
        click=label.click,
        present=label.present,
        progress=jnp.float32(1.0),
    )


def check_reading(config: DenoiserConfig) -> None:
    """Raise InputError where `config.reading` is none of `READINGS`."""
    if config.reading not in READINGS:
        raise unknown_name("denoiser reading", config.reading, READINGS)


def start_encoder(state_dim: int) -> LinearEncoder:
    """Return the encoder before training: the clicked items' mean itself, which lives in the states' space."""
    return LinearEncoder(jnp.eye(state_dim), jnp.zeros(state_dim))


def encode(params: LinearEncoder, summary: Float[Array, "... C"]) -> Float[Array, "... D"]:
    """Return the state of a history from its `summarise` features, of which the first D are the clicked mean."""
    return summary[..., : params.bias.shape[0]] @ params.kernel + params.bias


def require_events(evidence: Evidence) -> Any:
    """Return the evidence itself where it holds events.

    Raises:
        ValueError: it has none, only a summary.
    """
    if evidence.vectors is None or evidence.click is None or evidence.shown is None or evidence.bias is None:
        raise ValueError("evidence holds a summary alone, and a denoiser that weights events needs them")
    return evidence


def encode_weighted(
    params: LinearEncoder, evidence: Evidence, weight: Float[Array, "... H"]
) -> Float[Array, "... D"]:
    """Return the state of a history whose clicks count `weight` each; weights of 1 give `encode`."""
    clicked = jnp.where(require_events(evidence).click & evidence.shown, weight, 0.0)
    total = jnp.sum(clicked, axis=-1, keepdims=True)
    mean = jnp.einsum("...h,...hd->...d", clicked, evidence.vectors) / (1.0 + total)
    return mean @ params.kernel + params.bias


def click_logits(
    state: Float[Array, "... D"], vectors: Float[Array, "... M D"], bias: Float[Array, "... M"]
) -> Float[Array, "... M"]:
    """Return each state's click logit for its own M items."""
    return jnp.einsum("...d,...md->...m", state, vectors) + bias


def event_logits(params: LinearEncoder, evidence: Evidence) -> Float[Array, "... H"]:
    """Return the click logit of each event of a history, by the state that the whole history encodes to."""
    events = require_events(evidence)
    return click_logits(encode(params, evidence.summary), events.vectors, events.bias)


def make_rce_purifier(config: DenoiserConfig, *, state_dim: int) -> Purifier:
    """Build the purifier that R-CE trains; `online` weights a history's clicks by y_hat^beta.

    Args:
        config: `reading` and `beta`.
        state_dim: D.

    Returns:
        A `Purifier` whose `loss` takes a `LabelledBatch`; `purify` ignores the state and draws nothing.

    Raises:
        InputError: on an unknown reading.
    """
    check_reading(config)
    return Purifier(
        init=lambda key, batch: start_encoder(state_dim),
        loss=partial(_loss, config),
        purify=partial(_purify, config),
    )


def rce_weight(
    logit: Float[Array, "..."], click: Bool[Array, "..."], *, beta: float | Float[Array, ""]
) -> Float[Array, "..."]:
    """Return y_hat^beta where clicked, (1 - y_hat)^beta where not; constants of the loss, no gradient passes."""
    signed = jnp.where(click, logit, -logit)
    return jax.lax.stop_gradient(jnp.exp(beta * jax.nn.log_sigmoid(signed)))


def fit_denoiser(
    key: Key[Array, ""],
    purifier: Purifier,
    sample_batch: Callable[[Key[Array, ""]], LabelledBatch],
    *,
    config: DenoiserConfig,
) -> tuple[Any, Float[Array, "iterations"]]:
    """Train one of the three denoisers as one scan; jit it, `vmap` over keys for several seeds.

    Adam with a cosine decay to 0, as the frozen encoder was trained.

    Args:
        key: consumed.
        purifier: from `make_rce_purifier`, `make_tce_purifier` or `make_bod_purifier`.
        sample_batch: pure function of a key, such as `sample_labelled_states`.
        config: iterations, learning rate and ramp.

    Returns:
        The parameters and the loss of each iteration.
    """
    init_key, scan_key = jax.random.split(key)
    optimiser = optax.adam(optax.cosine_decay_schedule(config.learning_rate, max(config.iterations, 1)))

    def body(carry: tuple[Any, Any], inputs: tuple[Array, Array]) -> tuple[Any, Array]:
        params, opt_state = carry
        iteration, step_key = inputs
        batch_key, loss_key = jax.random.split(step_key)
        progress = jnp.minimum(iteration / max(config.ramp, 1), 1.0) if config.ramp else jnp.float32(1.0)
        batch = sample_batch(batch_key).replace(progress=progress)  # type: ignore[attr-defined]
        loss, gradient = jax.value_and_grad(purifier.loss)(params, loss_key, batch)
        updates, opt_state = optimiser.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    params = purifier.init(init_key, None)
    inputs = (jnp.arange(config.iterations), jax.random.split(scan_key, config.iterations))
    (params, _), losses = jax.lax.scan(body, (params, optimiser.init(params)), inputs)
    return params, losses


def _loss(config: DenoiserConfig, params: LinearEncoder, key: Any, batch: LabelledBatch) -> Float[Array, ""]:
    """`Purifier.loss`: the weighted cross-entropy's mean over events, in nats."""
    logit = click_logits(encode(params, batch.condition.summary), batch.vectors, batch.bias)
    entropy = optax.sigmoid_binary_cross_entropy(logit, batch.click.astype(jnp.float32))
    weighted = jnp.where(batch.present, rce_weight(logit, batch.click, beta=config.beta) * entropy, 0.0)
    return jnp.sum(weighted) / jnp.maximum(jnp.sum(batch.present), 1)


def _purify(
    config: DenoiserConfig, params: LinearEncoder, key: Any, state: Float[Array, "... D"], evidence: Evidence
) -> Float[Array, "... D"]:
    """`Purifier.purify`."""
    if config.reading == "pretrain":
        return encode(params, evidence.summary)
    weight = rce_weight(event_logits(params, evidence), require_events(evidence).click, beta=config.beta)
    return encode_weighted(params, evidence, weight)
