import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.data.log import Interactions
from dsrm_jax.data.split import given_split, index_rows, k_core, latest_fraction, temporal_split
from dsrm_jax.errors import InputError


def rows_of(user, item, time=None, click=None):
    user, item = np.asarray(user, dtype=np.int32), np.asarray(item, dtype=np.int32)
    time = np.arange(len(user)) if time is None else np.asarray(time)
    click = np.zeros(len(user), dtype=bool) if click is None else np.asarray(click, dtype=bool)
    # Feedback carries the original row number, so that a test can follow each row.
    return Interactions(user, item, click, time.astype(np.int64), np.arange(len(user), dtype=np.float32))


pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 3)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_rows_are_sorted_by_user_then_time_then_original_order(triples):
    user, item, time = (np.array(column) for column in zip(*triples, strict=True))
    raw = rows_of(user * 3 + 100, item, time)
    user_ids, item_ids = np.unique(raw.user), np.unique(raw.item)
    rows = index_rows(raw, user_ids, item_ids)
    expected = sorted(range(len(user)), key=lambda row: (user[row], time[row], row))
    np.testing.assert_array_equal(rows.feedback, expected)
    np.testing.assert_array_equal(user_ids[rows.user], raw.user[expected])
    np.testing.assert_array_equal(item_ids[rows.item], raw.item[expected])
    np.testing.assert_array_equal(rows.time, raw.time[expected])
    assert rows.user.dtype == np.int32
    assert rows.time.dtype == np.int64


def test_a_row_outside_the_vocabulary_is_an_input_error():
    with pytest.raises(InputError, match="item id 9 "):
        index_rows(rows_of([1, 1], [5, 9]), np.array([1]), np.array([5]))


def brute_core(user, item, k):
    """Largest sub-log with k rows each, by taking away one weak user or item at a time."""
    keep = set(range(len(user)))
    while True:
        for column in (user, item):
            counts = {}
            for row in keep:
                counts[column[row]] = counts.get(column[row], 0) + 1
            weak = [value for value, count in counts.items() if count < k]
            if weak:
                keep = {row for row in keep if column[row] != weak[0]}
                break
        else:
            return keep


@settings(max_examples=60, deadline=None)
@given(pairs, st.integers(2, 5))
def test_k_core_equals_removal_one_by_one(triples, k):
    user, item, _ = (np.array(column, dtype=np.int32) for column in zip(*triples, strict=True))
    assert set(np.flatnonzero(k_core(user, item, k))) == brute_core(user.tolist(), item.tolist(), k)


def test_k_core_cascades_and_zero_keeps_all():
    # User 2 has one row; without it item 1 falls to one row, then user 1 falls to one, and so on to nothing.
    user, item = np.array([0, 0, 1, 1, 2]), np.array([2, 0, 0, 1, 1])
    assert not k_core(user, item, 2).any()
    assert k_core(user, item, 0).all()
    assert k_core(user, item, 1).all()


def test_negative_k_core_is_an_input_error():
    with pytest.raises(InputError, match="k_core is -1"):
        k_core(np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.int32), -1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.9]))
def test_each_user_holds_out_the_rounded_share_of_their_last_rows(counts, fraction):
    user = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    expected = []
    for count in counts:
        held = min(int(fraction * count + 0.5), max(count - 1, 0))
        expected += [False] * (count - held) + [True] * held
    if not any(expected):
        if len(user):
            with pytest.raises(InputError, match="holds out no row"):
                latest_fraction(user, fraction)
    else:
        np.testing.assert_array_equal(latest_fraction(user, fraction), expected)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_a_fraction_outside_the_open_unit_interval_is_an_input_error(fraction):
    with pytest.raises(InputError, match="test_fraction"):
        latest_fraction(np.zeros(10, dtype=np.int32), fraction)


def test_no_held_out_row_is_earlier_than_a_training_row_of_the_same_user():
    rng = np.random.default_rng(0)
    raw = rows_of(rng.integers(0, 20, 500), rng.integers(0, 30, 500), rng.integers(0, 100, 500))
    split = temporal_split(raw, fraction=0.3)
    assert len(split.train) + len(split.test) == 500
    for user in range(20):
        last = split.train.time[split.train.user == user].max()
        assert (split.test.time[split.test.user == user] >= last).all()
    np.testing.assert_array_equal(split.item_ids[split.catalogue], np.unique(split.item_ids[split.test.item]))


def test_catalogue_is_the_items_of_the_chosen_split():
    train, test = rows_of([1, 1, 2], [10, 30, 30]), rows_of([2, 5], [30, 20])
    split = given_split(train, test)
    np.testing.assert_array_equal(split.user_ids, [1, 2, 5])
    np.testing.assert_array_equal(split.item_ids, [10, 20, 30])
    np.testing.assert_array_equal(split.item_ids[split.catalogue], [20, 30])
    split = given_split(train, test, catalogue="train")
    np.testing.assert_array_equal(split.item_ids[split.catalogue], [10, 30])
    assert split.catalogue.dtype == np.int32


def test_k_core_of_the_training_rows_also_restricts_the_held_out_rows():
    train = rows_of([1, 1, 2, 2, 3], [10, 20, 10, 20, 10])
    test = rows_of([1, 3, 2, 1], [10, 10, 20, 30])
    split = given_split(train, test, k=2)
    np.testing.assert_array_equal(split.user_ids, [1, 2])
    np.testing.assert_array_equal(split.item_ids, [10, 20])
    np.testing.assert_array_equal(split.test.feedback, [0, 2])
    with pytest.raises(InputError, match="k_core=4 leaves no row"):
        given_split(train, test, k=4)
    with pytest.raises(InputError, match="no held-out row"):
        given_split(train, rows_of([3], [30]), k=2)
