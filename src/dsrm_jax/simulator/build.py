"""Worlds from a log: who the simulated users are, where their sessions start and how they respond."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from dsrm_jax.data.log import InteractionLog, Interactions, ObservedMatrix
from dsrm_jax.data.synthetic import Truth, preference_factors
from dsrm_jax.errors import InputError
from dsrm_jax.settings import check
from dsrm_jax.simulator.log_responses import Fit, MakeResponse, Split, check_kind, response_of, uses_matrix
from dsrm_jax.simulator.mechanism import TRAITS, Mechanism, with_mechanisms
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.simulator.world import Response, SessionStarts, World
from dsrm_jax.types import Json


@struct.dataclass
class Worlds:
    """The training simulator, the held-out one, and what is known of how they were made."""

    train: World  # the world that policies learn in
    test: World  # the world that they are measured in
    train_users: Int[np.ndarray, "U"]  # `(U,)` vocabulary index of each user of the training world
    test_users: Int[np.ndarray, "V"]  # `(V,)` the same of the test world
    # plain numbers and phrases (static, not a pytree leaf): `users` says how the two populations relate; `train` and `test`
    # each hold `response`, `num_users`, `start_rows` and, for fitted models, the quality on the rows kept out of the fit
    # (`auc`, `log_loss`, `calibration_error`, `click_rate`, `calibration`)
    report: Json = struct.field(pytree_node=False)


def make_worlds(
    key: Key[Array, ""],
    log: InteractionLog,
    *,
    response: str | MakeResponse = EnvironmentConfig.response,
    train_response: str | MakeResponse | None = None,
    response_dim: int = EnvironmentConfig.response_dim,
    response_epochs: int = EnvironmentConfig.response_epochs,
    slate_size: int = EnvironmentConfig.slate_size,
    history_length: int = EnvironmentConfig.history_length,
    mechanisms: Sequence[Mechanism] = (),
) -> Worlds:
    """Make the training and the test world over the log's catalogue, of which a slate may hold no more than there is.

    The key is consumed; it decides initial parameters, shuffles and held-out rows. The keywords are fields of
    `EnvironmentConfig`; a training world of another response than the test world's, such as `fitted` for methods that learn in a
    model of the log, has its own in `train_response`. `mechanisms` are the environment's, whose traits the users get; responses
    and users are the same without them.

    `response` is the source of responses. `synthetic`: the truth behind a synthetic log. `matrix`: a split's fully observed
    matrix; a split without one is fitted. `fitted`: logistic factors of the split's rows. `transformer`: KuaiSim's user response
    model of the split's rows. `auto`: the first of synthetic, matrix and fitted that the log allows. A function: what it makes of
    the split's rows (`MakeResponse`). Fits are strictly held out: the training world is a function of the training rows alone,
    the test world's responses of the test rows (or matrix) alone. A random 10 % of a split's rows is kept out of its fit for the
    report. A user or item without a row in the fit responds like the mean one.

    Popularity, the popular group and log-popularity come from training exposure, in both worlds. The test world's users are those
    with test rows (or in the test matrix); the training world's are those with training rows except the test users, or all of
    them where fewer than half would remain. Sessions start from training rows; a test user without any starts from their test
    rows.

    Raises:
        InputError: if the catalogue is smaller than a slate, a world would have no users, or the log lacks the source that
            `response` names.
    """
    fit = Fit(response_dim, response_epochs, history_length, slate_size)
    check(EnvironmentConfig, "environment", **fit._asdict())
    if len(log.catalogue) < slate_size:
        raise InputError(
            f"the catalogue of {log.source} has {len(log.catalogue)} items but environment.slate_size is "
            f"{slate_size}: lower it or give a log with more items"
        )
    kinds = {"train": response if train_response is None else train_response, "test": response}
    for kind in (response, kinds["train"]):
        check_kind(log, kind)
    splits, phrase = _splits(log, uses_matrix(log, response))
    worlds: dict[str, World] = {}
    report: Json = {"source": log.source, "users": phrase}
    for split_key, (name, split) in zip(jax.random.split(key), splits.items(), strict=True):
        answers, quality = response_of(split_key, log, split, kinds[name], fit)
        starts = _session_starts(log, split.users)
        world = _world(log, answers, starts, split.users)
        if mechanisms:
            world = with_mechanisms(jax.random.fold_in(split_key, TRAITS), _remembering(log, world), mechanisms)
        worlds[name] = world
        report[name] = {"num_users": len(split.users), "start_rows": len(starts.user), **quality}
    return Worlds(worlds["train"], worlds["test"], splits["train"].users, splits["test"].users, report)


def _splits(log: InteractionLog, of_matrix: bool) -> tuple[dict[str, Split], str]:
    """Return the two sides of the log with their users, and how the two populations relate."""
    train_matrix, test_matrix = (log.train_matrix, log.test_matrix) if of_matrix else (None, None)
    test_users = _split_users(log, log.test, test_matrix)
    all_users = _split_users(log, log.train, train_matrix)
    new_users = np.setdiff1d(all_users, test_users)
    disjoint = 2 * len(new_users) >= len(all_users)
    train_users = new_users if disjoint else all_users
    for name, users in (("training", train_users), ("test", test_users)):
        if len(users) == 0:
            raise InputError(f"the {name} split of {log.source} has no user with a logged row: both splits need rows")
    if disjoint:
        phrase = f"{len(test_users)} held-out users, none of the {len(train_users)} training users among them"
    else:
        shared = len(np.intersect1d(train_users, test_users, assume_unique=True))
        phrase = f"{len(test_users)} test users, {shared} of them also among the {len(train_users)} training users"
    train = Split(log.train, log.train_matrix, train_users)
    return {"train": train, "test": Split(log.test, log.test_matrix, test_users)}, phrase


def _split_users(log: InteractionLog, rows: Interactions, matrix: ObservedMatrix | None) -> Int[np.ndarray, "U"]:
    """Return the sorted users of a split who have a row to start a session from, of its matrix where there is one."""
    counts = np.bincount(rows.user, minlength=log.num_users)
    if matrix is None:
        return np.flatnonzero(counts)
    logged = counts + np.bincount(log.train.user, minlength=log.num_users) > 0
    return np.sort(matrix.user[logged[matrix.user]])


def _world(log: InteractionLog, response: Response, starts: SessionStarts, users: np.ndarray) -> World:
    return World(
        response=response,
        starts=starts,
        item=jnp.asarray(log.catalogue, dtype=jnp.int32),
        is_popular=jnp.asarray(log.is_popular),
        log_popularity=jnp.asarray(_log_popularity(log.exposure[log.catalogue])),
        preference=None if log.synthetic is None else _synthetic_preference(log, users),
        exposure=jnp.asarray(_count(log, np.ones(len(log.train), bool))),
        clicked=jnp.asarray(_count(log, log.train.click)),
    )


def _remembering(log: InteractionLog, world: World) -> World:
    """Return the world with what mechanisms may ask for: categories, and which rows show popular items.

    An item outside the catalogue is popular where the log shows it as often as the least shown of the catalogue's popular items.
    """
    popular = log.exposure >= log.exposure[log.catalogue[log.is_popular]].min()
    popular[log.catalogue] = log.is_popular
    rows = np.concatenate([[0], np.cumsum(popular[np.asarray(world.starts.item)])])
    categories = jnp.asarray(log.categories[log.catalogue], bool)
    return replace(world, popular_rows=jnp.asarray(rows, jnp.int32), categories=categories)


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
    return replace(starts, logged=jnp.asarray(unseen[users] < 0)) if len(test_rows) else starts


def _synthetic_preference(log: InteractionLog, users: np.ndarray) -> tuple[Array, Array, Array]:
    user, item, appeal = preference_factors(cast(Truth, log.synthetic), users, log.catalogue)
    return jnp.asarray(user, jnp.float32), jnp.asarray(item, jnp.float32), jnp.asarray(appeal, jnp.float32)
