"""What the probes look at, on a log small enough to enumerate."""

from types import SimpleNamespace

import numpy as np
import pytest

from dsrm_jax.data.log import InteractionLog, Interactions
from dsrm_jax.errors import InputError
from dsrm_jax.simulator.world import SessionStarts
from experiments.probes.data import last_events, later_clicks, present, probe_data

U, ITEMS, ROWS = 30, 40, 24


def rows(seed, per_user):
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(U, dtype=np.int32), per_user)
    item = rng.integers(0, ITEMS, len(user)).astype(np.int32)
    click = rng.random(len(user)) < 0.6
    return Interactions(user, item, click, np.arange(len(user)), click.astype(np.float32))


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(2)
    return InteractionLog(
        name="small",
        source="a small log",
        user_ids=np.arange(U),
        item_ids=np.arange(ITEMS),
        train=rows(0, ROWS),
        test=rows(1, 8),
        catalogue=np.arange(5, ITEMS, dtype=np.int32),
        categories=rng.random((ITEMS, 3)) < 0.4,
    )


@pytest.fixture(scope="module")
def starts(log):
    train = log.train
    return SessionStarts(train.user, train.item, train.click, np.arange(0, U * ROWS + 1, ROWS))


def worlds(starts, preference=None):
    test = SimpleNamespace(starts=starts, preference=preference)
    return SimpleNamespace(test=test, test_users=np.arange(U))


def test_windows_are_the_last_events_and_disjoint(starts):
    user = np.array([0, 7])
    late = last_events(starts, user, np.array([4, 30]), 0, 10)
    early = last_events(starts, user, np.array([4, 8]), np.array([4, 10]), 10)
    for row, u in enumerate(user):
        items = np.asarray(starts.item)[u * ROWS : (u + 1) * ROWS]
        n = (4, 10)[row]
        np.testing.assert_array_equal(late.item[row, -n:], items[-n:])
        m = (4, 8)[row]
        np.testing.assert_array_equal(early.item[row, -m:], items[-n - m : -n])
    np.testing.assert_array_equal(late.length, [4, 10])
    np.testing.assert_array_equal(present(late).sum(axis=1), [4, 10])
    assert not np.any(late.click & ~present(late))


def test_later_clicks_are_the_held_out_rows_of_the_catalogue(log):
    found = later_clicks(log, np.array([3, 9]))
    expected = {
        (int(np.flatnonzero(np.array([3, 9]) == u)[0]), int(i) - 5)
        for u, i, c in zip(log.test.user, log.test.item, log.test.click, strict=True)
        if c and u in (3, 9) and i >= 5
    }
    assert set(zip(*(x.tolist() for x in np.nonzero(found)), strict=True)) == expected


def test_real_logs_are_judged_by_new_later_clicks_alone(log, starts):
    data = probe_data(log, worlds(starts), history_length=10, num_users=25)
    assert len(data.user) == 25
    assert data.truth is None
    before = {(int(u), int(i)) for u, i, c in zip(log.train.user, log.train.item, log.train.click, strict=True) if c}
    after = {(int(u), int(i)) for u, i, c in zip(log.test.user, log.test.item, log.test.click, strict=True) if c}
    for user, positive, negative in zip(*data.later, strict=True):
        owner = int(data.user[user])
        assert (owner, int(positive) + 5) in after - before
        assert not {(owner, int(item) + 5) for item in negative} & (before | after)
    assert len(np.unique(data.interest)) > 1  # clusters of clicked categories
    assert np.all(np.isfinite(data.clicked_popularity))


def test_where_the_truth_is_known_users_like_their_highest_tenth(log, starts):
    rng = np.random.default_rng(3)
    preference = (rng.normal(size=(U, 4)), rng.normal(size=(35, 4)), np.zeros(35))
    data = probe_data(log, worlds(starts, preference), history_length=10, num_users=U)
    score = preference[0][data.user] @ preference[1].T
    for row in range(len(data.user)):
        liked = np.flatnonzero(data.liked[row])
        np.testing.assert_array_equal(np.sort(np.argsort(-score[row])[: len(liked)]), liked)
        assert len(liked) in (3, 4)
    np.testing.assert_array_equal(data.truth[0], preference[0][data.user])


def test_too_few_users_with_clicks_is_said_in_one_sentence(log, starts):
    silent = starts.replace(click=np.zeros(len(starts.click), bool))
    with pytest.raises(InputError, match="0 held-out users of a small log have 5 clicks"):
        probe_data(log, worlds(silent), history_length=10, num_users=5)
