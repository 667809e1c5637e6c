"""The whole command on a small grid with stand-ins for training: resumed, partly failed, told of progress."""

import json

import pytest

from dsrm_jax.config.budgets import budget
from dsrm_jax.errors import InputError
from dsrm_jax.runs.pieces import log_of
from experiments.report import reproduce as module
from experiments.report.reproduce import reproduce

TABLE2 = """
[training]
seeds = [11, 15]
[grid]
"data.env" = ["kuairec"]
"data.seed" = [0, 1, 2]
"environment.max_len" = [30, 50]
"agent.method" = ["a2c", "dsrm_hrl"]
"""
TABLE3 = """
[training]
seeds = [11, 15]
[grid]
"data.env" = ["kuairec"]
"data.seed" = [0, 1, 2]
"environment.max_len" = [30]
"agent.method" = ["flat", "dsrm_hrl"]
"""
DATA = '[grid]\n"data.env" = ["kuairec"]\n'
CLAIM = """
[[claim]]
id = "len"
section = "5.2"
quote = "outperforms"
reads = "Len minus A2C's"
measurement = "margin"
metric = "length"
method = "dsrm_hrl"
against = ["a2c"]
about = ["purifier"]
relation = ">"
threshold = 0
"""


@pytest.fixture
def plans(tmp_path):
    folder = tmp_path / "plans"
    folder.mkdir()
    for name, text in (("table1", DATA), ("table2", TABLE2), ("table3", TABLE3), ("claims", CLAIM)):
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def log():
    """A small synthetic log, made once."""
    small = budget("tiny")
    return log_of(small)


@pytest.fixture
def quick(monkeypatch, log):
    """Read no data and draw no pictures."""
    monkeypatch.setattr(module, "log_of", lambda config: log)
    monkeypatch.setattr(module, "draw_all", lambda findings, folder: {})


@pytest.fixture
def trained():
    """Points that the stand-in trained, in order."""
    return []


@pytest.fixture
def runner(make_result, trained):
    """Return a stand-in for `run_points` that can stop after some points, or fail on a method."""

    def make(*, stop_after=99, fails=""):
        def run(points, folder, *, validate, workers, say):
            assert not validate
            for point in points:
                if (folder / point.name / "result.json").exists():
                    continue
                if len(trained) >= stop_after:
                    raise KeyboardInterrupt
                method = point.config.agent.method
                if method == fails:
                    say(f"[1/1] kuairec {method} max_len 30: FAILED: no such thing")
                    continue
                make_result(point, folder)
                trained.append((point.config.data.seed, method, point.config.environment.max_len))
                say(f"[1/1] kuairec {method}: Len 20")

        return run

    return make


def test_the_report_is_written_and_nothing_runs_twice(plans, tmp_path, runner, trained, quick):
    lines = []
    for _ in range(2):
        reproduce(["kuairec"], "tiny", tmp_path / "out", plans=plans, run=runner(), say=lines.append)
    each = [("a2c", 30), ("a2c", 50), ("dsrm_hrl", 30), ("dsrm_hrl", 50), ("flat", 30)]
    assert sorted(trained) == [(seed, *pair) for seed in range(3) for pair in each]
    assert lines[0].startswith("15 of 15 points to run: about ")
    text = (tmp_path / "out" / "report" / "report.md").read_text(encoding="utf-8")
    assert "synthetic kuairec world" in text
    assert "**holds**" in text
    assert "What failed" not in text
    assert "of the whole report 15/15" in "".join(lines)
    assert lines[-1].endswith("report.html")


def test_an_interrupted_run_goes_on_where_it_was(plans, tmp_path, runner, trained, quick):
    with pytest.raises(KeyboardInterrupt):
        reproduce(["kuairec"], "tiny", tmp_path / "out", plans=plans, run=runner(stop_after=2), say=str)
    first = list(trained)
    assert len(first) == 2
    assert not (tmp_path / "out" / "report").exists()
    reproduce(["kuairec"], "tiny", tmp_path / "out", plans=plans, run=runner(), say=str)
    assert trained[:2] == first
    assert len(trained) == len(set(trained)) == 15


def test_a_failed_point_is_reported_and_stops_nothing(plans, tmp_path, runner, trained, quick):
    lines = []
    reproduce(["kuairec"], "tiny", tmp_path / "out", plans=plans, run=runner(fails="a2c"), say=lines.append)
    assert {method for _, method, _ in trained} == {"dsrm_hrl", "flat"}
    text = (tmp_path / "out" / "report" / "report.md").read_text(encoding="utf-8")
    failed = text[text.index("## What failed") :]
    assert "KuaiRec 30, seed 2, max_len 30, method a2c" in failed
    assert "FAILED: no such thing" in failed
    assert "not finished" in text[text.index("## Table 2") : text.index("## Table 3")]
    assert "cannot be decided here" in text
    assert "6 points did not finish" in lines[-1]


def test_a_negative_control_runs_what_it_spoils_and_its_verdicts_stand_in_the_next_report(
    plans, tmp_path, runner, trained, quick
):
    out, lines = tmp_path / "out", []
    reproduce(["kuairec"], "tiny", out, plans=plans, run=runner(), say=lines.append)
    before = len(trained)
    reproduce(["kuairec"], "tiny", out, plans=plans, run=runner(), say=lines.append, control="shuffled")
    assert {method for _, method, _ in trained[before:]} == {"dsrm_hrl"}  # the baseline is as it was
    assert json.loads((out / "controls" / "shuffled.json").read_text()).keys() == {"len"}
    assert lines[-1].startswith("shuffled: len: ")
    reproduce(["kuairec"], "tiny", out, plans=plans, run=runner(), say=lines.append)
    text = (out / "report" / "report.md").read_text(encoding="utf-8")
    assert "purified states of other users: " in text[text.index("## Negative controls") :]
    with pytest.raises(InputError, match="shuffled"):
        reproduce(["kuairec"], "tiny", out, plans=plans, run=runner(), control="shufled")


def test_bad_input_stops_before_any_training(plans, tmp_path, runner, trained):
    with pytest.raises(InputError, match="no such file"):
        reproduce(["kuairec"], "tiny", tmp_path / "out", plans=plans, run=runner(), data_path=str(tmp_path / "none"))
    (plans / "claims.toml").write_text(CLAIM.replace("margin", "margarine"))
    with pytest.raises(InputError, match="margarine"):
        reproduce(["kuairec"], "tiny", tmp_path / "out", plans=plans, run=runner())
    assert trained == []
