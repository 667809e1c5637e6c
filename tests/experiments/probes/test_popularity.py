"""P4 against scikit-learn, closed forms and the linear-Gaussian example; each probe fails for its negative control."""

import numpy as np
import pytest
from sklearn.feature_selection import r_regression
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.probes.popularity import (
    clicked_popularity,
    distance_correlation,
    explained_share,
    mlp_r2,
    popularity_direction,
    ridge_r2,
    standardised_log_popularity,
    variance_share,
)

N, D = 1000, 8


@pytest.fixture(scope="module")
def world():
    """Interest in dimensions 1..D-1 with variance 1, popularity with variance 2 along a turned axis 0."""
    rng = np.random.default_rng(0)
    popularity, interest = rng.normal(size=N), rng.normal(size=(N, D - 1))
    turn = np.linalg.qr(rng.normal(size=(D, D)))[0]
    state = np.column_stack([np.sqrt(2) * popularity, interest]) @ turn
    return popularity, state, turn[0], np.column_stack([0 * popularity, interest]) @ turn


def test_popularity_direction_is_the_axis_along_which_states_move(world):
    popularity, state, axis, _ = world
    direction = popularity_direction(state, popularity)
    # off by the sample correlations, about 1 / sqrt(2 N) each
    assert abs(direction @ axis) > 0.99
    assert np.linalg.norm(direction) == pytest.approx(1)
    np.testing.assert_array_equal(popularity_direction(np.ones((9, 2)), np.arange(9)), 0)


def test_shares_are_those_of_the_covariance(world):
    popularity, state, axis, purified = world
    covariance = np.cov(state, rowvar=False)
    assert variance_share(state, axis) == pytest.approx(axis @ covariance @ axis / np.trace(covariance))
    assert variance_share(state, axis) == pytest.approx(2 / (2 + D - 1), abs=0.02)  # Var = 2 of 2 + (D - 1)
    assert variance_share(state, 3 * axis) == pytest.approx(variance_share(state, axis))
    # popularity's share, one coordinate at a time: sum of r^2 variances
    weight = state.var(axis=0) / state.var(axis=0).sum()
    expected = np.sum(r_regression(state, popularity) ** 2 * weight)
    assert explained_share(state, popularity) == pytest.approx(expected)
    # the cleaned states pass, the identity fails
    assert variance_share(purified, axis) < 1e-12 < 0.5 * variance_share(state, axis)
    assert explained_share(purified, popularity) < 0.5 * explained_share(state, popularity)
    assert not explained_share(state, popularity) <= 0.5 * explained_share(state, popularity)


def test_popularity_cannot_hide_by_rotation(world):
    """A rotated state has nothing on the raw axis, yet popularity explains as much of it as before."""
    popularity, state, axis, _ = world
    other = np.linalg.svd(axis[None])[2][1]
    swap = np.eye(D) - np.outer(axis, axis) - np.outer(other, other) + np.outer(axis, other) + np.outer(other, axis)
    turned = state @ swap
    assert variance_share(turned, axis) < 0.5 * variance_share(state, axis) + 0.02
    assert explained_share(turned, popularity) == pytest.approx(explained_share(state, popularity))


def test_ridge_agrees_with_scikit_learn_on_the_same_folds(world):
    popularity, state, *_ = world
    label = popularity + np.random.default_rng(1).normal(size=N)
    fold = np.random.default_rng(0).permutation(N) % 5
    error = total = 0.0
    for f in range(5):
        train, held = fold != f, fold == f
        model = make_pipeline(StandardScaler(), Ridge(3.0)).fit(state[train], label[train])
        error += np.sum((model.predict(state[held]) - label[held]) ** 2)
        total += np.sum((label[held] - label[train].mean()) ** 2)
    assert ridge_r2(state, label, penalty=3.0) == pytest.approx(1 - error / total)
    assert 1 - error / total == pytest.approx(0.5, abs=0.06)


def test_r2_sees_a_residue_that_the_share_knows_to_be_tiny(world):
    """R2 alone is no measure, it is blind to scale."""
    popularity, _, axis, purified = world
    residue = purified + 0.01 * np.outer(popularity, axis)
    assert ridge_r2(residue, popularity) > 0.99
    assert explained_share(residue, popularity) < 0.01
    assert ridge_r2(purified, popularity) < 0.01  # the negative control of the regression


def test_a_network_and_distances_see_what_a_line_cannot(world):
    popularity, state, _, purified = world
    curved = purified + 0
    curved[:, 0] += 3 * (popularity**2 - 1)
    assert ridge_r2(curved, popularity**2) > 0.5 > 0.1 > ridge_r2(curved, popularity)
    assert distance_correlation(curved, popularity) > 0.03
    assert mlp_r2(state, popularity**2) > 0.5 > 0.05 > ridge_r2(state, popularity**2)
    assert mlp_r2(purified, popularity) < 0.05
    assert abs(distance_correlation(purified, popularity)) < 0.02


def test_distance_correlation_agrees_with_a_loop_and_is_one_for_itself():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 30, 3))
    y = y + x

    def centred(v):
        d = np.array([[np.linalg.norm(p - q) for q in v] for p in v])
        n = len(v)
        u = np.zeros_like(d)
        for i in range(n):
            for j in range(n):
                if i != j:
                    u[i, j] = d[i, j] - d[i].sum() / (n - 2) - d[:, j].sum() / (n - 2) + d.sum() / ((n - 1) * (n - 2))
        return u

    a, b = centred(x), centred(y)
    expected = np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))
    assert distance_correlation(x, y) == pytest.approx(expected)
    assert distance_correlation(x, 2 * x) == pytest.approx(1)


def test_popularity_of_histories_and_items():
    value = standardised_log_popularity(np.repeat([0, 1, 2], [1, 3, 7]), 4)
    logs = np.log([2, 4, 8])
    np.testing.assert_allclose(value[:3], (logs - logs.mean()) / logs.std())
    assert value[3] == pytest.approx(-logs.mean() / logs.std())  # never shown: log(1 + 0)
    found = clicked_popularity(
        value, np.array([[0, 2, 1], [1, 1, 1]]), np.array([[1, 1, 1], [0, 0, 1]]), np.array([[0, 1, 1], [1, 1, 0]])
    )
    assert found[0] == pytest.approx((value[1] + value[2]) / 2)  # an event that is not there does not count
    assert np.isnan(found[1])
    np.testing.assert_array_equal(standardised_log_popularity(np.array([0, 1]), 2), 0)
