import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from dsrm_jax.simulator.calibration import auc, calibration_table, expected_calibration_error, log_loss


@settings(max_examples=50, deadline=None)
@given(
    scores=hnp.arrays(np.float32, 40, elements=st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0])),
    labels=hnp.arrays(bool, 40),
)
def test_auc_with_many_ties_equals_scikit_learn(scores, labels):
    labels[:2] = [True, False]
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_of_one_class_is_nan():
    assert np.isnan(auc(np.arange(3.0), np.ones(3, bool)))


def test_log_loss_equals_scikit_learn_and_stays_finite_at_the_ends():
    generator = np.random.default_rng(0)
    probability, labels = generator.random(500), generator.random(500) < 0.3
    assert log_loss(probability, labels) == pytest.approx(sklearn_log_loss(labels, probability), rel=1e-12)
    assert log_loss(np.array([0.0, 1.0]), np.array([True, False])) == pytest.approx(-np.log(1e-7), rel=1e-6)


def test_calibration_table_equals_scikit_learn_on_the_filled_bins():
    generator = np.random.default_rng(1)
    probability = generator.beta(2, 5, 2000)
    labels = generator.random(2000) < probability
    table = calibration_table(probability, labels, num_bins=10)
    rate, mean = calibration_curve(labels, probability, n_bins=10)
    filled = table.rows > 0
    np.testing.assert_allclose(table.rate[filled], rate, rtol=1e-12)
    np.testing.assert_allclose(table.probability[filled], mean, rtol=1e-12)
    assert table.rows.sum() == 2000


def test_calibration_error_of_a_constant_shift_is_the_shift():
    # One bin, predictions .15, clicks at .4: the gap is .25 whatever the bin's rows.
    probability = np.full(1000, 0.15)
    labels = np.arange(1000) % 10 < 4
    assert expected_calibration_error(probability, labels, num_bins=10) == pytest.approx(0.25, abs=1e-12)


def test_calibration_error_weighs_bins_by_rows():
    probability = np.r_[np.full(30, 0.05), np.full(10, 1.0)]
    labels = np.r_[np.zeros(30, bool), np.zeros(10, bool)]
    expected = (30 * 0.05 + 10 * 1.0) / 40
    assert expected_calibration_error(probability, labels, num_bins=20) == pytest.approx(expected, abs=1e-12)
