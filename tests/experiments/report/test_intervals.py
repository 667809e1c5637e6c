"""Intervals against closed forms and by the coverage of simulated worlds; Holm's correction against its textbook example."""

import numpy as np
import pytest
from scipy import stats

from experiments.report.intervals import Cell, hierarchical, holm, nested_draws, resampled_sums, user_counts

DATA, TRAINED, USERS = 3, 2, 40


def world(rng, data=DATA, *, of_data=1.0, of_training=0.5, of_users=2.0):
    """Return sums of users, whose truth is 0, of each data and training seed."""
    found = []
    for _ in range(data):
        centre = rng.normal(0, of_data)
        found.append([rng.normal(centre + rng.normal(0, of_training), of_users, USERS) for _ in range(TRAINED)])
    return found


def measured(values):
    numbers = [[x.mean() for x in of_seed] for of_seed in values]
    cells = iter(range(100))
    drawn = [[resampled_sums(x[None], next(cells))[0] / USERS for x in of_seed] for of_seed in values]
    return numbers, drawn


def test_students_interval_over_data_seeds_is_never_undercut():
    numbers = [[1.0, 1.2], [2.0, 2.2], [4.0, 4.2]]
    cell = hierarchical(numbers)
    means = np.array([1.1, 2.1, 4.1])
    low, high = stats.t.interval(0.95, 2, means.mean(), stats.sem(means))
    np.testing.assert_allclose([cell.value, cell.low, cell.high], [means.mean(), low, high])
    assert cell.p_value(low) == pytest.approx(0.05)
    _, expected = stats.ttest_1samp(means, 0.0)
    assert cell.p_value(0.0) == pytest.approx(expected)


def test_the_nested_bootstrap_has_the_variance_of_its_three_levels():
    """The variance of a drawn mean is that of data seeds' means, training seeds' and users', each over its number."""
    rng = np.random.default_rng(1)
    numbers, drawn = measured(world(rng, of_data=1.0, of_training=1.0, of_users=4.0))
    table = np.array(numbers)
    users = np.array([[np.var(x) for x in of_seed] for of_seed in drawn]).mean()
    expected = table.mean(axis=1).var() / DATA + table.var(axis=1).mean() / TRAINED / DATA + users / TRAINED / DATA
    found = np.mean([nested_draws(drawn, seed=seed).var() for seed in range(20)])
    assert found == pytest.approx(expected, rel=0.05)


def test_users_whom_all_training_seeds_met_count_once_however_many_were_trained():
    """What users add to the variance of a drawn mean is not divided by the number of training seeds."""
    rng = np.random.default_rng(5)
    sessions = [rng.normal(0.0, 4.0, USERS) for _ in range(DATA)]
    drawn = [[resampled_sums(x[None], place)[0] / USERS] * TRAINED for place, x in enumerate(sessions)]
    means = np.array([x.mean() for x in sessions])
    users = np.mean([np.var(of_seed[0]) for of_seed in drawn])
    found = np.mean([nested_draws(drawn, seed=seed, same_users=True).var() for seed in range(20)])
    assert found == pytest.approx(means.var() / DATA + users / DATA, rel=0.05)


def test_the_wider_interval_covers_the_truth_and_a_bootstrap_of_three_alone_does_not():
    rng = np.random.default_rng(0)
    trials, alone, both = 400, 0, 0
    for _ in range(trials):
        numbers, _ = measured(world(rng))
        low, high = np.quantile(nested_draws(numbers), [0.025, 0.975])
        alone += low <= 0 <= high
        cell = hierarchical(numbers)
        both += cell.low <= 0 <= cell.high
    assert both / trials >= 0.93  # 96 % of 1,000 found, 95 % asked
    assert alone / trials <= 0.9  # 78 % found: what Student's t is for


def test_p_values_are_uniform_where_the_threshold_is_the_truth():
    rng = np.random.default_rng(2)
    found = [hierarchical(measured(world(rng, of_users=0.1))[0]).p_value(0.0) for _ in range(300)]
    assert np.mean(np.array(found) < 0.05) <= 0.08
    assert Cell(1.0, 1.0, 1.0).p_value(1.0) == Cell(1.1, 1.1, 1.1).p_value(1.0) == 0.0  # nothing is uncertain


def test_users_are_drawn_alike_for_all_methods():
    first, second = np.random.default_rng(3).normal(size=(2, USERS))
    both = resampled_sums(np.stack([first, second]), 5)
    np.testing.assert_allclose(both[0] - both[1], resampled_sums((first - second)[None], 5)[0], atol=1e-4)
    counts = user_counts(USERS, 5)
    assert (counts.sum(axis=1) == USERS).all()
    assert not np.array_equal(counts, user_counts(USERS, 6))


def test_holms_correction_is_the_textbooks():
    """Holm 1979's step-down: .01, .04, .03, .005 are .03, .06, .06, .02 once corrected."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_familys_error_where_bonferroni_would_and_rejects_more():
    rng = np.random.default_rng(4)
    wrong = sum(min(holm(rng.uniform(size=10).tolist())) <= 0.05 for _ in range(1000)) / 1000
    assert wrong <= 0.07
    assert holm([0.001, 0.02, 0.9])[1] < 3 * 0.02


def test_a_scaled_number_turns_its_interval_round():
    assert Cell(2.0, 1.0, 4.0, 3).scaled(-1) == Cell(-2.0, -4.0, -1.0, 3)
