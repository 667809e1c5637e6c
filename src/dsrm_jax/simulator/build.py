"""Worlds from a log: who the simulated users are, where their sessions start and how they respond."""

import dataclasses
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key
from scipy.special import expit

from dsrm_jax.config import Config, EnvironmentConfig
from dsrm_jax.data.log import InteractionLog, Interactions, ObservedMatrix
from dsrm_jax.errors import InputError
from dsrm_jax.simulator.calibration import auc, calibration_table, expected_calibration_error, log_loss
from dsrm_jax.simulator.fit import fit_factors, row_logit
from dsrm_jax.simulator.fit_transformer import Rows, fit_transformer, row_click_logit
from dsrm_jax.simulator.response import FactorResponse, TableResponse
from dsrm_jax.simulator.transformer import one_hot_features
from dsrm_jax.simulator.world import Response, SessionStarts, World

HOLDOUT_SHARE = 0.1
TRANSFORMER_ROWS = 200_000  # rows that one epoch of the transformer visits at most
TRANSFORMER_REPORT_ROWS = 50_000


@struct.dataclass
class Worlds:
    """The training simulator, the held-out one, and what is known of how they were made.

    Attributes:
        train: the world that policies learn in.
        test: the world that they are measured in.
        train_users: `(U,)` vocabulary index of each user of the training world.
        test_users: `(V,)` the same of the test world.
        report: plain numbers and phrases (static, not a pytree leaf): `users` says how the two populations
            relate; `train` and `test` each hold `response`, `num_users`, `start_rows` and, for fitted models,
            the quality on the rows kept out of the fit (`auc`, `log_loss`, `calibration_error`, `click_rate`,
            `calibration`).
    """

    train: World
    test: World
    train_users: Int[np.ndarray, "U"]
    test_users: Int[np.ndarray, "V"]
    report: dict[str, Any] = struct.field(pytree_node=False)


class _Split(NamedTuple):
    """One side of the log, with the users of its world (vocabulary indices, sorted)."""

    rows: Interactions
    matrix: ObservedMatrix | None
    users: np.ndarray


def build_worlds(
    key: Key[Array, ""], log: InteractionLog, config: Config, *, in_model: bool = False
) -> Worlds:
    """Build the training and the test world over the log's catalogue.

    `config.environment.response` names the source of responses. `synthetic`: the truth behind a synthetic
    log. `matrix`: a split's fully observed matrix; a split without one is fitted. `fitted`: logistic factors
    of the split's rows. `transformer`: KuaiSim's user response model of the split's rows. `auto`: the first
    of synthetic, matrix and fitted that the log allows. Fits are strictly held
    out: the training world is a function of the training rows alone, the test world's responses of the test
        rows (or matrix) alone. A
    random 10 % of a split's rows is kept out of its fit for the report. A user or item without a row in the
    fit responds like the mean one.

    Popularity, the popular group and log-popularity come from training exposure, in both worlds. The test
    world's users are those with test rows (or in the test matrix); the training world's are those with
    training rows except the test users, or all of them where fewer than half would remain. Sessions start
    from training rows; a test user without any starts from their test rows.

    Args:
        key: typed PRNG key; consumed. Decides initial parameters, shuffles and held-out rows.
        log: the log.
        config: only `config.environment` is read: `response`, `response_dim`, `response_epochs`,
            `slate_size`, `history_length`.
        in_model: whether the training world's responses are fitted to the training log whatever `response` says, for methods
            that learn in a model of it; the test world is not touched.

    Returns:
        The two worlds and a report.

    Raises:
        InputError: if the catalogue is smaller than a slate, a world would have no users, or the log lacks
            the source that `response` names.
    """
    environment = config.environment
    _check(log, environment)
    test_users = _split_users(log, log.test, log.test_matrix, environment)
    all_users = _split_users(log, log.train, log.train_matrix, environment)
    new_users = np.setdiff1d(all_users, test_users)
    disjoint = 2 * len(new_users) >= len(all_users)
    train_users = new_users if disjoint else all_users
    for name, users in (("training", train_users), ("test", test_users)):
        if len(users) == 0:
            raise InputError(
                f"the {name} split of {log.source} has no user with a logged row: both splits need rows"
            )
    splits = {
        "train": _Split(log.train, log.train_matrix, train_users),
        "test": _Split(log.test, log.test_matrix, test_users),
    }
    worlds: dict[str, World] = {}
    report: dict[str, Any] = {
        "source": log.source,
        "users": _users_phrase(disjoint, train_users, test_users),
    }
    for split_key, (name, split) in zip(jax.random.split(key), splits.items(), strict=True):
        settings = environment
        if in_model and name == "train":
            settings = dataclasses.replace(environment, response="fitted")
        response, quality = _response(split_key, log, split, settings)
        starts = _session_starts(log, split.users)
        worlds[name] = _world(log, response, starts, split.users)
        report[name] = {"num_users": len(split.users), "start_rows": len(starts.user), **quality}
    return Worlds(
        train=worlds["train"],
        test=worlds["test"],
        train_users=train_users,
        test_users=test_users,
        report=report,
    )


def _check(log: InteractionLog, environment: EnvironmentConfig) -> None:
    if len(log.catalogue) < environment.slate_size:
        raise InputError(
            f"the catalogue of {log.source} has {len(log.catalogue)} items but environment.slate_size is "
            f"{environment.slate_size}: lower it or give a log with more items"
        )
    if environment.response == "synthetic" and log.synthetic is None:
        raise InputError(
            f"environment.response is synthetic but {log.source} has no synthetic truth: use auto or fitted"
        )
    if environment.response == "matrix" and log.train_matrix is None and log.test_matrix is None:
        raise InputError(
            f"environment.response is matrix but {log.source} has no observed matrix: use auto or fitted"
        )


def _uses_matrix(log: InteractionLog, matrix: ObservedMatrix | None, environment: EnvironmentConfig) -> bool:
    wanted = environment.response == "matrix" or (environment.response == "auto" and log.synthetic is None)
    return wanted and matrix is not None


def _split_users(
    log: InteractionLog, rows: Interactions, matrix: ObservedMatrix | None, environment: EnvironmentConfig
) -> np.ndarray:
    """Return the sorted users of a split who have a row to start a session from."""
    counts = np.bincount(rows.user, minlength=log.num_users)
    if matrix is None or not _uses_matrix(log, matrix, environment):
        return np.flatnonzero(counts)
    logged = counts + np.bincount(log.train.user, minlength=log.num_users) > 0
    return np.sort(matrix.user[logged[matrix.user]])


def _users_phrase(disjoint: bool, train_users: np.ndarray, test_users: np.ndarray) -> str:
    if disjoint:
        return f"{len(test_users)} held-out users, none of the {len(train_users)} training users among them"
    shared = len(np.intersect1d(train_users, test_users, assume_unique=True))
    return f"{len(test_users)} test users, {shared} of them also among the {len(train_users)} training users"


def _world(log: InteractionLog, response: Response, starts: SessionStarts, users: np.ndarray) -> World:
    preference = None
    if log.synthetic is not None:
        preference = _synthetic_preference(log, users)
    return World(
        response=response,
        starts=starts,
        item=jnp.asarray(log.catalogue, dtype=jnp.int32),
        is_popular=jnp.asarray(log.is_popular),
        log_popularity=jnp.asarray(_log_popularity(log.exposure[log.catalogue])),
        preference=preference,
        exposure=jnp.asarray(_count(log, np.ones(len(log.train), bool))),
        clicked=jnp.asarray(_count(log, log.train.click)),
    )


def _count(log: InteractionLog, rows: Bool[np.ndarray, "N"]) -> Float[np.ndarray, "J"]:
    """Count the chosen training rows of each catalogue item."""
    count = np.bincount(log.train.item[np.asarray(rows, bool)], minlength=log.num_items)
    return count[log.catalogue].astype(np.float32)


def _log_popularity(exposure: Int[np.ndarray, "J"]) -> Float[np.ndarray, "J"]:
    """Standardise log(1 + exposure) over the catalogue; zero where all items are equally popular."""
    value = np.log1p(exposure.astype(np.float64))
    spread = value.std()
    return ((value - value.mean()) / (spread if spread > 0 else 1.0)).astype(np.float32)


def _session_starts(log: InteractionLog, users: np.ndarray) -> SessionStarts:
    """Gather each user's training rows, or test rows where there are none; users and rows stay in order."""
    num_users = len(users)
    local = np.full(log.num_users, -1, dtype=np.int32)
    local[users] = np.arange(num_users, dtype=np.int32)
    train_rows = np.flatnonzero(local[log.train.user] >= 0)
    unseen = local.copy()
    unseen[log.train.user] = -1
    test_rows = np.flatnonzero(unseen[log.test.user] >= 0)
    user = np.concatenate([local[log.train.user[train_rows]], unseen[log.test.user[test_rows]]])
    item = np.concatenate([log.train.item[train_rows], log.test.item[test_rows]]).astype(np.int32, copy=False)
    click = np.concatenate([log.train.click[train_rows], log.test.click[test_rows]]).astype(bool, copy=False)
    if len(test_rows) and len(train_rows):
        order = np.argsort(user, kind="stable")
        user, item, click = user[order], item[order], click[order]
    first = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=num_users))]).astype(np.int32)
    starts = SessionStarts(*(jnp.asarray(x) for x in (user, item, click, first)))
    return starts.replace(logged=jnp.asarray(unseen[users] < 0)) if len(test_rows) else starts  # type: ignore[attr-defined]


def _response(
    key: Key[Array, ""], log: InteractionLog, split: _Split, environment: EnvironmentConfig
) -> tuple[Response, dict[str, Any]]:
    kind = environment.response
    if kind == "synthetic" or (kind == "auto" and log.synthetic is not None):
        return _synthetic_response(log, split.users), {"response": "synthetic"}
    if split.matrix is not None and _uses_matrix(log, split.matrix, environment):
        return _matrix_response(split.matrix, split.users), {"response": "matrix"}
    if len(split.rows) < 2:
        raise InputError(f"a split of {log.source} has {len(split.rows)} rows, too few to fit responses to")
    if kind == "transformer":
        return _transformer_response(key, log, split, environment)
    return _factor_response(key, log, split, environment)


def _synthetic_response(log: InteractionLog, users: np.ndarray) -> FactorResponse:
    from dsrm_jax.data.synthetic import Truth, response_factors

    truth = cast(Truth, log.synthetic)
    user, item, user_bias, item_bias = response_factors(truth, users, log.catalogue)
    return FactorResponse(*(jnp.asarray(x, dtype=jnp.float32) for x in (user, item, user_bias, item_bias)))


def _synthetic_preference(log: InteractionLog, users: np.ndarray) -> tuple[Array, Array, Array]:
    from dsrm_jax.data.synthetic import Truth, preference_factors

    user, item, appeal = preference_factors(cast(Truth, log.synthetic), users, log.catalogue)
    return jnp.asarray(user, jnp.float32), jnp.asarray(item, jnp.float32), jnp.asarray(appeal, jnp.float32)


def _matrix_response(matrix: ObservedMatrix, users: np.ndarray) -> TableResponse:
    order = np.argsort(matrix.user, kind="stable")
    position = order[np.searchsorted(matrix.user[order], users)]
    return TableResponse(probability=jnp.asarray(matrix.value[position], dtype=jnp.float32))


def _holdout(key: Key[Array, ""], num_rows: int) -> Bool[np.ndarray, "N"]:
    """Mark a random 10 % of the rows, at least one, that a fit may not see."""
    generator = np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))
    mask = np.zeros(num_rows, dtype=bool)
    mask[generator.choice(num_rows, max(1, int(HOLDOUT_SHARE * num_rows)), replace=False, shuffle=False)] = (
        True
    )
    return mask


def _factor_response(
    key: Key[Array, ""], log: InteractionLog, split: _Split, environment: EnvironmentConfig
) -> tuple[FactorResponse, dict[str, Any]]:
    rows = split.rows
    holdout_key, fit_key = jax.random.split(key)
    held = _holdout(holdout_key, len(rows))
    fitted = ~held
    response = fit_factors(
        fit_key,
        rows.user[fitted],
        rows.item[fitted],
        rows.click[fitted],
        num_users=log.num_users,
        num_items=log.num_items,
        dim=environment.response_dim,
        epochs=environment.response_epochs,
    )
    quality = _quality(row_logit(response, rows.user[held], rows.item[held]), rows.click[held])
    return (
        FactorResponse(
            user=response.user[split.users],
            item=response.item[log.catalogue],
            user_bias=response.user_bias[split.users],
            item_bias=response.item_bias[log.catalogue],
        ),
        {"response": "fitted", "fit_rows": int(fitted.sum()), **quality},
    )


def _transformer_response(
    key: Key[Array, ""], log: InteractionLog, split: _Split, environment: EnvironmentConfig
) -> tuple[Response, dict[str, Any]]:
    holdout_key, fit_key = jax.random.split(key)
    held = _holdout(holdout_key, len(split.rows))
    first = split.rows.user_start(log.num_users)
    rows = Rows(
        user=jnp.asarray(split.rows.user, dtype=jnp.int32),
        item=jnp.asarray(split.rows.item, dtype=jnp.int32),
        click=jnp.asarray(split.rows.click, dtype=bool),
        first=jnp.asarray(first, dtype=jnp.int32),
    )
    response = fit_transformer(
        fit_key,
        rows,
        np.flatnonzero(~held),
        features=one_hot_features(log.user_features, log.item_features, log.categories),
        num_items=log.num_items,
        catalogue=log.catalogue,
        history_length=environment.history_length,
        epochs=environment.response_epochs,
        rows_per_epoch=TRANSFORMER_ROWS,
    )
    index = np.flatnonzero(held)[:: max(1, int(held.sum()) // TRANSFORMER_REPORT_ROWS)]
    quality = _quality(row_click_logit(response, rows, index), split.rows.click[index])
    return (
        dataclasses.replace(response, user=response.user[split.users]),
        {"response": "transformer", "fit_rows": int((~held).sum()), **quality},
    )


def _quality(logit: Float[np.ndarray, "n"], click: Bool[np.ndarray, "n"]) -> dict[str, Any]:
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
