"""BOD (Wang et al., KDD 2023) as a state purifier: weights of single clicks, learnt so that two losses agree.

Bi-level. Inner: the encoder learns weighted BPR, alignment and uniformity, the weights being constants. Outer: the
generator of the weights makes the gradients of BPR and alignment, with respect to the encoder, point the same way. Both
take one step per batch: `loss` is the sum of two losses, and each has a gradient in its own parameters alone, so that any
first-order loop trains them together. (The official code takes one outer step per inner epoch.)

Differences to the official code: the outer loop's positive weights come from (user, item) pairs there as everywhere else,
not from (user, user) by mistake; a positive's negatives are the shown and not clicked events of the same user, not random
items; the item side is frozen, so uniformity is that of the states alone; weight decay of embeddings, a constant to the
generator, is left out.

Shapes: N histories, M labelled events after each, D state dimensions.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Key

from dsrm_jax.purify.arrays import Scalar
from dsrm_jax.purify.purifier import Learning, Purifier
from dsrm_jax.purify.rce import LabelledBatch, LinearEncoder, click_logits, encode, make_denoiser, start_encoder
from dsrm_jax.purify.settings import DenoiserConfig
from dsrm_jax.settings import check
from dsrm_jax.types import PyTree

TINY = 1e-20  # below the square of any gradient that matters: small weights make small gradients


@struct.dataclass
class BODParams:
    """Arrays of the denoiser: the encoder that the inner loss trains, and the variables of the `Generator`."""

    encoder: LinearEncoder
    generator: PyTree


class Generator(nn.Module):
    """Weight of a (user, item) pair: `(state (..., D), vectors (..., M, D)) -> (..., M)` in (0, 1)."""

    hidden: int

    @nn.compact
    def __call__(self, state: Float[Array, "... D"], vectors: Float[Array, "... M D"]) -> Float[Array, "... M"]:
        """Return the weights."""
        user = jnp.broadcast_to(state[..., None, :], vectors.shape)
        x = jnp.concatenate([user, vectors], axis=-1)
        for _ in range(2):
            x = nn.relu(nn.Dense(self.hidden)(x))
        return nn.sigmoid(nn.Dense(1)(x))[..., 0]


def make_bod_purifier(
    *,
    reading: str = DenoiserConfig.reading,
    hidden: int = DenoiserConfig.hidden,
    alignment_weight: Scalar = DenoiserConfig.alignment_weight,
    uniformity_weight: Scalar = DenoiserConfig.uniformity_weight,
    iterations: int = DenoiserConfig.iterations,
    batch_size: int = DenoiserConfig.batch_size,
    learning_rate: Scalar = DenoiserConfig.learning_rate,
) -> Purifier:
    """Build the purifier that BOD trains; `online` weights a history's clicks by the generator.

    The keywords are fields of `DenoiserConfig`, which says what each means; floats may be traced. Raises InputError where a value
    is out of range or unknown.
    """
    check(DenoiserConfig, "denoiser", **locals())

    def init(key: Key[Array, ""], batch: LabelledBatch) -> BODParams:
        dim = batch.state.shape[-1]
        generator = Generator(hidden).init(key, jnp.zeros((1, dim)), jnp.zeros((1, 1, dim)))
        return BODParams(start_encoder(key, batch), generator)

    def loss(params: BODParams, key: PyTree, batch: LabelledBatch) -> Float[Array, ""]:
        """Return the inner loss in the encoder plus the outer loss in the generator."""
        weight = jax.lax.stop_gradient(_weights(hidden, params, batch))
        inner = (
            bpr_loss(params.encoder, weight, batch)
            + alignment_weight * alignment_loss(params.encoder, weight, batch)
            + uniformity_weight * uniformity_loss(params.encoder, batch)
        )
        frozen = BODParams(jax.lax.stop_gradient(params.encoder), params.generator)
        return inner + matching_loss(frozen, batch, hidden=hidden)

    def weigh(params: BODParams, events: PyTree) -> Float[Array, "... H"]:
        encoded = encode(params.encoder, events.summary)
        return Generator(hidden).apply(params.generator, encoded, events.vectors)  # type: ignore[return-value]

    return make_denoiser(
        reading=reading,
        learning=Learning("", True, iterations, batch_size, learning_rate),
        loss=loss,
        weigh=weigh,
        init=init,
        encoder=lambda params: params.encoder,
    )


def bpr_loss(encoder: LinearEncoder, weight: Float[Array, "N M"], batch: LabelledBatch) -> Float[Array, ""]:
    """Return the mean of -log sigmoid(w+ s+ - w- s-) over all pairs of a clicked and a skipped event of one history."""
    logit = click_logits(encode(encoder, batch.condition.summary), batch.vectors, batch.bias)
    scored = weight * logit
    clicked, skipped = batch.click & batch.present, ~batch.click & batch.present
    pair = clicked[:, :, None] & skipped[:, None, :]
    loss = jax.nn.softplus(scored[:, None, :] - scored[:, :, None])
    return jnp.sum(jnp.where(pair, loss, 0.0)) / jnp.maximum(jnp.sum(pair), 1)


def alignment_loss(encoder: LinearEncoder, weight: Float[Array, "N M"], batch: LabelledBatch) -> Float[Array, ""]:
    """Return the mean over clicked events of w |u - v|^2, with the state u and the item v scaled to norm 1."""
    state = _unit(encode(encoder, batch.condition.summary))
    distance = 2.0 - 2.0 * jnp.einsum("nd,nmd->nm", state, _unit(batch.vectors))
    clicked = batch.click & batch.present
    return jnp.sum(jnp.where(clicked, weight * distance, 0.0)) / jnp.maximum(jnp.sum(clicked), 1)


def uniformity_loss(encoder: LinearEncoder, batch: LabelledBatch) -> Float[Array, ""]:
    """Return log of the mean of exp(-2 |u - u'|^2) over pairs of different histories' states, scaled to norm 1."""
    state = _unit(encode(encoder, batch.condition.summary))
    kernel = jnp.exp(4.0 * (state @ state.T) - 4.0)
    rows = state.shape[0]
    return jnp.log((jnp.sum(kernel) - jnp.trace(kernel)) / max(rows * (rows - 1), 1) + TINY)


def matching_loss(params: BODParams, batch: LabelledBatch, *, hidden: int) -> Float[Array, ""]:
    """Return the outer loss: the sum over the encoder's columns of 1 - cos(gradient of BPR, gradient of alignment).

    Differentiated with respect to `params.generator`; it is a function of first gradients, so its own is of second order.
    """
    weight = _weights(hidden, params, batch)
    bpr, alignment = (jax.grad(loss)(params.encoder, weight, batch) for loss in (bpr_loss, alignment_loss))
    left, right = (jnp.concatenate([g.kernel, g.bias[None]]) for g in (bpr, alignment))
    return jnp.sum(1.0 - jnp.sum(_unit(left.T) * _unit(right.T), axis=-1))


def _weights(hidden: int, params: BODParams, batch: LabelledBatch) -> Float[Array, "N M"]:
    """Return the generator's weight of every labelled event; the state it sees is a constant."""
    state = jax.lax.stop_gradient(encode(params.encoder, batch.condition.summary))
    return Generator(hidden).apply(params.generator, state, batch.vectors)  # type: ignore[return-value]


def _unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Return x at norm 1; 0, with a finite gradient, stays near 0."""
    return x / jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + TINY)
