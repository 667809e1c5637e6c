import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.special import expit

from dsrm_jax.data.log import InteractionLog, Interactions, ObservedMatrix
from dsrm_jax.data.synthetic import Truth
from dsrm_jax.errors import InputError
from dsrm_jax.simulator.build import make_worlds
from dsrm_jax.simulator.calibration import auc
from dsrm_jax.simulator.world import History

NUM_USERS, NUM_ITEMS, DIM = 90, 40, 3
TEST_USERS = np.arange(0, 90, 3)
CATALOGUE = np.arange(1, 40, 2)
NO_HISTORY = History(item=np.zeros(3, np.int32), click=np.zeros(3, bool), length=np.int32(0))


def make_truth(seed=0):
    generator = np.random.default_rng(seed)
    popularity = generator.normal(size=NUM_ITEMS)
    return Truth(
        user_factors=generator.normal(size=(NUM_USERS, DIM)).astype(np.float32),
        item_factors=generator.normal(size=(NUM_ITEMS, DIM)).astype(np.float32),
        user_bias=generator.normal(size=NUM_USERS).astype(np.float32),
        appeal=generator.normal(size=NUM_ITEMS).astype(np.float32) - 0.5,
        conformity=(0.4 * generator.normal(size=NUM_USERS)).astype(np.float32),
        log_popularity=popularity.astype(np.float32),
        popularity_lift=0.3,
    )


def true_logit(truth, user, item):
    """The logit of `Truth`'s docstring, float64."""
    wide = {f.name: np.asarray(getattr(truth, f.name), np.float64) for f in dataclasses.fields(truth)[:7]}
    taste = (wide["user_factors"][user] * wide["item_factors"][item]).sum(-1)
    lift = (wide["popularity_lift"] + wide["conformity"][user]) * wide["log_popularity"][item]
    return taste + wide["user_bias"][user] + wide["appeal"][item] + lift


def make_rows(generator, truth, users, items, num_rows, weights=None):
    user = np.sort(generator.choice(users, num_rows)).astype(np.int32)
    item = generator.choice(items, num_rows, p=weights).astype(np.int32)
    click = generator.random(num_rows) < expit(true_logit(truth, user, item))
    return Interactions(user, item, click, np.arange(num_rows), click.astype(np.float32))


def make_log(num_rows=20_000, test_users=TEST_USERS, **changes):
    generator = np.random.default_rng(1)
    truth = make_truth()
    weights = np.exp(truth.log_popularity)
    return dataclasses.replace(
        InteractionLog(
            name="toy",
            source="a toy log",
            user_ids=np.arange(NUM_USERS) * 7 + 5,
            item_ids=np.arange(NUM_ITEMS) * 3 + 2,
            train=make_rows(
                generator, truth, np.arange(NUM_USERS), np.arange(NUM_ITEMS), num_rows, weights / weights.sum()
            ),
            test=make_rows(generator, truth, test_users, CATALOGUE, num_rows // 2),
            catalogue=CATALOGUE.astype(np.int32),
            categories=np.zeros((NUM_ITEMS, 0), bool),
        ),
        **changes,
    )


def configure(**changes):
    return {"response_dim": DIM, "response_epochs": 8, **changes}


def probabilities(world):
    """Click probabilities of all users and items of a world, `(U, J)`."""
    one = jax.vmap(
        lambda response, user, items: response.click_probability(user, items, NO_HISTORY), in_axes=(None, 0, None)
    )
    return np.asarray(jax.jit(one)(world.response, np.arange(world.num_users), np.arange(world.num_items)))


def same_bits(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def log():
    return make_log()


@pytest.fixture(scope="module")
def fitted(log):
    return make_worlds(jax.random.key(0), log, **configure())


def users_of(log, worlds):
    test = np.unique(log.test.user)
    return {"train": np.setdiff1d(np.arange(NUM_USERS), test), "test": test}


def test_fitted_worlds_rank_like_the_truth_and_are_calibrated(log, fitted):
    truth = make_truth()
    generator = np.random.default_rng(9)
    for name, users in users_of(log, fitted).items():
        logit = true_logit(truth, users[:, None], CATALOGUE)
        click = generator.random((40, *logit.shape)) < expit(logit)
        predicted = np.broadcast_to(probabilities(getattr(fitted, name)), click.shape)
        oracle = auc(np.broadcast_to(logit, click.shape).ravel(), click.ravel())
        assert auc(predicted.ravel(), click.ravel()) > oracle - 0.02
        report = fitted.report[name]
        assert report["auc"] > oracle - 0.05  # about 2,000 and 1,000 rows
        assert report["calibration_error"] < 0.06
        assert report["response"] == "fitted"
        assert report["fit_rows"] + report["holdout_rows"] == len(getattr(log, name))
        assert abs(report["mean_probability"] - report["click_rate"]) < 0.05


def test_training_world_does_not_depend_on_test_labels(log, fitted):
    poisoned = dataclasses.replace(log, test=dataclasses.replace(log.test, click=~log.test.click))
    worlds = make_worlds(jax.random.key(0), poisoned, **configure())
    assert same_bits(worlds.train, fitted.train)
    assert worlds.report["train"] == fitted.report["train"]
    assert np.mean(np.abs(probabilities(worlds.test) - probabilities(fitted.test))) > 0.1


def test_test_responses_do_not_depend_on_training_labels(log, fitted):
    poisoned = dataclasses.replace(log, train=dataclasses.replace(log.train, click=~log.train.click))
    worlds = make_worlds(jax.random.key(0), poisoned, **configure())
    assert same_bits(worlds.test.response, fitted.test.response)
    assert not same_bits(worlds.train.response, fitted.train.response)


def test_held_out_users_are_new_people_where_half_remain(log, fitted):
    assert fitted.train.num_users == NUM_USERS - len(TEST_USERS)
    assert fitted.test.num_users == len(TEST_USERS)
    assert "none of the 60 training users" in fitted.report["users"]
    shared = make_log(test_users=np.arange(80))
    worlds = make_worlds(jax.random.key(0), dataclasses.replace(shared, synthetic=make_truth()), **configure())
    assert worlds.train.num_users == NUM_USERS
    assert worlds.report["users"] == "80 test users, 80 of them also among the 90 training users"


def test_sessions_start_from_each_users_own_training_rows(log, fitted):
    for name, users in users_of(log, fitted).items():
        starts = jax.tree.map(np.asarray, getattr(fitted, name).starts)
        for u, user in enumerate(users):
            rows = slice(starts.first[u], starts.first[u + 1])
            own = log.train.user == user
            np.testing.assert_array_equal(starts.user[rows], u)
            np.testing.assert_array_equal(starts.item[rows], log.train.item[own])
            np.testing.assert_array_equal(starts.click[rows], log.train.click[own])
        assert starts.first[-1] == len(starts.user)


def test_a_test_user_without_training_rows_starts_from_test_rows(log):
    new = log.train.user != 6
    train = Interactions(*(getattr(log.train, f.name)[new] for f in dataclasses.fields(Interactions)))
    worlds = make_worlds(
        jax.random.key(0), dataclasses.replace(log, train=train, synthetic=make_truth()), **configure()
    )
    starts = jax.tree.map(np.asarray, worlds.test.starts)
    assert np.all(np.diff(starts.user) >= 0)
    np.testing.assert_array_equal(starts.logged, np.asarray(TEST_USERS) != 6)
    assert worlds.train.starts.logged is None
    for u, user in enumerate(TEST_USERS):
        source = log.test if user == 6 else log.train
        rows = slice(starts.first[u], starts.first[u + 1])
        np.testing.assert_array_equal(starts.item[rows], source.item[source.user == user])
        np.testing.assert_array_equal(starts.click[rows], source.click[source.user == user])


def test_synthetic_world_has_the_probabilities_of_the_truth(log):
    truth = make_truth()
    worlds = make_worlds(jax.random.key(0), dataclasses.replace(log, synthetic=truth), **configure())
    for name, users in users_of(log, worlds).items():
        world = getattr(worlds, name)
        logit = true_logit(truth, users[:, None], CATALOGUE)
        np.testing.assert_allclose(probabilities(world), expit(logit), atol=2e-6)
        user, item, appeal = (np.asarray(x, np.float64) for x in world.preference)
        lift = (0.3 + truth.conformity[users][:, None]) * truth.log_popularity[CATALOGUE]
        np.testing.assert_allclose(user @ item.T + appeal, logit - lift - truth.user_bias[users][:, None], atol=1e-5)
    assert worlds.report["test"]["response"] == "synthetic"


def test_matrix_world_has_the_matrix_and_the_other_split_is_fitted(log):
    users = np.array([9, 3, 60, 33], np.int32)  # in no order
    value = np.random.default_rng(0).random((4, len(CATALOGUE))).astype(np.float32)
    worlds = make_worlds(
        jax.random.key(0), dataclasses.replace(log, test_matrix=ObservedMatrix(users, value)), **configure()
    )
    np.testing.assert_array_equal(probabilities(worlds.test), value[[1, 0, 3, 2]])
    assert worlds.test.num_users == 4
    assert worlds.train.num_users == NUM_USERS - 4
    assert worlds.report["train"]["response"] == "fitted"
    assert worlds.report["test"]["response"] == "matrix"


def test_popularity_follows_training_exposure_and_raw_ids(log):
    truth = make_truth()
    config = configure()
    worlds = make_worlds(jax.random.key(0), dataclasses.replace(log, synthetic=truth), **config)
    counts = np.array([np.sum(log.train.item == i) for i in CATALOGUE])
    value = np.log(1.0 + counts)
    for world in (worlds.train, worlds.test):
        np.testing.assert_allclose(world.log_popularity, (value - value.mean()) / value.std(), atol=1e-5)
        np.testing.assert_array_equal(np.flatnonzero(world.is_popular), np.sort(np.argsort(-counts)[:4]))
        np.testing.assert_array_equal(world.item, CATALOGUE)
    popular = log.item_ids[CATALOGUE[np.asarray(worlds.test.is_popular)]]
    # The same items under other raw ids: order[i] is the place of old item i in the new sorted vocabulary.
    order = np.random.default_rng(4).permutation(NUM_ITEMS)

    def move(rows):
        return dataclasses.replace(rows, item=order[rows.item].astype(np.int32))

    items = {name: getattr(truth, name)[np.argsort(order)] for name in ("item_factors", "appeal", "log_popularity")}
    moved = dataclasses.replace(
        log,
        train=move(log.train),
        test=move(log.test),
        catalogue=np.sort(order[CATALOGUE]).astype(np.int32),
        synthetic=dataclasses.replace(truth, **items),
    )
    again = make_worlds(jax.random.key(0), moved, **config).test
    new_id_of = dict(zip(log.item_ids, log.item_ids[order], strict=True))
    assert {new_id_of[i] for i in popular} == set(log.item_ids[moved.catalogue[np.asarray(again.is_popular)]])


def test_unusable_logs_are_refused(log):
    key = jax.random.key(0)
    empty = Interactions(*(getattr(log.test, f.name)[:0] for f in dataclasses.fields(Interactions)))
    with pytest.raises(InputError, match=r"20 items but environment\.slate_size is 21"):
        make_worlds(key, log, **configure(slate_size=21))
    with pytest.raises(InputError, match="test split of a toy log has no user"):
        make_worlds(key, dataclasses.replace(log, test=empty), **configure())
    with pytest.raises(InputError, match="training split of a toy log has no user"):
        make_worlds(key, dataclasses.replace(log, train=empty), **configure())
    with pytest.raises(InputError, match="no synthetic truth"):
        make_worlds(key, log, **configure(response="synthetic"))
    with pytest.raises(InputError, match="no observed matrix"):
        make_worlds(key, log, **configure(response="matrix"))


@pytest.mark.slow
def test_fitted_factors_of_real_clicks_rank_held_out_rows():
    folder = os.environ.get("DSRM_SHARED_DATA") or Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not (Path(folder) / "kuairand-pure").is_dir():
        pytest.skip("the KuaiRand-Pure sample is absent: set DSRM_SHARED_DATA to the folder that holds it")
    pytest.importorskip("polars")
    from dsrm_jax.data.kuairand import load_kuairand

    sample = load_kuairand(Path(folder) / "kuairand-pure")
    report = make_worlds(jax.random.key(0), sample, response="fitted").report
    for name in ("train", "test"):
        assert report[name]["auc"] > 0.65
        assert report[name]["calibration_error"] < 0.06
    assert "of them also among" in report["users"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_transformer_worlds_hold_each_splits_users_and_are_held_out():
    small = make_log(num_rows=600)
    poisoned = dataclasses.replace(small, test=dataclasses.replace(small.test, click=~small.test.click))
    config = configure(response="transformer", response_epochs=1, history_length=3)
    worlds, again = (make_worlds(jax.random.key(0), each, **config) for each in (small, poisoned))
    assert same_bits(worlds.train, again.train)
    assert not same_bits(worlds.test.response, again.test.response)
    assert worlds.report["test"]["response"] == "transformer"
    for world in (worlds.train, worlds.test):
        table = probabilities(world)
        assert table.shape == (world.num_users, len(CATALOGUE))
        assert np.all((table > 0) & (table < 1))
        assert len(np.unique(np.round(table, 6))) > table.size / 2  # users and items differ
