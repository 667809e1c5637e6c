"""Fits against closed forms, and the growth of memory that they are there to show."""

import numpy as np
import pytest
from scipy import stats

from experiments.bench.scaling import beyond_fit, linear_fit, power_fit


def test_a_line_is_found_and_its_r2_is_scipys():
    x = [256, 512, 1024, 2048]
    exact = linear_fit(x, [3.0 + 0.5 * at for at in x])
    assert exact == pytest.approx({"intercept": 3.0, "slope": 0.5, "r2": 1.0})
    y = [1.0, 4.0, 2.0, 9.0]
    reference = stats.linregress(x, y)
    found = linear_fit(x, y)
    assert found["slope"] == pytest.approx(reference.slope)
    assert found["intercept"] == pytest.approx(reference.intercept)
    assert found["r2"] == pytest.approx(reference.rvalue**2)


def test_a_power_law_is_found():
    x = np.array([3327, 33270, 332700])
    assert power_fit(x, 7.0 * x**0.4) == pytest.approx(0.4)
    assert power_fit(x, [5.0, 5.0, 5.0]) == pytest.approx(0.0, abs=1e-9)


def test_memory_is_fitted_over_catalogues_in_blocks_and_only_where_the_tables_leave_a_rest():
    items = [3327, 33270, 66540, 332700]
    found = beyond_fit(items, [10**9, 1000 + 33270, 10, 1000 + 332700], [5, 1000, 11, 1000])
    assert found["beyond_bytes"] == [10**9 - 5, 33270, None, 332700]
    assert found["fitted"] == [33270, 332700]
    assert found["exponent"] == pytest.approx(1.0)
    assert beyond_fit(items, [9, 9, 9, 12], [5, 11, 11, 11])["exponent"] is None
