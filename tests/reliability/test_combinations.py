"""Every method with every purifier, and both with every world: each pair is trained, is finite and goes on in the same bits."""

import dataclasses
import itertools
import random
import shutil
from functools import cache

import jax
import numpy as np
import pytest

from dsrm_jax.agents.methods import METHODS
from dsrm_jax.cli.pipeline import check_trainable
from dsrm_jax.config import Config
from dsrm_jax.config.budgets import budget
from dsrm_jax.config.serialise import config_fingerprint, merge, validate
from dsrm_jax.config.worlds import with_world
from dsrm_jax.errors import InputError
from dsrm_jax.files import load_toml
from dsrm_jax.purify.kinds import PURIFIERS
from dsrm_jax.runs import checkpoint, run_directory
from dsrm_jax.runs.memory import Memory
from dsrm_jax.runs.pieces import check_names
from dsrm_jax.runs.prepare import prepare
from dsrm_jax.runs.run import Saved, start, train
from dsrm_jax.simulator.presets import PRESETS
from tests.reliability.campaign import Outcome, folder, sample, whole
from tests.reliability.runs import TINY
from tests.reliability.test_logs import table

pytestmark = [pytest.mark.timeout(0)]
LEARNERS = tuple(name for name, method in METHODS.items() if method.learns)
WORLDS = (*PRESETS, "log", "kuairand")
FACTORS = (LEARNERS, tuple(PURIFIERS), WORLDS)


@cache
def rows() -> tuple[tuple[str, ...], ...]:
    """Return combinations in which every two values of two factors meet at least once: each row the best of some drawn at random.

    The first rows meet the most that is new.
    """
    rng = random.Random(0)
    left = {((i, a), (j, b)) for i, j in itertools.combinations(range(3), 2) for a in FACTORS[i] for b in FACTORS[j]}
    found = []
    while left:
        (i, a), (j, b) = rng.choice(sorted(left))
        candidates = [[rng.choice(values) for values in FACTORS] for _ in range(20)]
        for candidate in candidates:
            candidate[i], candidate[j] = a, b
        best = max(candidates, key=lambda row: len(met(row) & left))
        left -= met(best)
        found.append(tuple(best))
    return tuple(found)


def met(row: list[str] | tuple[str, ...]) -> set[tuple[tuple[int, str], tuple[int, str]]]:
    return set(itertools.combinations(enumerate(row), 2))


@cache
def base() -> Config:
    return merge(budget("tiny"), load_toml(TINY), str(TINY))


def config_of(method: str, kind: str, world: str) -> Config:
    config = base()
    config = dataclasses.replace(
        config,
        agent=dataclasses.replace(config.agent, method=method),
        purifier=dataclasses.replace(config.purifier, kind=kind),
    )
    if world in PRESETS:
        config = with_world(config, world)
        small = dataclasses.replace(config.environment, max_len=base().environment.max_len)
        return dataclasses.replace(config, environment=small)
    if world == "log":
        path = folder() / "combined.csv"
        path.write_text(table(30, 40, 600, click=lambda i: i % 3 % 2))
        return dataclasses.replace(config, data=dataclasses.replace(config.data, env="log", path=str(path)))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, env=world))


MEMORY: Memory = {}


def trial(number: int) -> Outcome:
    """Train one combination; every fifth goes back to half of its steps and takes the others again."""
    method, kind, world = rows()[number]
    name = f"{method}, {kind}, {world}"
    out = folder() / "combined"
    shutil.rmtree(out, ignore_errors=True)
    config = config_of(method, kind, world)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=8))
    try:
        validate(config, name)
        check_names(config)
        check_trainable(config)
        prepared = prepare(config, lambda text: None, MEMORY)
        run = run_directory.create(out, config)
        data = prepared.facts["data_digest"]
        world_ = prepared.worlds.train
        begun = Saved(start(config, world_, prepared.perception), prepared.perception)
        like = jax.eval_shape(lambda: begun)
        state, _ = train(run, config, begun, world_, data)
        ended = jax.device_get(jax.tree.map(_plain, state))
        if number % 5 == 0:
            checkpoint.go_back(run.checkpoints, 4)
            _, found = checkpoint.restore(run.checkpoints, like, config_fingerprint(config, data=data)) or (0, None)
            again, _ = train(run, config, found, world_, data)
            same = jax.tree.map(np.array_equal, jax.device_get(jax.tree.map(_plain, again)), ended)
            if not all(jax.tree.leaves(same)):
                return Outcome("silent", f"{name}: not the same after step 4")
    except InputError as error:
        return Outcome("refused", f"{name}: {error}")
    except Exception as error:
        return Outcome("traceback", f"{name}: {type(error).__name__}: {error}")
    return Outcome("exact", name)


def _plain(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def test_every_pair_meets():
    wanted = {((i, a), (j, b)) for i, j in itertools.combinations(range(3), 2) for a in FACTORS[i] for b in FACTORS[j]}
    assert set().union(*map(met, rows())) == wanted
    assert len(rows()) < 1.5 * max(len(a) * len(b) for a, b in itertools.combinations(FACTORS, 2))


@pytest.mark.slow
def test_a_sample_of_combinations():
    sample(trial, 1)


@pytest.mark.slow
def test_combinations():
    whole("combinations: method x purifier x world, all pairs", trial, len(rows()))
