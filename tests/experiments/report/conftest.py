"""Made-up results of the paper's whole grid: no training, every number known."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.report.findings import Findings, read_results
from experiments.report.plan import load_agenda

PLANS = Path(__file__).resolve().parents[3] / "experiments" / "paper"
STEPS = (64, 128, 192, 256, 320, 384)


def entry(mean, half):
    return {"mean": mean, "low": mean - half, "high": mean + half}


def made_up(point):
    """Return the result of a point: Len follows its closed form exactly."""
    config = point.config
    draw = np.random.default_rng(zlib.crc32(point.name.encode()))
    reward, broken = draw.uniform(0.4, 0.8), draw.uniform(0.1, 0.9)
    if config.agent.method == "dsrm_hrl":
        reward, broken = 0.9, 0.01
    if config.agent.method in ("quota_random", "quota_greedy"):
        broken = 0.0
    length = (config.environment.max_len - 1) / (2 - reward + broken) + 0.5
    result = {
        "length": entry(length, 0.1),
        "reward": entry(reward, 0.005),
        "return": entry(length * reward, 0.1),
        "ad": entry(broken / 2, 0.01),
        "slate_ad": entry(broken, 0.01),
        "broken": entry(broken, 0.01),
        "gini": entry(0.7, 0.01),
        "coverage": entry(0.5, 0.01),
        "closed_form": length,
        "seeds": [{}, {}, {}],
        "sessions": 3000,
        "confidence": 0.95,
    }
    return {
        "name": point.name,
        "values": point.values,
        "env": config.data.env,
        "method": config.agent.method,
        "max_len": config.environment.max_len,
        "source": "made up",
        "diverged": False,
        "timing": {
            "compile_seconds": 5.0,
            "train_seconds": 40.0 if config.agent.method == "dsrm_hrl" else 20.0,
            "user_steps_per_second": 9000.0,
            "evaluation_seconds": 2.0,
        },
        "result": result,
        "stage_one": {"purifier_seconds": 10.0, "purifier_loss": [1.0, 1.0, 1.0]},
    }


def write(point, folder):
    path = folder / point.name
    path.mkdir(parents=True)
    length = made_up(point)["result"]["length"]["mean"]
    curve = [
        {
            "step": step,
            "sessions": [8, 8, 8],
            "length": [length * step / STEPS[-1] + seed / 10 for seed in range(3)],
            "ad": [0.3 / (i + 1)] * 3,
            "slate_ad": [0.3 / (i + 1)] * 3,
            "reward": [0.5, 0.6, 0.7],
        }
        for i, step in enumerate(STEPS)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve))
    (path / "result.json").write_text(json.dumps(made_up(point)))


def popularity(counts, rates):
    points = [[float(i + 20), float(i), 0.5] for i in range(30)]
    return {
        "items": 30,
        "counts": counts,
        "rates": rates,
        "log_rates": rates,
        "shuffled": counts - 0.02,
        "shuffled_deviation": 0.01,
        "points": points,
    }


def split(rows):
    spread = {"mean": 1.0, "q05": 1.0, "max": 2.0}
    return {"rows": rows, "users": 1234, "items": 321, "click_rate": 0.25, "rows_per_user": spread}


def data(env):
    described = {
        "name": env,
        "source": f"made-up {env} world",
        "users": 1300,
        "items": 330,
        "categories": 4,
        "catalogue": 300,
        "train": split(98765),
        "test": split(4321),
        "popularity": {"gini": 0.81, "top_share": 0.77, "catalogue_gini": 0.8, "catalogue_top_share": 0.7},
    }
    return {"describe": described, "popularity": popularity(0.93, 0.05), "printed_columns": None, "shared_users": 1.0}


def probe_numbers(popularity_silhouette, interest_silhouette):
    return {
        "popularity_silhouette": popularity_silhouette,
        "popularity_nmi": 0.2,
        "interest_silhouette": interest_silhouette,
        "interest_nmi": 0.1,
    }


@pytest.fixture(scope="session")
def agenda():
    return load_agenda(PLANS, ["kuairec", "kuairand"], "tiny")


@pytest.fixture(scope="session")
def folder(agenda, tmp_path_factory):
    folder = tmp_path_factory.mktemp("points")
    for point in [*agenda.first, *agenda.then]:
        write(point, folder)
    return folder


@pytest.fixture(scope="session")
def findings(agenda, folder, tmp_path_factory):
    probe = {
        "states": {"identity": probe_numbers(0.1, 0.0), "purifier": probe_numbers(0.02, 0.05)},
        "claims": {"beats_controls": True},
    }
    pictures = tmp_path_factory.mktemp("probe")
    Image.new("RGB", (40, 20), "white").save(pictures / "states.png")
    return Findings(
        folder=folder,
        results=read_results(agenda.points, folder),
        points=agenda.points,
        data={env: data(env) for env in ("kuairec", "kuairand")},
        probes={"kuairec": probe, "kuairand": probe},
        probe_folders={"kuairec": pictures},
        budget="tiny",
    )


@pytest.fixture
def changed(findings):
    """Return what returns the findings with `change(row)` applied to a copy of each result."""

    def edited(change):
        results = {
            plan: [dict(row) | {"result": dict(row["result"])} for row in rows]
            for plan, rows in findings.results.items()
        }
        for rows in results.values():
            for row in rows:
                change(row)
        return replace(findings, results=results)

    return edited


@pytest.fixture
def make_result():
    """Return what writes a point's made-up result."""
    return write
