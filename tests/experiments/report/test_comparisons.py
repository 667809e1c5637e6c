"""Comparisons of methods against numbers worked out by hand."""

import pytest

from experiments.report import comparisons
from experiments.report.intervals import Cell, difference_of_means


def test_margin_is_to_every_rival_and_turned_round_for_imbalance(findings):
    rows = {m: findings.row("kuairec", 30, m)["result"] for m in ("dsrm_hrl", "a2c", "td3")}
    for metric, sign in (("length", 1), ("ad", -1)):
        found = comparisons.margin(
            findings, metric=metric, method="dsrm_hrl", against=["a2c", "td3"], envs=["kuairec"], max_lens=[30]
        )
        expected = [sign * (rows["dsrm_hrl"][metric]["mean"] - rows[m][metric]["mean"]) for m in ("a2c", "td3")]
        assert [m.cell.value for m in found] == pytest.approx(expected)
    relative = comparisons.margin(
        findings, metric="length", method="dsrm_hrl", against=["a2c"], envs=["kuairec"], max_lens=[30], relative=True
    )
    expected = rows["dsrm_hrl"]["length"]["mean"] / rows["a2c"]["length"]["mean"] - 1
    assert relative[0].cell.value == pytest.approx(expected)


def test_independent_intervals_add_as_squares():
    found = difference_of_means(Cell(3, 0, 6), Cell(1, -3, 5))
    assert (found.value, found.low, found.high) == (2, -3, 7)


def test_dominated_needs_both_measures(changed):
    def better(row):
        if row["method"] == "td3" and row["env"] == "kuairec":
            row["result"]["return"] = {"mean": 99.0, "low": 98.9, "high": 99.1, "data_seeds": 3}
            row["result"]["slate_ad"] = {"mean": imbalance, "low": imbalance, "high": imbalance, "data_seeds": 3}

    imbalance = 0.0
    options = {"method": "dsrm_hrl", "methods": ["a2c", "td3"]}
    found = comparisons.dominated_by(changed(better), **options)
    assert sorted(m.cell.value for m in found) == [0, 1]
    imbalance = 0.011  # worse than .010, though within its interval
    found = comparisons.dominated_by(changed(better), **options)
    assert sorted(m.cell.value for m in found) == [0, 0]
    imbalance = 0.5
    found = comparisons.dominated_by(changed(better), **options)
    assert sorted(m.cell.value for m in found) == [0, 0]


def test_diffusion_peak_and_change_read_their_schedule(changed):
    def by_steps(row):
        if "purifier.diffusion_steps" in row["values"]:
            steps, linear = (row["values"]["purifier.diffusion_steps"], row["values"]["purifier.schedule"] == "linear")
            value = {20: 30.0, 500: 15.0}.get(steps, 25.0) if linear else 10.0
            row["result"]["length"] = {"mean": value, "low": value, "high": value}

    made = changed(by_steps)
    peak = comparisons.diffusion_peak(made, schedule="linear", inside=[10, 20, 30])
    assert [m.cell.value for m in peak] == [5.0, 5.0]
    change = comparisons.diffusion_change(made, schedule="linear", first=20, second=500, relative=True)
    assert [m.cell.value for m in change] == [-0.5, -0.5]
    assert comparisons.diffusion_change(made, schedule="rescaled", first=20, second=500)[0].cell.value == 0


def test_a_paired_difference_is_of_runs_on_the_same_users(findings):
    """Users and seeds move all methods alike, so that they cancel: the difference is far more certain than the numbers."""
    rows = [findings.row("kuairec", 30, name) for name in ("dsrm_hrl", "dsrm_hrl+paper")]
    gap = findings.difference(*rows, "length")
    first, second = (Cell.of(row["result"]["length"]) for row in rows)
    assert gap.value == pytest.approx(first.value - second.value)
    assert gap.half < 0.5 * difference_of_means(first, second).half
    assert gap.data_seeds == 3
    other = {"result": {"length": {"mean": 1.0, "low": 0.0, "high": 2.0, "data_seeds": 3}}, "name": "elsewhere"}
    assert findings.difference(rows[0], other, "length").half == pytest.approx((1 + first.half**2) ** 0.5)


def test_share_best_is_of_each_data_seed(findings):
    (found,) = comparisons.share_best(
        findings, method="dsrm_hrl", methods=["a2c", "td3", "dsrm_hrl"], metrics=["length", "slate_ad"]
    )
    assert (found.cell.value, found.cell.data_seeds) == (1.0, 3)
