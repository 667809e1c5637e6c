"""Comparisons of methods against numbers worked out by hand."""

import pytest

from experiments.report import comparisons
from experiments.report.findings import Cell, independent_difference


def test_margin_is_to_the_best_rival_and_turned_round_for_imbalance(findings):
    rows = {m: findings.row("kuairec", 30, m)["result"] for m in ("dsrm_hrl", "a2c", "td3")}
    for metric, sign in (("length", 1), ("ad", -1)):
        found = comparisons.margin(
            findings, metric=metric, method="dsrm_hrl", against=["a2c", "td3"], envs=["kuairec"], max_lens=[30]
        )
        best = max(sign * rows[m][metric]["mean"] for m in ("a2c", "td3"))
        assert found[0].cell.value == pytest.approx(sign * rows["dsrm_hrl"][metric]["mean"] - best)
    relative = comparisons.margin(
        findings, metric="length", method="dsrm_hrl", against=["a2c"], envs=["kuairec"], max_lens=[30], relative=True
    )
    expected = rows["dsrm_hrl"]["length"]["mean"] / rows["a2c"]["length"]["mean"] - 1
    assert relative[0].cell.value == pytest.approx(expected)


def test_independent_intervals_add_as_squares():
    found = independent_difference(Cell(3, 0, 6), Cell(1, -3, 5))
    assert (found.value, found.low, found.high) == (2, -3, 7)


def test_dominated_needs_both_measures(changed):
    def better(row):
        if row["method"] == "td3" and row["max_len"] == 30:
            row["result"]["return"] = {"mean": 99.0, "low": 98.9, "high": 99.1}
            row["result"]["slate_ad"] = {"mean": imbalance, "low": imbalance, "high": imbalance}

    imbalance = 0.0
    options = {"method": "dsrm_hrl", "methods": ["a2c", "td3"]}
    found = comparisons.dominated_by(changed(better), **options)
    assert sorted(m.cell.value for m in found) == [0, 0, 1, 1]
    imbalance = 0.011  # worse than .010, though within its interval
    found = comparisons.dominated_by(changed(better), **options)
    assert sorted(m.cell.value for m in found) == [0, 0, 0, 0]
    imbalance = 0.5
    found = comparisons.dominated_by(changed(better), **options)
    assert sorted(m.cell.value for m in found) == [0, 0, 0, 0]


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
