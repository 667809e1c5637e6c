"""Fit of the transformer user response model to a log."""

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from dsrm_jax.errors import InputError
from dsrm_jax.simulator.calibration import auc
from dsrm_jax.simulator.transformer import (
    Features,
    TransformerResponse,
    UserResponseModel,
    click_logit,
    freeze_response,
)
from dsrm_jax.simulator.world import SessionStarts
from dsrm_jax.types import PyTree

PREDICT_BATCH = 256


def row_histories(
    rows: SessionStarts, index: Int[Array, "B"], *, length: int, padding: int
) -> tuple[Int[Array, "B H"], Float[Array, "B H 1"]]:
    """Return what the users of some rows saw before them: items (`padding` before the first) and click bits.

    Both have H = `length` slots, the oldest event first, right-aligned; clicks are float32.
    """
    source = index[:, None] + jnp.arange(-length, 0)
    is_event = source >= rows.first[rows.user[index]][:, None]
    source = jnp.maximum(source, 0)
    item = jnp.where(is_event, rows.item[source], padding)
    return item, jnp.where(is_event, rows.click[source], False)[..., None].astype(jnp.float32)


def fit_transformer(
    key: Key[Array, ""],
    rows: SessionStarts,
    fit_rows: Int[np.ndarray, "n"],
    *,
    features: Features,
    num_items: int,
    catalogue: Int[np.ndarray, "J"],
    history_length: int = 100,
    epochs: int = 10,
    batch_size: int = 128,
    learning_rate: float = 1e-4,
    rows_per_epoch: int | None = None,
    validation_share: float = 0.05,
    patience: int = 3,
) -> TransformerResponse:
    """Fit the user response model to the clicks of some rows of a log, stopping early on validation AUC.

    Histories are the H rows of the same user before a row, in `rows`. Adam, cross-entropy on logits, where rows without a click
    weigh as much as others (KuaiSim weighs them by the clicks' odds): probabilities stay calibrated. The parameters with the best
    AUC on a random share of `fit_rows`, which no gradient step sees, are kept.

    The key is consumed; `rows` are the log, on host or device; `fit_rows`, `(n,)`, number those of them that may be fitted;
    I = `num_items` is the size of the vocabulary; `catalogue` the `(J,)` vocabulary index of each catalogue position. Of at most
    `epochs` passes each visits `rows_per_epoch` rows, drawn at random (None: all), at most `batch_size` a step. The validation
    share, in (0, 1), is kept for early stopping: after `patience` epochs without a better AUC.

    Raises:
        InputError: if there are fewer than two rows to fit.
    """
    if len(fit_rows) < 2:
        raise InputError(f"the transformer response model got {len(fit_rows)} rows to fit: give at least two")
    rows = jax.tree.map(jnp.asarray, rows)
    model = UserResponseModel(num_users=len(rows.first) - 1, num_items=num_items, history_length=history_length)
    shuffle_key, init_key, dropout_key = jax.random.split(key, 3)
    shuffle = np.random.default_rng(np.asarray(jax.random.bits(shuffle_key, (4,))))
    shuffled = shuffle.permutation(np.asarray(fit_rows, dtype=np.int32))
    num_valid = max(1, int(validation_share * len(shuffled)))
    valid, train = shuffled[:num_valid], shuffled[num_valid:]
    batch_size = min(batch_size, len(train))
    steps = max(1, min(len(train), rows_per_epoch or len(train)) // batch_size)

    one = jnp.zeros((1,), jnp.int32)
    history, feedback = row_histories(rows, one, length=history_length, padding=num_items)
    params = jax.jit(model.init)(init_key, one, history, feedback, one, features)["params"]
    carry = (params, optax.scale_by_adam().init(params))
    fit_epoch = jax.jit(partial(_fit_epoch, model, learning_rate=learning_rate))
    freeze = jax.jit(partial(_freeze, model))
    best_auc, best, stale = -np.inf, params, 0
    for epoch in range(epochs):
        batches = shuffle.permutation(train)[: steps * batch_size].reshape(steps, batch_size)
        carry = fit_epoch(jax.random.fold_in(dropout_key, epoch), carry, batches, rows, features)
        response = freeze(carry[0], features, catalogue)
        score = auc(row_click_logit(response, rows, valid), np.asarray(rows.click)[valid])
        if not score <= best_auc:  # also where the AUC is NaN because all validation clicks are equal
            best_auc, best, stale = score, carry[0], 0
        else:
            stale += 1
        if stale >= patience:
            break
    return freeze(best, features, catalogue)


def row_click_logit(
    response: TransformerResponse, rows: SessionStarts, index: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """Return the `(n,)` float32 click logits of some rows of a log, each given its user's earlier rows."""
    rows = jax.tree.map(jnp.asarray, rows)
    padded = np.resize(np.asarray(index, dtype=np.int32), (-(-len(index) // PREDICT_BATCH), PREDICT_BATCH))
    return np.asarray(_row_click_logit(response, rows, padded)).reshape(-1)[: len(index)]


@jax.jit
def _row_click_logit(
    response: TransformerResponse, rows: SessionStarts, batches: Int[Array, "S B"]
) -> Float[Array, "S B"]:
    def logit(index: Int[Array, "B"]) -> Float[Array, "B"]:
        history, feedback = row_histories(
            rows, index, length=response.model.history_length, padding=response.model.num_items
        )
        user, item = response.user[rows.user[index]], response.token[rows.item[index]]
        return click_logit(response, user, history, feedback, item[:, None])[:, 0]

    return jax.lax.map(logit, batches)


def _freeze(
    model: UserResponseModel, params: PyTree, features: Features, catalogue: Int[Array, "J"]
) -> TransformerResponse:
    apply = partial(model.apply, {"params": params})
    token = cast(Array, apply(jnp.arange(model.num_items + 1), features.item, method="encode_items"))
    user = cast(Array, apply(jnp.arange(model.num_users), features.user, method="encode_users"))
    return freeze_response(model, params, user=user, item=token[catalogue], token=token)


def _fit_epoch(
    model: UserResponseModel,
    key: Key[Array, ""],
    carry: tuple[PyTree, PyTree],
    batches: Int[Array, "S B"],
    rows: SessionStarts,
    features: Features,
    *,
    learning_rate: float,
) -> tuple[PyTree, PyTree]:
    """Take one step of Adam per batch from parameters and its state; return both."""
    optimiser = optax.scale_by_adam()

    def loss(params: PyTree, key: Key[Array, ""], index: Int[Array, "B"]) -> Float[Array, ""]:
        history, feedback = row_histories(rows, index, length=model.history_length, padding=model.num_items)
        row = rows.user[index], history, feedback, rows.item[index]
        logits = model.apply({"params": params}, *row, features, deterministic=False, rngs={"dropout": key})
        logit = cast(Array, logits)[:, 0]
        label = rows.click[index]
        return jnp.mean(jax.nn.softplus(logit) - jnp.where(label, logit, 0.0))

    def step(carry: tuple[PyTree, PyTree], batch: tuple[Array, Array]) -> tuple[tuple[PyTree, PyTree], None]:
        params, state = carry
        key, index = batch
        update, state = optimiser.update(jax.grad(loss)(params, key, index), state)
        return (jax.tree.map(lambda p, change: p - learning_rate * change, params, update), state), None

    return jax.lax.scan(step, carry, (jax.random.split(key, len(batches)), batches))[0]
