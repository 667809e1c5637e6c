"""Measurements against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from dsrm_jax.report import measures
from dsrm_jax.report.curves import curve_facts
from dsrm_jax.report.evidence import Cell, independent_difference


def changed(evidence, change):
    """Return evidence in which `change(row)` edited a copy of each result."""
    results = {
        plan: [dict(row) | {"result": dict(row["result"])} for row in rows]
        for plan, rows in evidence.results.items()
    }
    for rows in results.values():
        for row in rows:
            change(row)
    return replace(evidence, results=results)


def test_the_closed_form_flags_a_wrong_row_and_no_other(evidence):
    assert max(error for _, error in measures.closed_form_errors(evidence)) < 1e-9

    def lengthen(row):
        if (row["env"], row["max_len"], row["method"]) == ("kuairand", 50, "td3"):
            row["result"]["length"] = {"mean": row["result"]["length"]["mean"] + 0.4, "low": 0, "high": 0}

    errors = measures.closed_form_errors(changed(evidence, lengthen))
    assert errors[0][1] == pytest.approx(0.4)
    assert "td3" in errors[0][0]
    assert "KuaiRand-Pure 50" in errors[0][0]
    assert errors[1][1] < 1e-9


def test_margin_is_to_the_best_rival_and_turned_round_for_imbalance(evidence):
    rows = {m: evidence.row("kuairec", 30, m)["result"] for m in ("dsrm_hrl", "a2c", "td3")}
    for metric, sign in (("length", 1), ("ad", -1)):
        found = measures.margin(
            evidence,
            metric=metric,
            method="dsrm_hrl",
            against=["a2c", "td3"],
            envs=["kuairec"],
            max_lens=[30],
        )
        best = max(sign * rows[m][metric]["mean"] for m in ("a2c", "td3"))
        assert found[0].cell.value == pytest.approx(sign * rows["dsrm_hrl"][metric]["mean"] - best)
    relative = measures.margin(
        evidence,
        metric="length",
        method="dsrm_hrl",
        against=["a2c"],
        envs=["kuairec"],
        max_lens=[30],
        relative=True,
    )
    expected = rows["dsrm_hrl"]["length"]["mean"] / rows["a2c"]["length"]["mean"] - 1
    assert relative[0].cell.value == pytest.approx(expected)


def test_independent_intervals_add_as_squares():
    found = independent_difference(Cell(3, 0, 6), Cell(1, -3, 5))
    assert (found.value, found.low, found.high) == (2, -3, 7)


def test_dominated_needs_both_measures(evidence):
    def better(row):
        if row["method"] == "td3" and row["max_len"] == 30:
            row["result"]["return"] = {"mean": 99.0, "low": 98.9, "high": 99.1}
            row["result"]["slate_ad"] = {"mean": imbalance, "low": imbalance, "high": imbalance}

    imbalance = 0.0
    options = {"method": "dsrm_hrl", "methods": ["a2c", "td3"]}
    found = measures.dominated_by(changed(evidence, better), **options)
    assert sorted(m.cell.value for m in found) == [0, 0, 1, 1]
    imbalance = 0.011  # worse than .010, though within its interval
    found = measures.dominated_by(changed(evidence, better), **options)
    assert sorted(m.cell.value for m in found) == [0, 0, 0, 0]
    imbalance = 0.5
    found = measures.dominated_by(changed(evidence, better), **options)
    assert sorted(m.cell.value for m in found) == [0, 0, 0, 0]


def test_diffusion_peak_and_change_read_their_schedule(evidence):
    def by_steps(row):
        if "purifier.diffusion_steps" in row["values"]:
            steps, linear = (
                row["values"]["purifier.diffusion_steps"],
                row["values"]["purifier.schedule"] == "linear",
            )
            value = {20: 30.0, 500: 15.0}.get(steps, 25.0) if linear else 10.0
            row["result"]["length"] = {"mean": value, "low": value, "high": value}

    made = changed(evidence, by_steps)
    peak = measures.diffusion_peak(made, schedule="linear", inside=[10, 20, 30])
    assert [m.cell.value for m in peak] == [5.0, 5.0]
    change = measures.diffusion_change(made, schedule="linear", first=20, second=500, relative=True)
    assert [m.cell.value for m in change] == [-0.5, -0.5]
    assert measures.diffusion_change(made, schedule="rescaled", first=20, second=500)[0].cell.value == 0


def test_curve_facts_of_a_curve_drawn_by_hand():
    mean = np.array([1.0, 5.0, 3.0, 9.0, 9.5, 9.0, 10.0, 10.0])
    facts = curve_facts(np.stack([mean - 1, mean + 1], axis=1))
    assert facts["largest_fall"] == 2.0
    assert facts["largest_rise"] == 9.0
    assert facts["late_level"] == pytest.approx(9.625)
    assert facts["seed_spread"] == pytest.approx(np.sqrt(2))
    assert facts["settled"] == pytest.approx(6 / 8)  # 9.0 is a tenth of the range, .9, and more below 10
    line = curve_facts(np.arange(8.0)[:, None] + np.zeros(3))
    assert line["roughness"] == pytest.approx(0, abs=1e-12)
    assert line["largest_fall"] == 0


def test_the_columns_that_the_paper_names_decide_where_they_are(evidence):
    data = {env: dict(facts) for env, facts in evidence.data.items()}
    data["kuairand"]["printed_columns"] = data["kuairand"]["popularity"] | {"counts": 0.5}
    found = measures.popularity_r2(replace(evidence, data=data), kind="counts")
    assert [m.cell.value for m in found] == [0.93, 0.5]


def test_the_papers_own_slips():
    ratio = measures.paper_time_ratio(None, method="dsrm_hrl", against="dnair")[0].cell.value
    assert ratio == pytest.approx(2.68, abs=0.005)
    (rows,) = measures.paper_rows_off_three_seeds(None)
    assert rows.cell.value == 1
    assert "KuaiRec 50 dsrm_hrl" in rows.where
