"""A sweep's tables: what they claim about where numbers come from, against results and sessions made up here."""

import json

import numpy as np
import pytest
from rich.console import Console

from dsrm_jax.config import Config
from dsrm_jax.evaluation.metrics import difference, summarise
from dsrm_jax.evaluation.sessions import Sessions
from dsrm_jax.sweep import tables
from dsrm_jax.sweep.plan import Plan, expand, points_json

USERS, STEPS, SLATE = 40, 3, 4


def made_up_sessions(seed):
    rng = np.random.default_rng(seed)
    length = rng.integers(1, STEPS + 1, USERS)
    return Sessions(
        length=length,
        clicks=rng.integers(0, SLATE + 1, USERS) * length,
        popular=rng.integers(0, SLATE + 1, USERS),
        imbalance=rng.integers(0, SLATE + 1, USERS),
        broken=rng.integers(0, 2, USERS),
        step_popular=np.ones((STEPS, 1)),
        step_slates=np.ones((STEPS, 1)),
        item_count=np.arange(1.0, 6.0),
    )


@pytest.fixture
def swept(tmp_path):
    """A finished sweep of slates of four: two methods at two learning rates, one point diverged."""
    grid = {
        "environment.slate_size": (SLATE,),
        "agent.learning_rate": (0.001, 0.25),
        "agent.method": ("quota_greedy", "dsrm_hrl"),
    }
    points = expand(Plan(Config(), grid))
    (tmp_path / "plan.json").write_text(json.dumps({"validate": False, "points": points_json(points)}))
    results = []
    for i, point in enumerate(points):
        sessions = made_up_sessions(i)
        (tmp_path / point.name).mkdir()
        names = ("length", "clicks", "popular", "imbalance", "broken")
        np.savez(tmp_path / point.name / "sessions.npz", **{n: getattr(sessions, n)[None] for n in names})
        results.append(
            {
                "name": point.name,
                "values": point.values,
                "env": "kuairec",
                "method": point.config.agent.method,
                "max_len": 30,
                "source": "made up",
                "diverged": i == 3,
                "timing": dict.fromkeys(("train_seconds", "compile_seconds", "evaluation_seconds"), 1.0)
                | {"user_steps_per_second": 10.0},
                "result": summarise([sessions], slate_size=SLATE, max_len=30, confidence=0.95),
            }
        )
    return tmp_path, results


def printed(renderables):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for renderable in renderables:
        console.print(renderable)
    return console.export_text()


def test_each_cell_has_its_own_table_that_names_what_the_grid_set_there(swept):
    folder, results = swept
    text = printed(tables.sweep_tables(results, folder, validate=False))
    titles = [line for line in text.splitlines() if "made up" in line]
    assert len(titles) == 2
    assert "agent.learning_rate 0.001" in titles[0]
    assert "DIVERGED" not in titles[0]
    assert "agent.learning_rate 0.25" in titles[1]
    assert "DSRM-HRL DIVERGED" in titles[1]


def test_paired_differences_are_of_the_sweeps_own_slates(swept):
    folder, results = swept
    ours, other = results[1], results[0]
    sessions = [tables.load_sessions(folder / r["name"] / "sessions.npz") for r in (ours, other)]
    expected = difference(*sessions, slate_size=SLATE, confidence=0.95)
    seen = {}
    original = tables.results_table
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "results_table", lambda found, **k: seen.update(found) or original(found, **k))
        tables.methods_table(results[:2], folder)
    assert seen["dsrm_hrl"]["difference"]["quota_greedy"] == expected


def test_validation_sessions_are_never_called_held_out_nor_put_beside_the_papers_row(swept):
    folder, results = swept
    text = printed(tables.sweep_tables(results, folder, validate=True))
    assert "VALIDATION sessions in the training simulator" in text
    assert "held-out" not in text
    assert "paper" not in text
    assert text.count("DIVERGED") == 1


def test_no_results_make_no_table(tmp_path):
    assert tables.sweep_tables([], tmp_path, validate=False) == []
