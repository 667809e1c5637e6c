"""Verdicts, table and pictures from reports whose truth is made up: honest purifiers pass, controls are caught."""

import copy
import io

import numpy as np
import pytest
from rich.console import Console

from experiments.probes.figures import controls_figure, states_figure
from experiments.probes.table import probe_table
from experiments.probes.verdicts import PROBES, claims, misbehaving, verdicts


def interval(mean, half=0.002):
    return {"mean": mean, "low": mean - half, "high": mean + half, "users": 100}


RAW = {
    "change": 0.0, "cosine": 1.0, "cka": 1.0, "leak": None,
    "condition_sensitivity": 0.0, "null_sensitivity": 0.0, "state_sensitivity": 1.4,
    "variance_share": 0.3, "explained_share": 0.2, "ridge_r2": 0.6, "mlp_r2": 0.6, "distance_correlation": 0.2,
    "interest_auc": interval(0.6), "interest_difference": interval(0.0, 0.0), "interest_ndcg": interval(0.4),
    "long_tail_recall": interval(0.2), "reidentification_auc": 0.8, "reidentification_top1": 0.1,
    "effective_rank": 5.0, "participation": 4.0, "recovery": 0.0,
    "insert_popular": 1.0, "insert_niche": 1.0, "remove_popular": 1.0, "remove_niche": 1.0,
    "selectivity": 1.0, "removal_selectivity": 1.0,
    "popularity_silhouette": 0.05, "popularity_nmi": 0.1, "interest_silhouette": -0.02, "interest_nmi": 0.1,
    "length_gain": interval(0.0, 0.0),
}  # fmt: skip
GOOD = RAW | {
    "change": 0.5, "cka": 0.6, "leak": 0.7, "condition_sensitivity": 1.0, "variance_share": 0.1,
    "explained_share": 0.05, "distance_correlation": 0.05, "interest_auc": interval(0.65),
    "interest_difference": interval(0.05), "recovery": 0.5, "selectivity": 0.6,
    "popularity_silhouette": 0.0, "popularity_nmi": 0.02, "interest_nmi": 0.2, "interest_silhouette": 0.05,
    "length_gain": interval(1.0, 0.2),
}  # fmt: skip
ERASED = RAW | {"change": 0.2, "cka": 0.9, "variance_share": 0.2, "explained_share": 0.0, "distance_correlation": 0.0}
NOISE = RAW | {"change": 1.0, "interest_difference": interval(-0.03), "interest_auc": interval(0.57), "recovery": -0.2}


DOWNSTREAM = {
    "length": interval(26.0), "reward": interval(0.8), "broken": interval(0.0), "length_gain": interval(0.7),
    "decomposition": {"total": 0.7, "reward": 0.65, "broken": 0.0, "residual": 0.05},
}  # fmt: skip


def report(states):
    decided = verdicts(states)
    return {
        "source": "a made-up world", "purifier": "guided", "users": 100, "true_preference": True, "states": states,
        "verdicts": decided, "claims": claims(states, decided), "next_click": None,
        "downstream": dict.fromkeys(("identity", "none"), DOWNSTREAM),
        "start_sweep": [{"start_fraction": f, "change": 0.1, "explained_share": 0.1, "interest_auc": 0.6} for f in (0.5, 1.0)],
    }  # fmt: skip


@pytest.fixture
def honest():
    return {"purifier": GOOD, "identity": RAW, "erasure": ERASED, "noise": NOISE, "paper": RAW | {"leak": 0.01}}


def test_a_purifier_that_purifies_passes_everything_and_every_control_behaves(honest):
    decided = verdicts(honest)
    assert {name: entry["passes"]["purifier"] for name, entry in decided.items()} == dict.fromkeys(decided, True)
    assert all(claims(honest, decided).values())
    assert set(decided) == {*(probe.name for probe in PROBES), "P9"}


def test_the_identity_in_a_purifiers_place_fails_all_but_what_it_keeps(honest):
    """The negative control of the whole ruler: a purifier that does not purify."""
    decided = verdicts(honest | {"purifier": RAW | {"leak": 0.01}})
    passed = {name for name, entry in decided.items() if entry["passes"]["purifier"]}
    assert passed == {"P5"}
    held = claims(honest, decided)
    assert not held["popularity_halved"]
    assert not held["beats_controls"]
    assert held["interest_kept"]


@pytest.mark.parametrize(
    ("probe", "change"),
    [
        ("P1", {"change": 0.005}),
        ("P1", {"cka": 0.02}),
        ("P2", {"leak": 0.1}),
        ("P3", {"condition_sensitivity": 0.05}),
        ("P4", {"explained_share": 0.11}),
        ("P4", {"distance_correlation": 0.25}),
        ("P5", {"interest_difference": interval(-0.01)}),
        ("P6", {"recovery": 0.05}),
        ("P7", {"selectivity": 0.95}),
        ("P7", {"selectivity": 0.0}),
        ("P8", {"popularity_silhouette": 0.06}),
        ("P8", {"popularity_nmi": 0.095}),
        ("P8", {"interest_nmi": 0.05}),
        ("P8", {"interest_silhouette": -0.02}),
        ("P10", {"length_gain": interval(0.1, 0.2)}),
        ("P9", {"interest_auc": interval(0.56)}),
    ],
)
def test_each_probe_fails_for_its_own_defect(honest, probe, change):
    decided = verdicts(honest | {"purifier": GOOD | change})
    assert decided[probe]["passes"]["purifier"] is False


def test_a_control_that_gets_through_is_named(honest):
    states = honest | {"paper": RAW | {"leak": 0.9}, "erasure": RAW}
    decided = verdicts(states)
    assert misbehaving(decided["P2"]) == ["paper"]
    assert misbehaving(decided["P4"]) == ["erasure"]
    assert not claims(states, decided)["controls_behave"]
    text = rendered(report(states))
    assert "NOT paper" in text
    assert "controls behave: NO" in text


def test_an_oracle_that_fails_what_it_must_pass_is_named(honest):
    """Where the best state in the learnt space recovers nothing, the probe is no instrument there."""
    states = honest | {"oracle": GOOD}
    assert misbehaving(verdicts(states)["P6"]) == []
    assert misbehaving(verdicts(states | {"oracle": RAW})["P6"]) == ["oracle"]


def test_what_does_not_apply_is_neither_passed_nor_failed(honest):
    states = {name: row | {"recovery": None, "leak": None} for name, row in honest.items()}
    decided = verdicts(states)
    for name in ("P2", "P6"):
        assert decided[name]["passes"]["purifier"] is None
        assert decided[name]["must_fail"] == []
    assert "P6" not in decided["P9"]["beats"]["noise"]
    assert "does not apply" in rendered(report(states))


def rendered(numbers):
    console = Console(width=130, record=True, file=io.StringIO())
    console.print(probe_table(numbers))
    return console.export_text()


def test_the_table_says_every_number_and_every_verdict(honest):
    numbers = report(honest)
    numbers["next_click"] = {
        name: {key: interval(0.6) for key in ("auc", "ndcg", "auc_difference", "ndcg_difference")} for name in honest
    }
    text = rendered(numbers)
    assert "0.650±0.002" in text
    assert text.count("purifier") >= 7
    for probe in (*PROBES, None):
        assert (probe.name if probe else "P9") in text
    assert "popularity halved: yes" in text


def test_pictures_are_written_whole(honest, tmp_path):
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    numbers = report(copy.deepcopy(honest))
    controls_figure(tmp_path / "controls.png", numbers)
    states_figure(
        tmp_path / "states.png",
        {"raw": rng.normal(size=(40, 3)), "purified": rng.normal(size=(40, 3))},
        popularity=rng.normal(size=40),
        interest=np.arange(40) % 3,
        title="a made-up world",
    )
    for name in ("controls.png", "states.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "states.csv").read_text().splitlines()) > 2 * 40  # a row a user and state
    names = ["controls.csv", "controls.png", "states.csv", "states.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
