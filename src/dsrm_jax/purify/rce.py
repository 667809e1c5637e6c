"""R-CE (Wang et al., WSDM 2021) as a state purifier, and what all three denoising losses share.

A denoising loss trains a history encoder again, of the frozen one's kind: a linear map of the clicked items' mean. The
trained encoder is the purifier. Two readings of how a denoiser enters the hierarchy, which the paper leaves open: `pretrain`
stops there; `online` also weights each click of the history by what the denoiser thinks of it.

R-CE weights each sample's cross-entropy by y_hat^beta where it was clicked and (1 - y_hat)^beta where not, so that samples
the model disagrees with count less.

Shapes: N histories, M labelled events after each, H history length, D state dimensions.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Key

from dsrm_jax.purify.arrays import Scalar, States
from dsrm_jax.purify.encoder import Encoder, EncoderParams, Evidence, gather_evidence, labels_from
from dsrm_jax.purify.purifier import Learning, Purifier
from dsrm_jax.purify.settings import DenoiserConfig
from dsrm_jax.purify.windows import Windows
from dsrm_jax.settings import check
from dsrm_jax.types import PyTree


@struct.dataclass
class LabelledBatch:
    """Histories and the events that followed them."""

    state: Float[Array, "N D"]  # observed state
    condition: Evidence  # `(N, ...)` evidence of the history
    vectors: Float[Array, "N M D"]  # item vectors of the events
    bias: Float[Array, "N M"]  # the click logit that an average user gives each item
    click: Bool[Array, "N M"]
    present: Bool[Array, "N M"]  # whether there is such an event
    progress: Float[Array, ""] | float = 1.0  # in [0, 1], share of `Learning.ramp` done


@struct.dataclass
class LinearEncoder:
    """The re-trained encoder: state = clicked mean @ kernel + bias."""

    kernel: Float[Array, "D D"]
    bias: Float[Array, "D"]


def sample_labelled_states(
    key: Key[Array, ""], encoder: Encoder, params: EncoderParams, windows: Windows, *, batch_size: int
) -> LabelledBatch:
    """Draw N = `batch_size` histories of the training rows and the up to M events that follow each; the key is consumed."""
    row_key, window_key = jax.random.split(key)
    rows, history = windows.draw(row_key, window_key, batch_size)
    evidence = gather_evidence(params.embeddings, history)
    label = labels_from(windows.starts, rows)
    return LabelledBatch(
        state=encoder.encode(params, evidence.summary),
        condition=evidence,
        vectors=params.embeddings.vectors[label.item],
        bias=params.embeddings.bias[label.item],
        click=label.click,
        present=label.present,
        progress=jnp.float32(1.0),
    )


def start_encoder(key: PyTree, batch: LabelledBatch) -> LinearEncoder:
    """Return the encoder before training: the clicked items' mean itself, which lives in the states' space; draws nothing."""
    state_dim = batch.state.shape[-1]
    return LinearEncoder(jnp.eye(state_dim), jnp.zeros(state_dim))


def make_denoiser(
    *,
    reading: str,
    learning: Learning,
    loss: Callable[..., Float[Array, ""]],
    weigh: Callable[..., Float[Array, "... H"]],
    init: Callable[..., PyTree] = start_encoder,
    encoder: Callable[[PyTree], LinearEncoder] = lambda params: params,
) -> Purifier:
    """Build the purifier that a denoising loss trains.

    `loss` is of a `LabelledBatch`; `weigh` takes `(params, evidence)` to what each event counts, of which `online` makes use;
    `init` makes the parameters, and `encoder` takes the encoder out of them. `purify` ignores the state and draws nothing.
    """

    def purify(params: PyTree, key: PyTree, state: States, evidence: Evidence) -> States:
        if reading == "pretrain":
            return encode(encoder(params), evidence.summary)
        return encode_weighted(encoder(params), evidence, weigh(params, require_events(evidence)))

    return Purifier(init, loss, purify, learning=learning)


def encode(params: LinearEncoder, summary: Float[Array, "... C"]) -> States:
    """Return the state of a history from its `summarise` features, of which the first D are the clicked mean."""
    return summary[..., : params.bias.shape[0]] @ params.kernel + params.bias


def require_events(evidence: Evidence) -> PyTree:
    """Return the evidence itself; raise ValueError where it holds a summary alone, and no events."""
    if evidence.vectors is None or evidence.click is None or evidence.shown is None or evidence.bias is None:
        raise ValueError("evidence holds a summary alone, and a denoiser that weights events needs them")
    return evidence


def encode_weighted(params: LinearEncoder, evidence: Evidence, weight: Float[Array, "... H"]) -> States:
    """Return the state of a history whose clicks count `weight` each; weights of 1 give `encode`."""
    clicked = jnp.where(require_events(evidence).click & evidence.shown, weight, 0.0)
    total = jnp.sum(clicked, axis=-1, keepdims=True)
    mean = jnp.einsum("...h,...hd->...d", clicked, evidence.vectors) / (1.0 + total)
    return mean @ params.kernel + params.bias


def click_logits(state: States, vectors: Float[Array, "... M D"], bias: Float[Array, "... M"]) -> Float[Array, "... M"]:
    """Return each state's click logit for its own M items."""
    return jnp.einsum("...d,...md->...m", state, vectors) + bias


def event_logits(params: LinearEncoder, evidence: Evidence) -> Float[Array, "... H"]:
    """Return the click logit of each event of a history, by the state that the whole history encodes to."""
    events = require_events(evidence)
    return click_logits(encode(params, evidence.summary), events.vectors, events.bias)


def make_rce_purifier(
    *,
    reading: str = DenoiserConfig.reading,
    beta: Scalar = DenoiserConfig.beta,
    iterations: int = DenoiserConfig.iterations,
    batch_size: int = DenoiserConfig.batch_size,
    learning_rate: Scalar = DenoiserConfig.learning_rate,
) -> Purifier:
    """Build the purifier that R-CE trains; `online` weights a history's clicks by y_hat^beta.

    The keywords are fields of `DenoiserConfig`, which says what each means; floats may be traced. Raises InputError where a value
    is out of range or unknown.
    """
    check(DenoiserConfig, "denoiser", **locals())

    def loss(params: LinearEncoder, key: PyTree, batch: LabelledBatch) -> Float[Array, ""]:
        """Return the weighted cross-entropy's mean over events, in nats."""
        logit = click_logits(encode(params, batch.condition.summary), batch.vectors, batch.bias)
        entropy = optax.sigmoid_binary_cross_entropy(logit, batch.click.astype(jnp.float32))
        weighted = jnp.where(batch.present, rce_weight(logit, batch.click, beta=beta) * entropy, 0.0)
        return jnp.sum(weighted) / jnp.maximum(jnp.sum(batch.present), 1)

    def weigh(params: LinearEncoder, events: PyTree) -> Float[Array, "... H"]:
        return rce_weight(event_logits(params, events), events.click, beta=beta)

    learning = Learning("", True, iterations, batch_size, learning_rate)
    return make_denoiser(reading=reading, learning=learning, loss=loss, weigh=weigh)


def rce_weight(logit: Float[Array, "..."], click: Bool[Array, "..."], *, beta: Scalar) -> Float[Array, "..."]:
    """Return y_hat^beta where clicked, (1 - y_hat)^beta where not; constants of the loss, no gradient passes."""
    signed = jnp.where(click, logit, -logit)
    return jax.lax.stop_gradient(jnp.exp(beta * jax.nn.log_sigmoid(signed)))
