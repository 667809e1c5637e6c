"""Who sees what in a synthetic log: rows per user, draws and selection against their exact distributions."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from scipy import stats

from dsrm_jax.data import synthetic_exposure
from tests.data.test_synthetic import gini


@hypothesis.given(
    users=st.integers(1, 300), extra=st.integers(0, 100_000), top=st.floats(1.0, 1e4), middle=st.floats(0.0, 1.0)
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_rows_per_user_has_the_exact_total_and_no_empty_user(users, extra, top, middle):
    counts = synthetic_exposure.rows_per_user(users, users + extra, (0.0, 0.5, 1.0), (1.0, top**middle, top))
    assert counts.sum() == users + extra
    assert counts.min() >= 1
    assert np.diff(counts).min(initial=0) >= -1
    assert counts.max() == counts[-1] or counts.max() - counts[-1] == 1


def test_alias_table_draws_its_distribution():
    weights = np.array([5.0, 0.0, 0.2, 1.0, 0.03, 2.5, 0.0, 1.7])
    table = synthetic_exposure.alias_table(weights)
    counts = np.bincount(synthetic_exposure.draw(np.random.default_rng(0), table, 400_000), minlength=8)
    positive = weights > 0
    assert not counts[~positive].any()
    expected = 400_000 * weights[positive] / weights.sum()
    assert stats.chisquare(counts[positive], expected).pvalue > 1e-3


def test_selection_is_a_softmax_over_candidates_drawn_by_popularity():
    weights = np.array([0.5, 0.3, 0.15, 0.05])
    user, item = np.array([[1.0, -0.5]], np.float32), np.array([[1, 0], [0, 1], [-1, 1], [2, 0]], np.float32)
    strength, rows = 0.8, 300_000
    shown = synthetic_exposure.selected_rows(
        np.random.default_rng(0), np.array([0, rows]), weights, user, item, candidates=2, strength=strength
    )
    utility = np.exp(strength * (item @ user[0]).astype(np.float64))
    pair = weights[:, None] * weights * utility[:, None] / (utility[:, None] + utility)
    expected = 2 * pair.sum(axis=1)  # over which of the two candidates the item is; a tie with itself counts half twice
    assert expected.sum() == pytest.approx(1.0)
    assert stats.chisquare(np.bincount(shown, minlength=4), rows * expected).pvalue > 1e-3


def test_popularity_weights_are_a_lognormal_up_to_the_clip():
    weights = synthetic_exposure.popularity_weights(100_000, 1.2, 1e9)
    assert gini(weights) == pytest.approx(2 * stats.norm.cdf(1.2 / np.sqrt(2)) - 1, rel=1e-3)
    clipped = synthetic_exposure.popularity_weights(100_000, 1.2, 3.0)
    assert clipped.max() / clipped.mean() == pytest.approx(3.0, rel=1e-6)
