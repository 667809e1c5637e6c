"""Responses from a log: the truth behind it, its observed matrix, a model fitted to its rows, or a function of one's own."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from scipy.special import expit

from dsrm_jax import plugins
from dsrm_jax.data.log import InteractionLog, Interactions, ObservedMatrix
from dsrm_jax.data.synthetic import Truth, response_factors
from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.simulator.calibration import auc, calibration_table, expected_calibration_error, log_loss
from dsrm_jax.simulator.fit import fit_factors, row_logit
from dsrm_jax.simulator.fit_transformer import fit_transformer, row_click_logit
from dsrm_jax.simulator.response import FactorResponse, InterestsResponse, TableResponse
from dsrm_jax.simulator.transformer import one_hot_features
from dsrm_jax.simulator.world import History, Response, SessionStarts
from dsrm_jax.types import Json

HOLDOUT_SHARE = 0.1
TRANSFORMER_ROWS = 200_000  # rows that one epoch of the transformer visits at most
TRANSFORMER_REPORT_ROWS = 50_000

KINDS = ("auto", "synthetic", "fitted", "transformer", "matrix")

MakeResponse: TypeAlias = Callable[[Key[Array, ""], InteractionLog, Interactions, Int[np.ndarray, "U"]], Response]
"""`(key, log, rows, users) -> response` over the log's catalogue, from the rows of one split alone; `users` are the vocabulary
indices of the users whom it must answer for, in their order. The key is consumed."""


class Split(NamedTuple):
    """One side of the log."""

    rows: Interactions
    matrix: ObservedMatrix | None
    users: Int[np.ndarray, "U"]  # of its world: vocabulary indices, sorted


class Fit(NamedTuple):
    """How responses are fitted, by the fields of `EnvironmentConfig`."""

    response_dim: int
    response_epochs: int
    history_length: int
    slate_size: int


def check_kind(log: InteractionLog, kind: str | MakeResponse) -> None:
    """Raise `InputError` for an unknown kind of response, or one whose source a log lacks."""
    if isinstance(kind, str) and kind not in KINDS:
        raise unknown_name("response", kind, KINDS)
    if kind == "synthetic" and log.synthetic is None:
        raise InputError(
            f"environment.response is synthetic but {log.source} has no synthetic truth: use auto or fitted"
        )
    if kind == "matrix" and log.train_matrix is None and log.test_matrix is None:
        raise InputError(f"environment.response is matrix but {log.source} has no observed matrix: use auto or fitted")


def uses_matrix(log: InteractionLog, kind: str | MakeResponse) -> bool:
    """Return whether a kind of response is read off a split's matrix where there is one."""
    return kind == "matrix" or (kind == "auto" and log.synthetic is None)


def response_of(
    key: Key[Array, ""], log: InteractionLog, split: Split, kind: str | MakeResponse, fit: Fit
) -> tuple[Response, Json]:
    """Return how the users of one split answer, and what is known of that: `make_worlds` says what each kind is.

    Raises:
        InputError: too few rows to fit, or an own response that does not fit the log.
    """
    if not isinstance(kind, str):
        name = plugins.name_of(kind)
        response = kind(key, log, split.rows, split.users)
        check_response(response, name, num_items=len(log.catalogue), fit=fit)
        return cast(Response, jax.tree.map(jnp.asarray, response)), {"response": name}
    if kind == "synthetic" or (kind == "auto" and log.synthetic is not None):
        return _synthetic_response(log, split.users), {"response": "synthetic"}
    if split.matrix is not None and uses_matrix(log, kind):
        return _matrix_response(split.matrix, split.users), {"response": "matrix"}
    if len(split.rows) < 2:
        raise InputError(f"a split of {log.source} has {len(split.rows)} rows, too few to fit responses to")
    if kind == "transformer":
        return _transformer_response(key, log, split, fit)
    return _factor_response(key, log, split, fit)


def check_response(response: Response, name: str, *, num_items: int, fit: Fit) -> None:
    """Check by its shapes that a response which `name` made keeps the contract over J = `num_items` items.

    Raises:
        InputError: a method is absent, it is no pytree of arrays, or an answer has another shape than it should.
    """
    said = f"{name} returned {type(response).__name__}"
    for method in ("click_probability", "item_vectors"):
        if not callable(getattr(response, method, None)):
            raise InputError(f"{said} without the method {method}: expected a dsrm_jax.Response")
    if any(leaf is response for leaf in jax.tree.leaves(response)):
        raise InputError(f"{said}, which is no pytree: make it a flax.struct.dataclass of arrays")
    events = jnp.zeros(fit.history_length, jnp.int32)
    history = History(events, events > 0, jnp.int32(0))
    slate = jnp.zeros(fit.slate_size, jnp.int32)
    arrays = jax.tree.map(jnp.asarray, response)
    vectors = jax.eval_shape(lambda r: r.item_vectors(), arrays)
    if len(vectors.shape) != 2 or vectors.shape[0] != num_items:
        raise InputError(
            f"{said} whose item_vectors have the shape {vectors.shape}: expected one row for each of {num_items} catalogue items"
        )
    answer = jax.eval_shape(lambda r: r.click_probability(jnp.int32(0), slate, history), arrays)
    if answer.shape != (fit.slate_size,) or not jnp.issubdtype(answer.dtype, jnp.floating):
        raise InputError(
            f"{said} whose click_probability of {fit.slate_size} items is {answer.dtype} of shape {answer.shape}: "
            "expected one probability per item"
        )


def _synthetic_response(log: InteractionLog, users: np.ndarray) -> Response:
    truth = cast(Truth, log.synthetic)
    user, item, user_bias, item_bias = response_factors(truth, users, log.catalogue)
    factors = FactorResponse(*(jnp.asarray(x, dtype=jnp.float32) for x in (user, item, user_bias, item_bias)))
    if truth.interests is None and truth.link == "logistic":
        return factors
    interests = truth.user_factors[:, None] if truth.interests is None else truth.interests
    return InterestsResponse(jnp.asarray(interests[users], jnp.float32), factors, cauchit=truth.link == "cauchit")


def _matrix_response(matrix: ObservedMatrix, users: np.ndarray) -> TableResponse:
    order = np.argsort(matrix.user, kind="stable")
    position = order[np.searchsorted(matrix.user[order], users)]
    return TableResponse(probability=jnp.asarray(matrix.value[position], dtype=jnp.float32))


def _holdout(key: Key[Array, ""], num_rows: int) -> Bool[np.ndarray, "N"]:
    """Mark a random 10 % of the rows, at least one, that a fit may not see."""
    generator = np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))
    mask = np.zeros(num_rows, dtype=bool)
    mask[generator.choice(num_rows, max(1, int(HOLDOUT_SHARE * num_rows)), replace=False, shuffle=False)] = True
    return mask


def _factor_response(key: Key[Array, ""], log: InteractionLog, split: Split, fit: Fit) -> tuple[FactorResponse, Json]:
    rows = split.rows
    holdout_key, fit_key = jax.random.split(key)
    held = _holdout(holdout_key, len(rows))
    fitted = rows.where(~held)
    response = fit_factors(
        fit_key,
        fitted.user,
        fitted.item,
        fitted.click,
        num_users=log.num_users,
        num_items=log.num_items,
        dim=fit.response_dim,
        epochs=fit.response_epochs,
    )
    quality = _quality(row_logit(response, rows.user[held], rows.item[held]), rows.click[held])
    users, items = split.users, log.catalogue
    kept = FactorResponse(
        response.user[users], response.item[items], response.user_bias[users], response.item_bias[items]
    )
    return kept, {"response": "fitted", "fit_rows": len(fitted), **quality}


def _transformer_response(key: Key[Array, ""], log: InteractionLog, split: Split, fit: Fit) -> tuple[Response, Json]:
    holdout_key, fit_key = jax.random.split(key)
    held = _holdout(holdout_key, len(split.rows))
    rows = SessionStarts(
        user=jnp.asarray(split.rows.user, dtype=jnp.int32),
        item=jnp.asarray(split.rows.item, dtype=jnp.int32),
        click=jnp.asarray(split.rows.click, dtype=bool),
        first=jnp.asarray(split.rows.user_start(log.num_users), dtype=jnp.int32),
    )
    response = fit_transformer(
        fit_key,
        rows,
        np.flatnonzero(~held),
        features=one_hot_features(log.user_features, log.item_features, log.categories),
        num_items=log.num_items,
        catalogue=log.catalogue,
        history_length=fit.history_length,
        epochs=fit.response_epochs,
        rows_per_epoch=TRANSFORMER_ROWS,
    )
    index = np.flatnonzero(held)[:: max(1, int(held.sum()) // TRANSFORMER_REPORT_ROWS)]
    quality = _quality(row_click_logit(response, rows, index), split.rows.click[index])
    kept = dataclasses.replace(response, user=response.user[split.users])
    return kept, {"response": "transformer", "fit_rows": int((~held).sum()), **quality}


def _quality(logit: Float[np.ndarray, "n"], click: Bool[np.ndarray, "n"]) -> Json:
    probability = expit(logit.astype(np.float64))
    table = calibration_table(probability, click)
    return {
        "holdout_rows": len(click),
        "click_rate": float(click.mean()),
        "mean_probability": float(probability.mean()),
        "auc": auc(logit, click),
        "log_loss": log_loss(probability, click),
        "calibration_error": expected_calibration_error(probability, click),
        "calibration": {name: value.tolist() for name, value in table._asdict().items()},
    }
