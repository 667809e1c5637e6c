"""Pieces of a user's own, in a module outside the package, named in a file: trained, resumed, evaluated, swept, exported."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from dsrm_jax.cli import pipeline
from dsrm_jax.cli.options import parse
from dsrm_jax.cli.recommend import recommend
from dsrm_jax.runs.logging import read_metrics
from dsrm_jax.runs.prepare import load_worlds
from dsrm_jax.runs.run import restore
from dsrm_jax.runs.run_directory import open_run
from dsrm_jax.serving.load import load_policy
from dsrm_jax.sweep.group import run_group
from dsrm_jax.sweep.plan import Plan, expand

MODULE = '''
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

import dsrm_jax as dj


def log(*, seed):
    """Forty users, twenty-four items, in arrays."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(40), 20)
    item = rng.integers(0, 24, len(user)) * 10
    return {"user_id": user, "item_id": item, "click": rng.random(len(user)) < 0.5, "time": np.arange(len(user))}


def reward(clicks, slate, world):
    """Two for a slate, and one for each click outside the popular group."""
    return 2.0 + jnp.sum(clicks & ~world.is_popular[slate])


def bored(*, slate_size):
    """Leave after two slates in a row without a click, or after twelve clicks."""

    def step(memory, clicks, num_popular):
        dry = jnp.where(jnp.any(clicks), 0, memory["dry"] + 1)
        clicked = memory["clicks"] + jnp.sum(clicks, dtype=jnp.int32)
        return {"dry": dry, "clicks": clicked}, (dry >= 2) | (clicked >= 12)

    return dj.Leave(lambda: {"dry": jnp.int32(0), "clicks": jnp.int32(0)}, step)


@struct.dataclass
class Alike:
    """Every user clicks an item with the chance that the log says of it."""

    chance: jax.Array

    def click_probability(self, user, slate, history):
        return self.chance[slate]

    def item_vectors(self):
        return jnp.zeros((len(self.chance), 1))


def alike(key, log, rows, users):
    shown = np.bincount(rows.item, minlength=log.num_items)[log.catalogue]
    clicked = np.bincount(rows.item, rows.click, minlength=log.num_items)[log.catalogue]
    return Alike(jnp.asarray((clicked + 1) / (shown + 2), jnp.float32))


def shrinking(*, iterations, batch_size):
    """States times one learnt number."""

    def loss(params, key, batch):
        return jnp.mean((params["scale"] * batch.state - batch.target) ** 2)

    return dj.Purifier(
        init=lambda key, batch: {"scale": jnp.float32(3.0)},
        loss=loss,
        purify=lambda params, key, state, evidence: params["scale"] * state,
        learning=dj.Learning("mode", False, iterations, batch_size, learning_rate=0.05, ema=0.0),
    )


def agent(*, slate_size, learning_rate):
    """REINFORCE on one weight for each dimension of the state."""

    def scores(weights, view, catalogue):
        return (weights * view.state) @ catalogue.vectors.T + catalogue.bias

    def act(weights, key, view, catalogue, greedy=False):
        score = scores(weights, view, catalogue)
        noise = 0.0 if greedy else jax.random.gumbel(key, score.shape)
        popular, excluded = catalogue.is_popular, view.excluded
        return dj.greedy_slate(score + noise, popular, None, slate_size=slate_size, excluded=excluded), ()

    def update(weights, key, rollout, catalogue):
        def loss(weights):
            log_prob = jax.nn.log_softmax(scores(weights, rollout.view, catalogue))
            shown = jnp.take_along_axis(log_prob, rollout.slate, axis=-1)
            return -jnp.mean(rollout.reward * jnp.sum(shown, axis=-1))

        value, gradient = jax.value_and_grad(loss)(weights)
        return weights - learning_rate * gradient, {"loss": value}

    def init(key, catalogue, logged=None):
        return jnp.ones(catalogue.vectors.shape[1])

    return dj.Agent(init, act, update)


class Steady(nn.Module):
    """A manager that sees nothing and learns one goal for everybody."""

    @nn.compact
    def __call__(self, state, time):
        mean = self.param("one_goal", nn.initializers.zeros, (2,))
        log_std = self.param("log_std", nn.initializers.constant(-1.5), (2,))
        value = self.param("value", nn.initializers.zeros, ())
        return jnp.broadcast_to(mean, (*time.shape, 2)), log_std, jnp.broadcast_to(value, time.shape)


def manager():
    return Steady()
'''
FILE = """
[data]
env = "my_lab:log"
cache = false
[environment]
slate_size = 3
max_len = 8
history_length = 8
arrival_length = 4
reward = "my_lab:reward"
leave = "my_lab:bored"
response = "my_lab:alike"
[encoder]
dim = 2
embedding_epochs = 1
iterations = 5
[purifier]
kind = "my_lab:shrinking"
iterations = 20
batch_size = 16
[agent]
method = "my_lab:agent"
hidden = 4
[training]
steps = 8
num_users = 4
rollout_length = 4
seeds = [3, 4]
chunk_updates = 1
checkpoint_minutes = 0.0
tensorboard = false
[evaluation]
num_sessions = 6
num_users = 6
"""
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """`(folder of the module, configuration)`; the module is found by its name, as in the current folder of a command."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "my_lab.py").write_text(MODULE)
    (folder / "own.toml").write_text(FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        jax.config.update("jax_disable_most_optimizations", True)  # compiling is what costs here
        yield folder, parse(["--config", str(folder / "own.toml")], "train", "train")[1]
        jax.config.update("jax_disable_most_optimizations", False)
        sys.modules.pop("my_lab", None)


@pytest.fixture(scope="module")
def trained(lab):
    """`(run, configuration, summary)` of two updates."""
    folder, config = lab
    run = pipeline.new_run(folder / "run", config)
    return run, config, pipeline.train(run, config, console=QUIET)


def saved(run, config):
    """What the newest checkpoint holds."""
    log, worlds, _ = load_worlds(config, lambda text: None)
    found = restore(run, config, worlds.train, log.num_items, log.digest)
    assert found is not None
    return found[1]


def bits(folder: Path) -> dict[str, str]:
    """The checksum of each leaf of the newest checkpoint."""
    newest = max(folder.glob("step_*"))
    leaves = json.loads((newest / "manifest.json").read_text())["body"]["leaves"]
    return {leaf["path"]: leaf["sha256"] for leaf in leaves}


def test_own_pieces_train_and_are_evaluated_beside_the_yardsticks(trained):
    run, config, summary = trained
    rows = read_metrics(run.metrics)
    assert [row["step"] for row in rows] == [4, 8]
    assert all(np.mean(row["reward"]) > 2 for row in rows)  # the own one: clicks alone give at most 1
    assert config.agent.method in summary["results"]
    assert summary["data"]["users"] == 40
    scale = saved(run, config).perception.purifier["scale"]
    assert scale.shape == (2,)
    assert np.all((scale > 0) & (scale < 3))
    assert all(np.isfinite(row["loss"]).all() for row in rows)
    weights = saved(run, config).train.agent
    assert weights.shape == (2, 3)
    assert np.all(np.any(weights != 1.0, axis=1))  # every seed's own learnt something
    for result in summary["results"].values():
        assert result["own_return"]["mean"] > 2 * result["length"]["mean"]
        assert result["length"]["mean"] <= 8
        assert "closed_form" not in result


def test_a_resumed_run_and_a_second_evaluation_are_the_same_bit_for_bit_and_renew_the_card(trained):
    run, config, summary = trained
    again = run.path.with_name("again")
    shutil.copytree(run.path, again)
    shutil.rmtree(max((again / "checkpoints").glob("step_*")))
    resumed, same = open_run(again)
    result = pipeline.train(resumed, same, console=QUIET)
    assert same == config
    assert bits(again / "checkpoints") == bits(run.checkpoints)
    assert result["results"] == summary["results"]
    resumed.card.write_text("of an earlier version")
    evaluated = pipeline.evaluate(resumed, same, console=QUIET)
    assert evaluated["results"] == summary["results"]
    card = resumed.card.read_text()
    assert card.startswith("# my_lab:")
    assert f"{evaluated['results'][config.agent.method]['length']['mean']:.2f}" in card
    assert "`environment.leave` 'my_lab:bored'" in card


def test_points_of_a_sweep_train_them_as_one_program(lab):
    folder, config = lab
    points = expand(Plan(config, {"agent.learning_rate": (1e-3, 1e-2)}))
    results = run_group(points, folder / "sweep", {}, lambda text: None, validate=False)
    assert [r["values"]["agent.learning_rate"] for r in results] == [1e-3, 1e-2]
    for result in results:
        assert not result["diverged"]
        assert result["result"]["own_return"]["mean"] > 2
        assert len(read_metrics(folder / "sweep" / result["name"] / "metrics.jsonl")) == 2


@pytest.fixture(scope="module")
def policy(trained):
    """The second seed's, exported and loaded."""
    run, config, _ = trained
    pipeline.export(run, config, run.path / "policy.dsrm", 4, console=QUIET)
    return load_policy(run.path / "policy.dsrm")


def test_an_exported_policy_recommends_from_the_own_catalogue(trained, policy):
    run, _, _ = trained
    found = policy.recommend({"old": [(10, True), (20, False)], "new": []}, k=4)
    assert found.item.shape == (2, 4)
    assert np.all(found.item % 10 == 0)
    assert not {10, 20} & set(found["old"])
    assert policy.meta["config"]["environment"]["leave"] == "my_lab:bored"
    assert policy.meta["card"] == run.card.read_text()


def test_a_run_recommends_from_the_shell_with_its_own_logs_columns(trained, policy, tmp_path):
    """No export is needed; what it answers is what its export answers."""
    run, _, _ = trained
    (tmp_path / "log.csv").write_text("user_id,item_id,click\n7,10,1\n8,20,0\n7,30,0\n")
    wanted = {
        "policy": str(run.path),
        "seed": 4,
        "log": str(tmp_path / "log.csv"),
        "out": str(tmp_path / "o.jsonl"),
        "k": 4,
    }
    absent = dict.fromkeys(
        ("users", "allowed", "user_column", "item_column", "click_column", "time_column", "time_format"), ""
    )
    numbers = recommend(wanted | absent | {"exclude": "seen", "scores": False, "click_from": None}, lambda text: None)
    assert (numbers["users"], numbers["unknown_events"]) == (2, 0)
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    expected = policy.recommend({7: [(10, True), (30, False)], 8: [(20, False)]}, k=4)
    assert {line["user_id"]: line["item_ids"] for line in lines} == {user: expected[user] for user in (7, 8)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_own_manager_trains_in_the_papers_method(lab):
    folder, config = lab
    agent = dataclasses.replace(config.agent, method="dsrm_hrl", manager="my_lab:manager", minibatches=1)
    config = dataclasses.replace(config, agent=agent)
    run = pipeline.new_run(folder / "managed", config)
    pipeline.train(run, config, console=QUIET)
    goals = saved(run, config).train.agent.params["manager"]["params"]["one_goal"]
    assert goals.shape == (2, 2)
    assert np.all(np.any(goals != 0.0, axis=1))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_worker_processes_of_a_sweep_find_the_module_in_the_current_folder(lab):
    folder, _ = lab
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "from dsrm_jax.cli.main import main; main()",
            *("sweep", "own.toml", "--grid", "agent.learning_rate=1e-3", "--workers", "1"),
            *("--out", "workers", "--json", "workers.json"),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p != str(folder))},
        capture_output=True,
        text=True,
        timeout=280,
    )
    logs = "".join(log.read_text() for log in (folder / "workers").glob("worker-*.log"))
    assert found.returncode == 0, found.stderr[-2000:] + logs[-2000:]
    (result,) = json.loads((folder / "workers.json").read_text())["results"]
    assert result["result"]["own_return"]["mean"] > 2
