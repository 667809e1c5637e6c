"""Fair of Eq. (4) against the Gini's pairwise definition, its float64 slope and loops over slates."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.agents import fairness
from dsrm_jax.agents.fairness import MEMORY, ShownCounts, observe_slates, slate_fairness, start_counts

J = 7
item_gini, marginal_gini = jax.jit(fairness.item_gini), jax.jit(fairness.marginal_gini)
counts = st.lists(st.integers(0, 9), min_size=J, max_size=J).filter(any)  # zeros and ties abound


def pairwise_gini(count):
    """Half the mean absolute difference of two items' exposure, relative to the mean exposure."""
    count = np.asarray(count, np.float64)
    return np.abs(count[:, None] - count).mean() / (2 * count.mean())


@settings(max_examples=100, deadline=None)
@given(counts)
def test_the_gini_is_half_the_relative_mean_difference(count):
    expected = pairwise_gini(count)
    # and the facts' formula: sum_i (2i - n - 1) x_(i) / (n sum x)
    formula = sum((2 * i - J - 1) * x for i, x in enumerate(sorted(count), 1)) / (J * sum(count))
    assert formula == pytest.approx(expected)
    assert float(item_gini(jnp.array(count, jnp.float32))) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("count", "gini"), [([3.0] * J, 0.0), ([0.0] * (J - 1) + [8.0], (J - 1) / J), ([0.0] * J, 0.0)]
)
def test_the_gini_of_even_concentrated_and_no_exposure(count, gini):
    assert float(item_gini(jnp.array(count))) == pytest.approx(gini, abs=1e-7)


@settings(max_examples=100, deadline=None)
@given(counts)
def test_the_margin_is_the_slope_of_the_gini_times_the_total_exposure(count):
    """Central differences average the slopes on both sides, which at a tie is the middle rank's."""
    count = np.array(count, np.float64) + 1.0
    step = 1e-4 * np.eye(J)
    slope = [(pairwise_gini(count + s) - pairwise_gini(count - s)) / 2e-4 for s in step]
    np.testing.assert_allclose(marginal_gini(jnp.array(count, jnp.float32)), np.array(slope) * count.sum(), atol=1e-4)


def test_before_anything_was_shown_no_item_is_better_than_another():
    np.testing.assert_array_equal(marginal_gini(start_counts(J).count), np.zeros(J))


@pytest.mark.parametrize("popular", range(5))
def test_balance_is_minus_the_distance_from_half_and_half(popular):
    rollout = SimpleNamespace(popular_share=jnp.full((1, 1), popular / 4))
    result = slate_fairness(start_counts(J), rollout, kind="balance")
    assert result.tolist() == [[-abs(popular - (4 - popular)) / 4]]


def test_gini_fairness_of_a_slate_is_minus_its_first_order_effect_on_the_gini():
    rng = np.random.default_rng(0)
    count = rng.permutation(np.linspace(500.0, 5000.0, J))  # no ties, and large beside a slate
    slate = np.array([[[0, 1, 2], [3, 4, 5]], [[6, 0, 3], [2, 5, 1]]])
    rollout = SimpleNamespace(slate=jnp.asarray(slate, jnp.int32))
    result = slate_fairness(ShownCounts(jnp.asarray(count, jnp.float32)), rollout, kind="gini")
    for index in np.ndindex(2, 2):
        shown = np.bincount(slate[index], minlength=J)
        change = pairwise_gini(count + shown) - pairwise_gini(count)
        assert float(result[index]) == pytest.approx(-change * count.sum() / 3, abs=2e-3)


def test_exposure_counts_every_slot_and_fades_once_an_update():
    rng = np.random.default_rng(1)
    exposure, expected = start_counts(J), np.zeros(J)
    for _ in range(3):
        slate = rng.integers(0, J, (4, 2, 3))  # an item many times
        exposure = jax.jit(observe_slates)(exposure, jnp.asarray(slate, jnp.int32))
        expected = MEMORY * expected + np.bincount(slate.reshape(-1), minlength=J)
    np.testing.assert_allclose(exposure.count, expected, rtol=1e-6)
