"""A log's statistics against definitions and counts by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.data import statistics
from dsrm_jax.data.log import InteractionLog, Interactions
from dsrm_jax.data.statistics import describe, gini, top_share

counts = st.lists(st.integers(0, 50), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(counts)
def test_gini_is_half_the_relative_mean_absolute_difference(values):
    values = np.array(values, dtype=np.float64)
    if values.sum() == 0:
        assert gini(values) == 0
    else:
        difference = np.abs(values[:, None] - values[None, :]).mean()
        assert gini(values) == pytest.approx(difference / (2 * values.mean()), abs=1e-12)


def test_top_share_counts_the_rounded_up_fifth():
    assert top_share(np.array([1, 2, 3, 4, 10])) == 0.5
    assert top_share(np.array([1, 1, 1, 1, 1, 5])) == 0.6
    assert top_share(np.r_[np.zeros(12), [1, 1, 1]]) == 1.0
    assert top_share(np.r_[np.zeros(11), [1, 1, 1, 1]]) == 0.75
    assert top_share(np.zeros(5)) == 0.0


def test_describe_counts_by_hand():
    train = Interactions(
        user=np.array([0, 0, 0, 2], dtype=np.int32),
        item=np.array([1, 1, 3, 3], dtype=np.int32),
        click=np.array([True, False, False, True]),
        time=np.arange(4),
        feedback=np.array([1, 0, 0, 3], dtype=np.float32),
    )
    empty = Interactions(*(column[:0] for column in (train.user, train.item, train.click, train.time, train.feedback)))
    log = InteractionLog(
        name="hand",
        source="by hand",
        user_ids=np.arange(3),
        item_ids=np.arange(4),
        train=train,
        test=empty,
        catalogue=np.array([1, 2], dtype=np.int32),
        categories=np.zeros((4, 0), dtype=bool),
    )
    result = describe(log)
    assert (result["users"], result["items"], result["catalogue"]) == (3, 4, 2)
    assert result["train"]["rows"] == 4
    assert (result["train"]["users"], result["train"]["items"]) == (2, 2)
    assert result["train"]["click_rate"] == 0.5
    assert result["train"]["mean_feedback"] == 1.0
    assert result["train"]["density"] == 0.75
    assert result["train"]["rows_per_user"]["mean"] == 2.0
    assert result["train"]["rows_per_user"]["q50"] == 2.0
    assert result["train"]["rows_per_user"]["max"] == 3.0
    assert result["train"]["user_click_rate"]["mean"] == pytest.approx(2 / 3)
    assert result["test"] == {"rows": 0, "users": 0, "items": 0}
    # Exposure 0, 2, 0, 2: two of four equal, none of the others.
    assert result["popularity"]["gini"] == 0.5
    assert result["popularity"]["top_share"] == 0.5
    assert result["popularity"]["catalogue_gini"] == 0.5
    assert result["popularity"]["catalogue_top_share"] == 1.0


def test_density_counts_each_pair_once_whatever_the_block(monkeypatch):
    rng = np.random.default_rng(1)
    user = np.sort(rng.integers(0, 9, 200)).astype(np.int32)
    item = rng.integers(0, 11, 200).astype(np.int32)
    column = np.zeros(200)
    rows = Interactions(user, item, column > 0, column, column)
    expected = len(set(zip(user.tolist(), item.tolist(), strict=True)))
    for block_pairs in (1, 30, 1 << 24):
        monkeypatch.setattr(statistics, "BLOCK_PAIRS", block_pairs)
        assert statistics._num_pairs(rows, 11) == expected
