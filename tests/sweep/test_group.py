"""A group of a sweep in a made-up world: programs kept from the group before give what fresh ones give."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from dsrm_jax.config.budgets import budget
from dsrm_jax.runs.run import num_updates
from dsrm_jax.sweep import group as module
from dsrm_jax.sweep.group import run_group
from dsrm_jax.sweep.plan import Plan, expand, group
from experiments.bench.worlds import factor_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


def tiny():
    base = budget("tiny")
    return dataclasses.replace(
        base,
        environment=dataclasses.replace(base.environment, history_length=24, max_len=6),
        purifier=dataclasses.replace(base.purifier, kind="guided", hidden=8),
        agent=dataclasses.replace(base.agent, method="quota_greedy_purified"),
        training=dataclasses.replace(base.training, seeds=(1, 2)),
        evaluation=dataclasses.replace(base.evaluation, num_sessions=32, num_users=32),
    )


def results(folder, members):
    return [np.load(folder / point.name / "sessions.npz") for point in members]


@pytest.fixture
def made_up(monkeypatch):
    """Groups prepare a made-up world, after another worker was waited for."""
    make = factor_world(users=40, items=30)
    config = tiny()

    def prepare(config, say, memory, meanwhile):
        meanwhile()
        return make(config, say)

    worlds = make(config, print).worlds
    log = SimpleNamespace(num_items=30)
    monkeypatch.setattr(module, "remembered_worlds", lambda config, say, memory: (log, worlds, {}))
    monkeypatch.setattr(module, "shared_between", lambda config, folder, meanwhile, say: meanwhile)
    monkeypatch.setattr(module, "prepare", prepare)


def test_a_second_group_is_served_by_the_first_ones_programs_and_is_none_the_worse(tmp_path, made_up):
    first, second = group(expand(Plan(tiny(), {"purifier.diffusion_steps": (3, 5)})))
    shared, fresh = tmp_path / "shared", tmp_path / "fresh"
    memory = {}
    run_group(first, shared, memory, lambda _: None, validate=False)
    kept = memory["program", "evaluate"][1]
    served = run_group(second, shared, memory, lambda _: None, validate=False)
    assert memory["program", "evaluate"][1] is kept
    alone = run_group(second, fresh, {}, lambda _: None, validate=False)
    for one, other in zip(results(shared, second), results(fresh, second), strict=True):
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])
    assert [r["result"] for r in served] == [r["result"] for r in alone]
    assert results(shared, first)[0]["clicks"].shape == (2, 32)
    assert (results(shared, first)[0]["clicks"] != results(shared, second)[0]["clicks"]).any()


def test_programs_compiled_from_shapes_while_another_worker_makes_stage_one_serve_the_group(
    tmp_path, made_up, monkeypatch
):
    base = tiny()
    base = dataclasses.replace(base, agent=dataclasses.replace(base.agent, method="dsrm_hrl"))
    ((point,),) = group(expand(Plan(base, {})))
    compiled, names = module.compiled, []

    def counting(memory, name, *arguments, **options):
        before = memory.get(("program", name))
        program = compiled(memory, name, *arguments, **options)
        if before is None or before[1] is not program:
            names.append(name)
        return program

    monkeypatch.setattr(module, "compiled", counting)
    (result,) = run_group([point], tmp_path, {}, lambda _: None, validate=False)
    assert names == ["init", "train", "evaluate"]  # before there were any parameters, and not again
    assert result["timing"]["compile_seconds"] > 0
    assert (tmp_path / point.name / "metrics.jsonl").read_text().count("\n") == num_updates(point.config)
