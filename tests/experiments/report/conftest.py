"""Made-up results of the paper's whole grid: no training, every number known."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsrm_jax.files import json_value
from experiments.report.findings import Findings, read_results
from experiments.report.plan import load_agenda
from experiments.report.studies import read_studies
from experiments.report.variants import variant

PLANS = Path(__file__).resolve().parents[3] / "experiments" / "paper"
STEPS = (64, 128, 192, 256, 320, 384)


def entry(mean, half):
    return {"mean": mean, "low": mean - half, "high": mean + half}


SESSIONS, SLATE = 40, 6
QUOTA = ("quota_random", "quota_greedy", "quota_greedy_purified", "oracle")


def made_up(point, reward_of=None):
    """Return the result of a point and its sessions: Len follows its closed form but for rounding to whole steps.

    A method's numbers are those of its name; data seeds, training seeds and sessions move them a little, alike for all methods.
    """
    config = point.config
    name = variant(config)
    draw = np.random.default_rng(zlib.crc32(f"{config.data.env} {config.environment.max_len} {name}".encode()))
    reward, broken = draw.uniform(0.4, 0.7), draw.uniform(0.1, 0.9)
    if name.startswith("dsrm_hrl") and "penalty" not in name:
        reward, broken = 0.9 - 0.02 * name.count("+"), 0.01
    if name.split("+")[0] in QUOTA or "half" in name:
        broken = 0.0
    if reward_of is not None:
        reward, broken = reward_of(name)
    seeds, sessions = [], []
    for place in range(len(config.training.seeds)):
        luck = np.random.default_rng([config.data.seed, place]).normal(0, 0.004, SESSIONS)
        length = (config.environment.max_len - 1) / (2 - reward - luck + broken) + 0.5
        clicks = (reward + luck) * length * SLATE
        sessions.append((length, clicks, 0.5 * length * SLATE, broken * length * SLATE, broken * length))
        means = {
            "length": length.mean(),
            "reward": clicks.sum() / SLATE / length.sum(),
            "ad": broken / 2 + abs(luck[0]),
        }
        seeds.append(means | {"gini": 0.7 + luck[0], "coverage": 0.5 + luck[1]})
    names = ("length", "clicks", "popular", "imbalance", "broken")
    arrays = {name: np.stack(x) for name, x in zip(names, zip(*sessions, strict=True), strict=True)}
    expected = np.mean([(config.environment.max_len - 1) / (2 - s["reward"] + broken) + 0.5 for s in seeds])
    result = {
        "length": entry(float(arrays["length"].mean()), 0.1),
        "closed_form": float(expected),
        "seeds": seeds,
        "sessions": SESSIONS * len(seeds),
        "confidence": 0.95,
    }
    document = {
        "name": point.name,
        "values": point.values,
        "env": config.data.env,
        "method": config.agent.method,
        "max_len": config.environment.max_len,
        "source": "made up",
        "diverged": False,
        "timing": {
            "compile_seconds": 5.0,
            "train_seconds": (40.0 if config.agent.method == "dsrm_hrl" else 20.0) + config.data.seed / 100,
            "user_steps_per_second": 9000.0,
            "evaluation_seconds": 2.0,
        },
        "result": result,
        "stage_one": {"purifier_seconds": 10.0, "purifier_loss": [1.0, 1.0, 1.0]},
    }
    return document, arrays


def write(point, folder, reward_of=None):
    path = folder / point.name
    path.mkdir(parents=True)
    document, arrays = made_up(point, reward_of)
    length = document["result"]["length"]["mean"]
    curve = [
        {
            "step": step,
            "sessions": [8] * len(point.config.training.seeds),
            "length": [length * step / STEPS[-1] + seed / 10 for seed, _ in enumerate(point.config.training.seeds)],
            "ad": [0.3 / (i + 1)] * len(point.config.training.seeds),
            "slate_ad": [0.3 / (i + 1)] * len(point.config.training.seeds),
            "reward": [0.5] * len(point.config.training.seeds),
        }
        for i, step in enumerate(STEPS)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve))
    np.savez(path / "sessions.npz", **arrays)
    (path / "result.json").write_text(json.dumps(json_value(document)))


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
    results, numbers = read_results(agenda.points, folder)
    return Findings(
        folder=folder,
        results=results,
        numbers=numbers,
        points=agenda.points,
        data={env: data(env) for env in ("kuairec", "kuairand")},
        data_seeds={env: [data(env)] * 3 for env in ("kuairec", "kuairand")},
        studies=read_studies(PLANS.parent / "results"),
        probes={"kuairec": probe, "kuairand": probe},
        probe_folders={"kuairec": pictures},
        budget="tiny",
    )


@pytest.fixture
def changed(findings):
    """Return what returns the findings with `change(row)` applied to a copy of each result, its runs forgotten."""

    def edited(change):
        results = {
            plan: [dict(row) | {"result": dict(row["result"])} for row in rows]
            for plan, rows in findings.results.items()
        }
        for rows in results.values():
            for row in rows:
                change(row)
        return replace(findings, results=results, numbers={})

    return edited


@pytest.fixture
def make_result():
    """Return what writes a point's made-up result."""
    return write
