"""What the ruler reports of an estimate, against counting by hand and where the answer is known."""

from itertools import combinations

import numpy as np
import pytest

from experiments.ruler.measures import Estimate, measure, summarise
from experiments.ruler.worlds import Size, chance, make_world, shuffled

SIZE = Size(3, 9, 10, 4, 200, (2, 4), 7, 100, 2, 100)
WORLD = make_world("gaussian", 1, SIZE)


def test_the_truth_itself_has_no_error_and_no_regret():
    found = measure(WORLD, Estimate(np.stack([WORLD.test, WORLD.test + 1.0])))
    np.testing.assert_allclose(found["squared_error"], [np.zeros(200), np.ones(200)])
    assert np.abs(found["regret"][0]).max() < 1e-12
    assert found["log_likelihood"][0].mean() > found["log_likelihood"][1].mean()
    assert "region_90" not in found


def test_regret_is_that_of_the_best_of_all_slates():
    estimate = np.random.default_rng(0).normal(size=(1, 200, 3))
    found = measure(WORLD, Estimate(estimate))["regret"][0]
    for user in range(3):
        true = chance(WORLD.vectors @ WORLD.test[user] + WORLD.bias)
        guessed = WORLD.vectors @ estimate[0, user] + WORLD.bias
        slates = [list(slate) for slate in combinations(range(9), 6)]
        chosen = max(slates, key=lambda slate: guessed[slate].sum())
        assert found[user] == pytest.approx(max(true[s].sum() for s in slates) - true[chosen].sum())


def test_regions_of_a_calibrated_posterior_cover_what_they_say():
    generator = np.random.default_rng(1)
    mean = WORLD.test - generator.normal(size=(2, 200, 3))  # the taste is one more draw about the mean
    draws = mean[:, :, None] + generator.normal(size=(2, 200, 400, 3))
    found = measure(WORLD, Estimate(mean, draws))
    assert found["region_50"].mean() == pytest.approx(0.5, abs=0.08)
    assert found["region_90"].mean() == pytest.approx(0.9, abs=0.05)
    narrow = measure(WORLD, Estimate(mean, mean[:, :, None] + 0.5 * (draws - mean[:, :, None])))
    assert narrow["region_90"].mean() < 0.6


def test_ratios_are_of_means_with_intervals_of_the_same_users():
    error = np.random.default_rng(2).exponential(size=(1, 400))
    found = summarise({"squared_error": 1.1 * error}, {"exact": {"squared_error": error}}, (5,))["5"]
    assert found["over_exact"] == pytest.approx({"mean": 1.1, "low": 1.1, "high": 1.1})
    half = 1.96 * error.std() / 20 * 1.1
    own = found["squared_error"]
    assert (own["high"] - own["mean"], own["mean"] - own["low"]) == pytest.approx((half, half), rel=0.15)


def test_shuffling_deals_the_same_rows_to_other_users():
    dealt = shuffled(WORLD, 4)
    pairs = [sorted(zip(w.train_item.ravel(), w.train_click.ravel(), strict=True)) for w in (WORLD, dealt)]
    assert pairs[0] == pairs[1]
    assert not np.array_equal(WORLD.train_item, dealt.train_item)
