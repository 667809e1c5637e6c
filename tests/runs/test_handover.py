"""Stage I made by one process and read by the others."""

import dataclasses
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.config.budgets import budget
from dsrm_jax.errors import InputError
from dsrm_jax.purify.perception import Perception
from dsrm_jax.runs import handover
from dsrm_jax.runs.handover import hand_over
from dsrm_jax.runs.prepare import StageOne
from dsrm_jax.sweep.plan import Plan
from dsrm_jax.sweep.pool import STAGE_ONE, run_plans


def made(value=1.5):
    posterior = {"mode": jnp.full((4, 3), value), "rows": jnp.arange(4)}
    return StageOne(Perception({"w": jnp.full(2, value)}, {}), posterior, {"loss": [value, float("nan")]})


LIKE = jax.eval_shape(lambda: made().replace(facts={}))


def nothing():
    raise AssertionError("nobody else holds it")


def assert_same(found, expected):
    assert jax.tree.structure(found.replace(facts={})) == jax.tree.structure(expected.replace(facts={}))
    jax.tree.map(np.testing.assert_array_equal, found, expected.replace(facts=found.facts))
    np.testing.assert_array_equal(found.facts["loss"], expected.facts["loss"])


def test_what_one_makes_the_others_read_bit_for_bit(tmp_path):
    assert_same(hand_over(tmp_path, nothing, print, "a", LIKE, made), made())
    assert_same(hand_over(tmp_path, nothing, print, "a", LIKE, nothing), made())
    assert_same(hand_over(tmp_path, nothing, print, "b", LIKE, partial(made, 2.5)), made(2.5))


def test_who_comes_while_another_makes_it_does_something_else_once_and_then_reads_it(tmp_path):
    begun, go_on, found, did = threading.Event(), threading.Event(), [], []

    def slowly():
        begun.set()
        assert go_on.wait(60)
        return made()

    def meanwhile():
        did.append("compiled")
        go_on.set()

    first = threading.Thread(target=lambda: found.append(hand_over(tmp_path, nothing, print, "a", LIKE, slowly)))
    first.start()
    assert begun.wait(60)
    found.append(hand_over(tmp_path, meanwhile, print, "a", LIKE, nothing))
    first.join()
    assert did == ["compiled"]
    for one in found:
        assert_same(one, made())


def test_a_maker_that_fails_leaves_the_turn_to_the_next(tmp_path):
    with pytest.raises(InputError, match="no such data"):
        hand_over(tmp_path, nothing, print, "a", LIKE, partial(fail, "no such data"))
    assert_same(hand_over(tmp_path, nothing, print, "a", LIKE, made), made())


def fail(message, *_, **__):
    raise InputError(message)


def test_what_lies_there_damaged_is_made_anew(tmp_path):
    hand_over(tmp_path, nothing, print, "a", LIKE, made)
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file() and path.name != ".lock":
            path.write_bytes(b"")
    assert_same(hand_over(tmp_path, nothing, print, "a", LIKE, partial(made, 2.5)), made(2.5))
    assert_same(hand_over(tmp_path, nothing, print, "a", LIKE, nothing), made(2.5))


def test_a_full_disk_costs_the_sharing_and_not_the_result(tmp_path, monkeypatch):
    monkeypatch.setattr(handover.checkpoint, "save", partial(fail, "cannot save: disk full"))
    said = []
    assert_same(hand_over(tmp_path, nothing, said.append, "a", LIKE, made), made())
    assert said == ["Stage I is not shared with other processes: cannot save: disk full"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_workers_of_a_sweep_make_stage_one_once_and_find_what_one_worker_finds(tmp_path):
    base = budget("tiny")
    base = dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, cache=False),  # nothing of an earlier run
        environment=dataclasses.replace(base.environment, history_length=24, max_len=6),
        evaluation=dataclasses.replace(base.evaluation, num_sessions=32, num_users=32),
    )
    plan = Plan(base, {"purifier.diffusion_steps": (3, 5)})
    results = {}
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        results[workers] = run_plans([plan], folder, workers=workers, say=print)[0]
        logs = "".join(path.read_text() for path in folder.glob("worker-*.log"))
        assert logs.count("Stage I, ") == 1
        assert not (folder / STAGE_ONE).exists()
    assert [r["result"] for r in results[1]] == [r["result"] for r in results[2]]
