"""The whole report on a tiny world: files, and controls whose numbers are known before the run."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from dsrm_jax.config.budgets import budget
from experiments.probes.interest import matched_pairs
from experiments.probes.measures import next_click_ranking
from experiments.probes.report import run_probe


def test_next_clicks_are_ranked_better_by_the_truth_and_worse_by_strangers():
    rng = np.random.default_rng(0)
    state, vectors = rng.normal(size=(150, 5)), rng.normal(size=(300, 5))
    score = state @ vectors.T
    clicked = score + rng.gumbel(size=score.shape) > np.quantile(score, 0.98)
    pairs = matched_pairs(clicked, 0 * clicked, rng.random(300))
    states = {
        "identity": state + rng.normal(size=state.shape),
        "purifier": state,
        "same": state + 0,
        "shuffled": np.roll(state, 1, axis=0),
    }
    found = next_click_ranking(states, vectors, np.zeros(300), pairs)
    assert found["identity"]["auc_difference"]["mean"] == 0
    assert found["identity"]["auc_difference"]["high"] == 0
    assert found["purifier"]["auc_difference"]["low"] > 0.02
    assert found["shuffled"]["auc_difference"]["high"] < -0.1
    assert found["shuffled"]["ndcg_difference"]["high"] < 0
    assert found["same"] == found["purifier"]
    # paired by user: narrower than the intervals of the two would allow
    gap, alone = found["purifier"]["auc_difference"], found["purifier"]["auc"]
    assert gap["high"] - gap["low"] < 1.5 * (alone["high"] - alone["low"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_tiny_run_writes_everything_and_its_trivial_controls_are_caught(tmp_path):
    config = budget("tiny")
    config = replace(config, purifier=replace(config.purifier, kind="guided"))
    console = Console(width=130, record=True, file=io.StringIO())
    report = run_probe(config, tmp_path / "probe", console, num_users=120)
    assert json.loads((tmp_path / "probe" / "probe.json").read_text()) == report
    for name in ("states.png", "controls.png"):
        assert (tmp_path / "probe" / name).read_bytes().startswith(b"\x89PNG")
    text = console.export_text()
    assert "synthetic kuairec world" in text
    assert "verdicts" in text
    states = report["states"]
    assert states["identity"]["change"] == 0
    assert states["identity"]["recovery"] == pytest.approx(0, abs=1e-9)
    assert states["identity"]["selectivity"] == pytest.approx(1, abs=1e-5)
    assert states["identity"]["interest_difference"]["mean"] == 0
    assert states["untrained"]["reidentification_auc"] == pytest.approx(0.5, abs=0.01)
    assert states["shuffled"]["reidentification_auc"] == pytest.approx(0.5, abs=0.15)
    assert states["erasure"]["explained_share"] <= states["identity"]["explained_share"]
    assert states["noise"]["effective_rank"] > states["identity"]["effective_rank"]
    assert len(report["start_sweep"]) == 5
    assert states["oracle"]["recovery"] > states["purifier"]["recovery"] + 0.1
    lengths = {name: row["length"]["mean"] for name, row in report["downstream"].items()}
    assert set(lengths) == {"identity", "shuffled", "none", "purifier"}
    assert min(lengths.values()) > 1
    assert report["downstream"]["identity"]["length_gain"] == dict.fromkeys(("mean", "low", "high"), 0)
    for probe in ("P1", "P3", "P6", "P7", "P8", "P10"):
        assert report["verdicts"][probe]["passes"]["identity"] is False
