"""FCPO's decision process against a log written out by hand and a loop over one user's session."""

import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.data.log import InteractionLog, Interactions
from dsrm_jax.errors import InputError
from experiments.fcpo_ml100k.held_ratings import held_ratings, show_items, start_sessions


def rows(*triples):
    user, item, click = (np.array(column) for column in zip(*triples, strict=True))
    return Interactions(
        user.astype(np.int32), item.astype(np.int32), click.astype(bool), np.arange(len(user)), click * 1.0
    )


def log_of(train, test):
    items = np.arange(15)
    return InteractionLog("toy", "a toy log", np.arange(2), items, train, test, items[:3], np.zeros((15, 0)))


@pytest.fixture
def log():
    """User 0 rates 0..8 in this order, not liking 2 and 6; user 1 likes 14, 9 and 13."""
    train = [(0, item, item not in (2, 6)) for item in range(9)]
    train += [(1, 14, 1), (1, 0, 0), (1, 9, 1), (1, 13, 1)]
    return log_of(rows(*train), rows((0, 10, 1), (0, 11, 0), (1, 12, 1), (1, 2, 1)))


def members(mask):
    return [set(np.flatnonzero(row)) for row in np.asarray(mask)]


def test_training_starts_from_the_first_five_positives_and_holds_the_others(log):
    world = held_ratings(log, "train")
    np.testing.assert_array_equal(world.start, [[0, 1, 3, 4, 5], [-1, -1, 14, 9, 13]])
    assert members(world.liked) == [{7, 8}, set()]
    assert members(world.barred) == [{0, 1, 3, 4, 5}, {14, 9, 13}]


def test_the_test_starts_from_the_last_five_positives_and_bars_all_that_was_rated(log):
    world = held_ratings(log, "test")
    np.testing.assert_array_equal(world.start, [[3, 4, 5, 7, 8], [-1, -1, 14, 9, 13]])
    assert members(world.liked) == [{10}, {12, 2}]
    assert members(world.barred) == [set(range(9)), {14, 0, 9, 13}]


def test_the_popular_group_is_the_training_splits_over_all_items(log):
    world = held_ratings(log, "test")
    assert np.flatnonzero(world.is_popular).tolist() == [0, 1, 2]  # 20 % of 15; item 0 twice, ties to the smaller id


def test_hits_are_paid_and_move_into_the_recent_items_misses_are_not(log):
    world = held_ratings(log, "test")
    state = start_sessions(world)
    shown = [(10, 1), (12, 2), (11, 12)]
    recent = [[3, 4, 5, 7, 8], [-1, -1, 14, 9, 13]]
    liked = [{10}, {12, 2}]
    for pair in shown:
        state, reward, cost = show_items(world, state, jnp.array(pair))
        for user, item in enumerate(pair):
            assert reward[user] == (item in liked[user])
            assert cost[user] == (item in (0, 1, 2))
            if item in liked[user]:
                recent[user] = [*recent[user][1:], item]
        np.testing.assert_array_equal(state.recent, recent)
    assert members(state.unavailable) == [set(range(9)) | {10, 11, 12}, {14, 0, 9, 13, 1, 2, 12}]


def test_a_log_that_holds_nothing_is_refused(log):
    with pytest.raises(InputError, match="test split of a toy log holds no positive"):
        held_ratings(log_of(log.train, rows((0, 10, 0))), "test")
