"""Each table of the report begins with sentences, and they follow its intervals."""

import pytest

from experiments.report import ledger, paper, sentences, tables
from experiments.report.claims import judge_all, load_claims
from experiments.report.intervals import Cell
from experiments.report.plan import CLAIMS, plans_folder


def every_table(findings):
    env, max_len = "kuairec", 30
    methods = (*paper.METHODS, *paper.YARDSTICKS)
    judgements = judge_all(load_claims(plans_folder() / CLAIMS), findings)
    yield ledger.verdicts_table(judgements)
    yield ledger.claims_table(judgements, findings.studies["noise"]["passes"])
    yield from (tables.ladder_table(findings), tables.waterfall_table(findings), tables.heads_table(findings))
    yield tables.ruler_table(findings)
    yield from (tables.table1(findings), tables.table4(findings), tables.figure2_table(findings))
    yield tables.methods_table(findings, env, max_len, methods, "table2")
    yield tables.methods_table(findings, env, max_len, paper.ABLATIONS, "table3")
    yield from (tables.figure3_table(findings), tables.figure4_table(findings), tables.closed_form_table(findings))
    yield from (build(findings, env) for build in (tables.figure6_table, tables.curves_table, tables.pareto_table))


def test_every_table_begins_with_sentences(findings):
    for table in every_table(findings):
        assert table.said
        text = tables.markdown(table)
        assert text.index(table.said[0]) < text.index(f"| {table.header[0]} |")
        for sentence in table.said:
            assert sentence.endswith(".")
            assert "nan" not in sentence.lower().split()


@pytest.mark.parametrize(
    ("gap", "words"), [(3.0, "longer than A2C"), (0.05, "as long as A2C"), (-3.0, "LESS long than A2C")]
)
def test_a_method_is_beyond_level_or_behind_as_its_interval_is(changed, gap, words):
    def alike(row):
        if row["env"] == "kuairec" and row["max_len"] == 30 and row["method"] in ("a2c", "dsrm_hrl"):
            mean = 20.0 + gap * (row["method"] == "dsrm_hrl")
            row["result"]["length"] = {"mean": mean, "low": mean - 0.5, "high": mean + 0.5}

    said = " ".join(sentences.methods_said(changed(alike), "kuairec", 30, ("a2c", "dsrm_hrl")))
    assert words in said


def test_the_yardsticks_verdicts_are_those_of_train(changed):
    def learnt_nothing(row):
        if row["method"] in ("dsrm_hrl", "quota_greedy_purified"):
            row["result"]["length"] = {"mean": 21.0, "low": 20.9, "high": 21.1}

    said = list(sentences.methods_said(changed(learnt_nothing), "kuairec", 30, paper.METHODS))
    assert any(
        s.startswith("Reinforcement learning adds nothing over ranking by the purified state here") for s in said
    )


def test_a_grid_names_its_best_and_what_is_level_with_it():
    rows = [{"result": {"length": {"mean": m, "low": m - 1, "high": m + 1}}} for m in (10.0, 10.5, 20.0, 19.0)]
    (said,) = sentences.grid_said(rows, ["a", "b", "c", "d"])
    assert said == "Sessions are longest at c (20.00 ± 1.00 steps), and level with 1 of the 3 others."
    (said,) = sentences.grid_said(rows[:2], ["a", "b"])
    assert said.endswith("level with every other.")
    (said,) = sentences.grid_said([rows[0], rows[2]], ["a", "c"])
    assert said.endswith("level with none of the others.")


def test_an_interval_that_is_not_known_is_apart_from_nothing(changed):
    def unknown(row):
        for name, entry in row["result"].items():
            if isinstance(entry, dict) and "mean" in entry:
                row["result"][name] = entry | {"low": float("nan"), "high": float("nan")}

    said = " ".join(sentences.methods_said(changed(unknown), "kuairand", 50, paper.METHODS))
    assert "no longer" in said
    assert "longer than A2C" not in said
    assert Cell.of({"mean": 1.0, "low": float("nan"), "high": float("nan")}).half == 0


def test_wide_tables_are_split_and_keep_every_cell(findings):
    for table in every_table(findings):
        text = tables.markdown(table)
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert max(line.replace("\\|", "").count("|") - 1 for line in lines) <= tables.MOST_COLUMNS
        for row in [table.header, *table.rows]:
            cells = "".join(line for line in lines if line.startswith(f"| {row[0]} |".replace("\n", " ")))
            assert all(f" {cell.replace('|', chr(92) + '|')} ".replace("\n", " ") in cells for cell in row[1:] if cell)
