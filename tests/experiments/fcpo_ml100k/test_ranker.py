"""FCPO on held ratings: a planted log whose tail has to be found under the limit, and MovieLens-100K where it can be had."""

import dataclasses
import io
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from dsrm_jax.config import AgentConfig, Config, DataConfig, FCPOConfig
from dsrm_jax.data.download import download
from dsrm_jax.data.log import InteractionLog, Interactions
from dsrm_jax.errors import InputError
from experiments.fcpo_ml100k.ranker import SETTINGS, prepare_ranking, recommend, train_ranker
from experiments.fcpo_ml100k.table import fcpo_table, render_fcpo_table

USERS, ITEMS, HORIZON = 64, 40, 4
LIMITS = (1.0, 0.8, 0.4)
CONFIG = AgentConfig(hidden=8, fcpo=FCPOConfig(max_kl=0.1, damping=1.0, initial_std=0.1))
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def planted_log():
    """All users like the 8 popular items most; each likes 4 long-tail items of its kind besides."""
    rng = np.random.default_rng(0)
    kind = np.arange(USERS) % 4
    user, item, held = [], [], []
    for u in range(USERS):
        tail = 8 + 8 * kind[u] + rng.permutation(8)[:6]
        liked = rng.permutation(np.concatenate([np.arange(8), tail]))
        user += [u] * len(liked)
        item += liked.tolist()
        held += (np.arange(len(liked)) >= 10).tolist()
    user, item, held = (np.array(column) for column in (user, item, held))

    def split(mask):
        count = int(mask.sum())
        return Interactions(
            user[mask].astype(np.int32),
            item[mask].astype(np.int32),
            np.ones(count, bool),
            np.arange(count),
            np.ones(count, np.float32),
        )

    items = np.arange(ITEMS)
    return InteractionLog(
        "toy", "a toy log", np.arange(USERS), items, split(~held), split(held), items, np.zeros((ITEMS, 0))
    )


@pytest.fixture(scope="module")
def data():
    return prepare_ranking(jax.random.key(0), planted_log(), dim=4)


@pytest.fixture(scope="module")
def runs(data):
    @quick_jit
    def run(limit, data):
        agent, history = train_ranker(
            jax.random.key(1), data, popular_limit=limit, config=CONFIG, horizon=HORIZON, iterations=120
        )
        return history, recommend(jax.random.key(2), data, agent, config=CONFIG, length=6)

    return {limit: jax.tree.map(np.asarray, run(jnp.float32(limit), data)) for limit in LIMITS}


def test_the_cost_of_a_session_stays_under_its_limit(runs):
    for limit, (history, _) in runs.items():
        cost = history["cost"][-30:]
        error = 0.5 * HORIZON**0.5 / (USERS * len(cost)) ** 0.5
        assert cost.mean() <= limit * HORIZON + 2 * error, limit


def test_a_binding_limit_is_used_and_paid_for_with_little_reward(runs):
    free, tight = runs[1.0][0], runs[0.4][0]
    assert free["cost"][-30:].mean() > 0.5 * HORIZON, "without a limit the popular items are worth showing"
    assert tight["cost"][-30:].mean() > 0.25 * HORIZON
    assert tight["reward"][-30:].mean() > 0.6 * free["reward"][-30:].mean()


def test_lists_hold_no_item_twice_and_none_that_was_rated_in_training(runs, data):
    barred = np.asarray(data.test.barred)
    for _, (lists, cost) in runs.values():
        assert all(len(set(row)) == len(row) for row in lists)
        assert not np.take_along_axis(barred, lists, axis=1).any()
        np.testing.assert_array_equal(cost, np.asarray(data.test.is_popular)[lists].sum(1))


@pytest.fixture(scope="module")
def movielens(request):
    path = Path(request.config.cache.mkdir("ml-100k"))
    try:
        download("ml-100k", path)
    except InputError as error:
        pytest.skip(f"MovieLens-100K cannot be had here: {error}")
    return Config(data=DataConfig(env="ml-100k", path=str(path)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_movielens_popularity_and_gini_fall_with_the_limit(movielens):
    config = dataclasses.replace(movielens, agent=dataclasses.replace(movielens.agent, fcpo=SETTINGS))
    results = fcpo_table(config, limits=LIMITS, seeds=(11,))
    assert (results["users"], results["items"]) == (943, 1682)
    rows = results["rows"]
    for row in rows:
        assert row["cost"][0] <= row["cost_limit"] + 0.02  # two standard errors of 10 sessions of 943 users
    for cut in (5, 10, 20):
        for name in ("popularity", "gini"):
            values = [row["metrics"][cut][name][0] for row in rows]
            assert values == sorted(values, reverse=True), (cut, name, values)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render_fcpo_table(results))
    text = console.export_text()
    assert "MovieLens" in text
    assert "…" not in text
