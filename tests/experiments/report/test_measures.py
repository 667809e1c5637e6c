"""Measurements against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.report import measures
from experiments.report.curves import curve_facts


def test_the_closed_form_flags_a_wrong_row_and_no_other(findings, changed):
    assert max(error for _, error, _ in measures.closed_form_errors(findings)) < 0.05

    def lengthen(row):
        if (row["env"], row["max_len"], row["method"]) == ("kuairand", 50, "bcq"):
            row["result"]["length"] = {"mean": row["result"]["length"]["mean"] + 0.4, "low": 0, "high": 0}

    errors = measures.closed_form_errors(changed(lengthen))
    assert errors[0][1] == pytest.approx(0.4, abs=0.05)
    assert "bcq" in errors[0][0]
    assert "KuaiRand-Pure 50" in errors[0][0]
    assert errors[1][1] < 0.05


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


def test_the_columns_that_the_paper_names_decide_where_they_are(findings):
    data = {env: dict(facts) for env, facts in findings.data.items()}
    data["kuairand"]["printed_columns"] = data["kuairand"]["popularity"] | {"counts": 0.5}
    found = measures.popularity_r2(replace(findings, data=data), kind="counts")
    assert [m.cell.value for m in found] == [0.93, 0.5]


def test_other_studies_are_read_as_they_are(findings):
    """By hand, from the committed files."""
    found = {m.where: m.cell for m in measures.living(findings, against="constant")}
    expected = findings.studies["worlds_learners"]["worlds"]["mood"]["less"]["dsrm_hrl"]["constant"]
    cell = found["mood, less constant"]
    assert (cell.value, cell.low, cell.high, cell.data_seeds) == (*(expected[k] for k in ("mean", "low", "high")), 5)
    gains = measures.real_log(findings, rung="guided", over="gaussian", events=[5])
    expected = findings.studies["ladder"]["KuaiRand-Pure"]["events"]["5"]["rungs"]["guided"]["over_gaussian"]
    assert gains[0].cell.value == expected["log_likelihood"]["mean"]
    assert not any("synthetic" in m.where for m in gains)
    steps = findings.studies["ruler"]["steps"]["clusters"]["guided"]["ddpm"]["20"]["over_exact"]
    change = {m.where: m.cell.value for m in measures.ruler_change(findings, kind="guided", first=10, second=50)}
    assert change["clusters, 20 events"] == pytest.approx(steps["50"] / steps["10"] - 1)
    noise = measures.noise(findings, claim="pareto")[0].cell.value
    assert noise == findings.studies["noise"]["passes"]["pareto"]["now"]


def test_the_papers_own_slips():
    ratio = measures.paper_time_ratio(None, method="dsrm_hrl", against="dnair")[0].cell.value
    assert ratio == pytest.approx(2.68, abs=0.005)
    (rows,) = measures.paper_rows_off_three_seeds(None)
    assert rows.cell.value == 1
    assert "KuaiRec 50 dsrm_hrl" in rows.where
