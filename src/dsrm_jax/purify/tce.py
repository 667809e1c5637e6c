"""T-CE (Wang et al., WSDM 2021) as a state purifier: cross-entropy without the clicks that the model believes least.

Of each batch the positives of largest loss are dropped, as many as a share of the WHOLE batch, positives and negatives
together, that rises linearly from 0. Negatives are never dropped. See `rce` for what the denoisers share.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from dsrm_jax.purify.arrays import Scalar
from dsrm_jax.purify.purifier import Learning, Purifier
from dsrm_jax.purify.rce import LabelledBatch, LinearEncoder, click_logits, encode, event_logits, make_denoiser
from dsrm_jax.purify.settings import DenoiserConfig
from dsrm_jax.settings import check
from dsrm_jax.types import PyTree


def make_tce_purifier(
    *,
    reading: str = DenoiserConfig.reading,
    drop_rate: Scalar = DenoiserConfig.drop_rate,
    ramp: int = DenoiserConfig.ramp,
    iterations: int = DenoiserConfig.iterations,
    batch_size: int = DenoiserConfig.batch_size,
    learning_rate: Scalar = DenoiserConfig.learning_rate,
) -> Purifier:
    """Build the purifier that T-CE trains; `online` drops clicks of a history as the loss drops those of a batch.

    The keywords are fields of `DenoiserConfig`, which says what each means; floats may be traced. Raises InputError where a value
    is out of range or unknown.
    """
    check(DenoiserConfig, "denoiser", **locals())

    def loss(params: LinearEncoder, key: PyTree, batch: LabelledBatch) -> Float[Array, ""]:
        """Return the mean cross-entropy of the samples kept, in nats."""
        logit = click_logits(encode(params, batch.condition.summary), batch.vectors, batch.bias)
        entropy = optax.sigmoid_binary_cross_entropy(logit, batch.click.astype(jnp.float32))
        flat = (entropy.ravel(), batch.click.ravel(), batch.present.ravel())
        keep = kept(*flat, rate=drop_rate * batch.progress).reshape(entropy.shape)
        return jnp.sum(jnp.where(keep, entropy, 0.0)) / jnp.maximum(jnp.sum(keep), 1)

    def weigh(params: LinearEncoder, events: PyTree) -> Float[Array, "... H"]:
        cost = jax.nn.softplus(-event_logits(params, events))  # of a click
        return kept(cost, events.click, events.shown, rate=drop_rate).astype(jnp.float32)

    learning = Learning("", True, iterations, batch_size, learning_rate, ramp=ramp)
    return make_denoiser(reading=reading, learning=learning, loss=loss, weigh=weigh)


def kept(
    loss: Float[Array, "... M"], click: Bool[Array, "... M"], present: Bool[Array, "... M"], *, rate: Scalar
) -> Bool[Array, "... M"]:
    """Return which samples T-CE keeps: all but the floor(rate M') positives of largest loss, M' the samples present.

    Where there are fewer positives (`click`) than that, all of them are dropped; of equal losses at the boundary all are kept.
    What is no sample (`present`) is never kept. No gradient passes through the choice. `rate` is in [0, 1].
    """
    positive = click & present
    value = jnp.where(positive, jax.lax.stop_gradient(loss), -jnp.inf)
    # a hair above, so that floats such as .2 * 5 do not round to one less
    num_dropped = jnp.floor(rate * jnp.sum(present, axis=-1, keepdims=True) + 1e-4).astype(jnp.int32)
    # one sort of bare values: to sort indices costs several times as much on a CPU
    rising = jnp.pad(jnp.sort(value, axis=-1), [(0, 0)] * (value.ndim - 1) + [(1, 0)], constant_values=-jnp.inf)
    largest_kept = jnp.take_along_axis(rising, value.shape[-1] - num_dropped, axis=-1)
    return present & ~(positive & (value > largest_kept))
