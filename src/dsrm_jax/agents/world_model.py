"""DORL's world models: an ensemble of networks that predict a click's mean and variance from a state and an item.

Each member minimises the Gaussian negative log-likelihood (y - mu)^2 / v + log v of logged clicks, plus the same for
items drawn uniformly that count as skipped (the "pointneg" loss of github.com/chongminggao/DORL-codes); members differ in their
initial weights and batches.

Shapes: M members, N samples, K items each, D state dimensions.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.agent import LoggedData
from dsrm_jax.purify.view import Catalogue
from dsrm_jax.types import PyTree

LOWEST_LOG_VARIANCE = -7.0  # a click of probability .001 has variance exp(-6.9)
ITEM_DIM = 8  # of the models' own item embeddings
HIDDEN = 64


class WorldModel(nn.Module):
    """Click of one item, as a DeepFM reads it: inner products, item embeddings and a network over all.

    `(state (N, D), item (N, K), catalogue) -> (mean (N, K) in (0, 1), log-variance (N, K) at least -7)`.
    """

    @nn.compact
    def __call__(
        self, state: Float[Array, "N D"], item: Int[Array, "N K"], catalogue: Catalogue
    ) -> tuple[Float[Array, "N K"], Float[Array, "N K"]]:
        """Return mean and log-variance."""
        vectors, bias = catalogue.vectors[item], catalogue.bias[item]
        logit = jnp.einsum("nd,nkd->nk", state, vectors) + bias
        embedding = nn.Embed(catalogue.bias.shape[0], ITEM_DIM)(item)
        scalars = jnp.stack([logit, bias, catalogue.log_popularity[item]], axis=-1)
        of_item = jnp.concatenate([vectors, embedding, scalars], axis=-1)
        x = nn.relu(nn.Dense(HIDDEN)(of_item) + nn.Dense(HIDDEN, use_bias=False)(state)[:, None])
        x = nn.relu(nn.Dense(HIDDEN)(x))
        correction = nn.Dense(2, kernel_init=nn.initializers.normal(0.01))(x)
        mean = jax.nn.sigmoid(logit + correction[..., 0])
        log_variance = LOWEST_LOG_VARIANCE + jax.nn.softplus(correction[..., 1] - LOWEST_LOG_VARIANCE)
        return mean, log_variance


def gaussian_nll(
    click: Float[Array, "..."], mean: Float[Array, "..."], log_variance: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Return twice the Gaussian negative log-likelihood less a constant: (y - mu)^2 / v + log v, element-wise."""
    return jnp.square(click - mean) * jnp.exp(-log_variance) + log_variance


def fit_world_models(
    key: jax.Array,
    logged: LoggedData,
    catalogue: Catalogue,
    *,
    members: int,
    iterations: int,
    negatives: int = 1,
    batch_size: int = 512,
    learning_rate: float | Float[Array, ""] = 3e-3,
) -> tuple[PyTree, Float[Array, "iterations M"]]:
    """Fit the ensemble by Adam, all members in one scan.

    Args:
        key: consumed.
        logged: for the states, slates and clicks of its transitions.
        catalogue: the items.
        members: M.
        iterations: Adam steps.
        negatives: items drawn per logged click.
        batch_size: logged clicks per step and member.
        learning_rate: at the first step; it falls to 0 along a cosine.

    Returns:
        `(params, losses)`: parameters with a leading axis M; the batches' mean loss.
    """
    model = WorldModel()
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, iterations))
    steps = logged.transitions
    num_rows, slate_size = steps.slate.shape
    num_items = catalogue.bias.shape[0]

    def loss(params: PyTree, cell: jax.Array, drawn: jax.Array) -> jax.Array:
        row, slot = cell // slate_size, cell % slate_size
        item = jnp.concatenate([steps.slate[row, slot][:, None], drawn], axis=1)
        click = jnp.zeros(item.shape).at[:, 0].set(steps.clicks[row, slot].astype(jnp.float32))
        mean, log_variance = _predict(params, steps.view.state[row], item, catalogue)
        return jnp.mean(gaussian_nll(click, mean, log_variance))

    def step(carry: PyTree, key: jax.Array) -> PyTree:
        params, opt_state = carry
        cell_key, negative_key = jax.random.split(key)
        shape = (members, batch_size)
        cell = jax.random.randint(cell_key, shape, 0, num_rows * slate_size)
        drawn = jax.random.randint(negative_key, (*shape, negatives), 0, num_items)
        losses, grads = jax.vmap(jax.value_and_grad(loss))(params, cell, drawn)
        updates, opt_state = optimiser.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), losses

    init_key, batch_key = jax.random.split(key)
    some = steps.view.state[:1], steps.slate[:1], catalogue
    params = jax.vmap(lambda key: model.init(key, *some))(jax.random.split(init_key, members))
    keys = jax.random.split(batch_key, iterations)
    (params, _), losses = jax.lax.scan(step, (params, optimiser.init(params)), keys)
    return params, losses


def predict_clicks(
    params: PyTree, state: Float[Array, "N D"], item: Int[Array, "N K"], catalogue: Catalogue
) -> tuple[Float[Array, "N K"], Float[Array, "N K"]]:
    """Return r_hat, the mean of the members' means, and P_U, the largest of their variances.

    Args:
        params: from `fit_world_models`.
        state: what the models are asked about.
        item: catalogue positions.
        catalogue: the items.
    """
    mean, log_variance = jax.vmap(_predict, in_axes=(0, None, None, None))(params, state, item, catalogue)
    return jnp.mean(mean, axis=0), jnp.exp(jnp.max(log_variance, axis=0))


def _predict(params: PyTree, state: jax.Array, item: jax.Array, catalogue: Catalogue) -> PyTree:
    """One member's `WorldModel`."""
    return WorldModel().apply(params, state, item, catalogue)
