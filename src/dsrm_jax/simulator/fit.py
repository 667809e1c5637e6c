"""Logistic matrix factorisation of a log of clicks: minibatch Adam over shuffled rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from dsrm_jax.errors import InputError
from dsrm_jax.simulator.response import FactorResponse
from dsrm_jax.types import PyTree

CHUNK_STEPS = 64  # gradient steps per compiled call: bounds what is copied to the device at once
MIN_STEPS_PER_EPOCH = 128
INITIAL_SCALE = 0.1
BIAS_PRIOR = 0.15  # prior precision of biases relative to factors: they vary more

Tables = tuple[Float[Array, "U F+1"], Float[Array, "I F+1"], Float[Array, ""]]
Fitted = tuple[Tables, PyTree]  # with the optimiser's state


def fit_factors(
    key: Key[Array, ""],
    user: Int[np.ndarray, "N"],
    item: Int[np.ndarray, "N"],
    click: Bool[np.ndarray, "N"],
    *,
    num_users: int,
    num_items: int,
    dim: int = 16,
    epochs: int = 4,
    batch_size: int = 32768,
    learning_rate: float = 0.02,
    l2: float = 3.0,
) -> FactorResponse:
    """Fit click logit = <user factor, item factor> + user bias + item bias to logged rows.

    The estimate is the mode of a posterior: cross-entropy summed over rows, plus `l2 / 2` times the squared factors of all users
    and items, plus `0.15 l2 / 2` times their squared biases (the intercept is free). Users and items with few rows therefore
    shrink to the mean user and item, and those without any row are put there exactly: zero factors, no bias but the intercept.
    Adam's step size decays to zero by a cosine from `learning_rate`. The same key, which is consumed, and rows give the same bits
    on the same CPU. The result's float32 tables are in the order of the indices, its `item_bias` holds the intercept.

    Of N rows `user` and `item` are integers in [0, U) and [0, I), U = `num_users` and I = `num_items`, and `click` is bool. There
    are F = `dim` factors. Each of the `epochs` passes visits every row once, in a new order (up to one step's rows twice, to fill
    the last step), at most `batch_size` a step, and fewer where an epoch would have less than 128 steps. `l2` is the precision of
    the Gaussian prior on factors, non-negative, in units of rows: near 0 a sparse log is learnt by heart, and 3 is near the best
    for held-out rows of KuaiRand.

    Raises:
        InputError: if there is no row, the arrays differ in length, or an index lies outside its table.
    """
    user, item, click = np.asarray(user), np.asarray(item), np.asarray(click, dtype=bool)
    _check_rows(user, item, click, num_users=num_users, num_items=num_items)
    init_key, shuffle_key = jax.random.split(key)
    shuffle = np.random.default_rng(np.asarray(jax.random.bits(shuffle_key, (4,))))
    num_rows = len(user)
    batch_size = min(batch_size, max(1, num_rows // MIN_STEPS_PER_EPOCH))
    num_chunks = -(-num_rows // (batch_size * CHUNK_STEPS))
    chunk_steps = -(-num_rows // (batch_size * num_chunks))
    batch_size = -(-num_rows // (chunk_steps * num_chunks))

    tables = _initial_tables(init_key, click, num_users=num_users, num_items=num_items, dim=dim)
    carry = (tables, optax.scale_by_adam().init(tables))
    total_steps = epochs * num_chunks * chunk_steps
    order = np.arange(num_rows, dtype=np.int32 if num_rows < 2**31 else np.int64)
    for _ in range(epochs):
        shuffle.shuffle(order)
        # np.resize wraps round: the last step is filled with rows from the front of the shuffled order.
        for rows in np.resize(order, (num_chunks, chunk_steps, batch_size)):
            batches = (user[rows].astype(np.int32), item[rows].astype(np.int32), click[rows])
            carry = _fit_chunk(carry, batches, total_steps, learning_rate, l2 / num_rows)
    return _as_response(carry[0], user, item)


def row_logit(
    response: FactorResponse, user: Int[np.ndarray, "N"], item: Int[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    """Return the float32 click logits of N pairs, rows of a model's tables, on the host, in blocks that keep memory small."""
    user_factor, item_factor = np.asarray(response.user), np.asarray(response.item)
    user_bias, item_bias = np.asarray(response.user_bias), np.asarray(response.item_bias)
    user, item = np.asarray(user), np.asarray(item)
    logit = np.empty(len(user), dtype=np.float32)
    for start in range(0, len(user), 2**18):
        block = slice(start, start + 2**18)
        u, i = user[block], item[block]
        logit[block] = np.einsum("nf,nf->n", user_factor[u], item_factor[i]) + user_bias[u] + item_bias[i]
    return logit


def _check_rows(user: np.ndarray, item: np.ndarray, click: np.ndarray, *, num_users: int, num_items: int) -> None:
    if not len(user) == len(item) == len(click):
        raise InputError(
            f"rows to fit have {len(user)} users, {len(item)} items, {len(click)} clicks: expected as many"
        )
    if len(user) == 0:
        raise InputError("there is no row to fit click factors to: give a log with at least one interaction")
    for name, index, size in (("user", user, num_users), ("item", item, num_items)):
        if index.min() < 0 or index.max() >= size:
            raise InputError(
                f"{name} indices of the rows to fit span {index.min()}..{index.max()}: expected 0..{size - 1}"
            )


def _initial_tables(key: Key[Array, ""], click: np.ndarray, *, num_users: int, num_items: int, dim: int) -> Tables:
    user_key, item_key = jax.random.split(key)
    rate = (click.sum() + 1) / (len(click) + 2)
    user = INITIAL_SCALE * jax.random.normal(user_key, (num_users, dim + 1)).at[:, dim].set(0.0)
    item = INITIAL_SCALE * jax.random.normal(item_key, (num_items, dim + 1)).at[:, dim].set(0.0)
    return user, item, jnp.float32(np.log(rate / (1 - rate)))


def _objective(
    tables: Tables, user: Int[Array, "B"], item: Int[Array, "B"], click: Bool[Array, "B"], *, l2: float
) -> Float[Array, ""]:
    # One table per side, the bias in its last column: one gather, and one scatter of the gradient, per side.
    user_table, item_table, intercept = tables
    u, i = user_table[user], item_table[item]
    logit = jnp.sum(u[:, :-1] * i[:, :-1], axis=-1) + u[:, -1] + i[:, -1] + intercept
    prior = sum(jnp.sum(t[:, :-1] ** 2) + BIAS_PRIOR * jnp.sum(t[:, -1] ** 2) for t in (user_table, item_table))
    return jnp.mean(jax.nn.softplus(logit) - jnp.where(click, logit, 0.0)) + 0.5 * l2 * prior


@partial(jax.jit, donate_argnums=0)
def _fit_chunk(
    carry: Fitted, batches: tuple[Array, Array, Array], total_steps: int, learning_rate: float, l2: float
) -> Fitted:
    optimiser = optax.scale_by_adam()

    def step(carry: Fitted, batch: tuple[Array, Array, Array]) -> tuple[Fitted, None]:
        tables, state = carry
        size = learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * state.count / total_steps))
        gradient = jax.grad(_objective)(tables, *batch, l2=l2)
        update, state = optimiser.update(gradient, state)
        return (jax.tree.map(lambda table, change: table - size * change, tables, update), state), None

    return jax.lax.scan(step, carry, batches)[0]


def _as_response(tables: Tables, user: np.ndarray, item: np.ndarray) -> FactorResponse:
    user_table, item_table, intercept = tables
    seen_user = np.bincount(user, minlength=len(user_table))[:, None] > 0
    seen_item = np.bincount(item, minlength=len(item_table))[:, None] > 0
    user_table = jnp.where(seen_user, user_table, 0.0)
    item_table = jnp.where(seen_item, item_table, 0.0)
    return FactorResponse(
        user=user_table[:, :-1],
        item=item_table[:, :-1],
        user_bias=user_table[:, -1],
        item_bias=item_table[:, -1] + intercept,
    )
