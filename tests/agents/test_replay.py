"""The ring buffer against a Python deque, and the learning that draws from it."""

from collections import Counter, deque
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.agents.replay import (
    ReplayConfig,
    add,
    clipped_adam,
    full_replay,
    improve,
    learn,
    sample,
    start_learner,
    start_replay,
    track,
)

ROW = {"number": jax.ShapeDtypeStruct((), jnp.int32), "vector": jax.ShapeDtypeStruct((2,), jnp.float32)}


def rows_of(numbers):
    numbers = np.asarray(numbers, np.int32)
    return {"number": numbers, "vector": np.stack([numbers, -numbers], -1).astype(np.float32)}


empty = jax.jit(partial(start_replay, ROW), static_argnames="capacity")
more = jax.jit(add)
draw_32 = jax.jit(partial(sample, batch_size=32))


@settings(max_examples=8, deadline=None)
@given(capacity=st.integers(1, 7), lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_the_buffer_holds_what_a_deque_of_its_capacity_holds(capacity, lengths):
    replay, reference, count = empty(capacity=capacity), deque(maxlen=capacity), 0
    for length in lengths:
        numbers = range(count, count + length)
        count += length
        replay = more(replay, rows_of(numbers))
        reference.extend(numbers)
        size, index = int(replay.size), int(replay.index)
        assert size == len(reference)
        start = index - size  # the oldest row is where the next goes, once the buffer is full
        rows = jax.tree.map(np.asarray, replay.rows)
        held = [int(rows["number"][(start + i) % capacity]) for i in range(size)]
        assert held == list(reference)
        np.testing.assert_array_equal(rows["vector"][:, 0], rows["number"])
        drawn = jax.tree.map(np.asarray, draw_32(jax.random.key(count), replay))
        assert set(np.asarray(drawn["number"]).tolist()) <= set(reference)
        np.testing.assert_array_equal(drawn["vector"][:, 1], -drawn["number"])


def test_rows_are_drawn_uniformly_from_those_held_alone():
    replay = more(empty(capacity=100), rows_of([5, 6, 7, 8]))
    drawn = np.asarray(jax.jit(partial(sample, batch_size=8000))(jax.random.key(0), replay)["number"])
    counts = Counter(drawn.tolist())
    assert set(counts) == {5, 6, 7, 8}
    # four standard deviations of a binomial share
    assert max(abs(n / 8000 - 0.25) for n in counts.values()) < 4 * (0.25 * 0.75 / 8000) ** 0.5


def test_adding_works_under_vmap_and_inside_a_scan():

    def fill(rows):
        return jax.lax.scan(lambda replay, some: (add(replay, some), None), start_replay(ROW, capacity=5), rows)[0]

    held = jax.jit(jax.vmap(fill))(rows_of(np.arange(2 * 3 * 4).reshape(2, 3, 4)))
    assert sorted(np.asarray(held.rows["number"][0]).tolist()) == [7, 8, 9, 10, 11]
    assert sorted(np.asarray(held.rows["number"][1]).tolist()) == [19, 20, 21, 22, 23]


CONFIG = ReplayConfig(batch_size=16, gradient_steps=5, warm_up=4)


def count_up(learner, key, batch, index):
    return learner + batch["number"].shape[0], {"index": index.astype(jnp.float32)}


count_steps = jax.jit(partial(learn, count_up, settings=CONFIG))


@pytest.mark.parametrize(("held", "steps"), [(3, 0), (4, 5)])
def test_no_step_is_taken_before_the_warm_up_is_over(held, steps):
    replay = more(empty(capacity=10), rows_of(list(range(held))))
    learner, metrics = count_steps(np.int32(0), jax.random.key(0), replay)
    assert int(learner) == 16 * steps
    assert float(metrics["index"]) == (2.0 if steps else 0.0)  # the mean of 0..4


def test_each_step_sees_another_batch_and_another_key():
    replay = full_replay(rows_of(list(range(1000))))
    seen = []

    def step(learner, key, batch, index):
        return learner.at[index].set(jnp.stack([batch["number"][0], jax.random.bits(key).astype(jnp.int32)])), {}

    run = jax.jit(partial(learn, step, settings=CONFIG))
    learner, _ = run(np.zeros((5, 2), np.int32), jax.random.key(1), replay)
    seen = np.asarray(learner)
    assert len(set(seen[:, 0].tolist())) == 5
    assert len(set(seen[:, 1].tolist())) == 5


def test_a_branch_on_the_step_index_stays_a_branch_under_vmap():
    def step(learner, key, batch, index):
        return jax.lax.cond(index % 2 == 1, lambda x: x + 1, lambda x: x, learner), {}

    def run(key, replay):
        return learn(step, jnp.zeros(()), key, replay, settings=CONFIG)[0]

    replay = jax.tree.map(lambda x: np.stack([x] * 3), jax.device_get(full_replay(rows_of([1, 2, 3, 4]))))
    keys = jax.random.split(jax.random.key(0), 3)
    assert "cond[" in str(jax.make_jaxpr(jax.vmap(run))(keys, replay))
    np.testing.assert_array_equal(jax.jit(jax.vmap(run))(keys, replay), [2.0, 2.0, 2.0])


def test_the_learner_moves_one_network_at_a_time_and_its_copies_by_polyak_averaging():
    optimiser = {"a": clipped_adam(0.1, 1.0), "b": clipped_adam(0.2, 1.0)}
    slope = np.array([30.0, -40.0], np.float32)

    @jax.jit
    def steps(params):
        start = start_learner(params, optimiser)
        moved, error, more = improve(start, "a", optimiser, lambda params: (slope @ params, "more"))
        assert more == "more"
        return start, moved, error, track(moved, 0.25)

    params = {"a": np.array([1.0, 2.0], np.float32), "b": np.array([3.0], np.float32)}
    start, moved, error, tracked = jax.device_get(steps(params))
    assert float(error) == -50.0
    # Adam's first step is its rate times the gradient's sign, whatever the clipping
    np.testing.assert_allclose(moved.params["a"], [0.9, 2.1], rtol=1e-5)
    np.testing.assert_array_equal(moved.params["b"], start.params["b"])
    clipped = moved.opt_state["a"][1][0].mu
    np.testing.assert_allclose(clipped, 0.1 * np.array([0.6, -0.8]), rtol=1e-5)
    np.testing.assert_allclose(tracked.target["a"], 0.75 * np.array([1.0, 2.0]) + 0.25 * moved.params["a"])
    np.testing.assert_allclose(tracked.target["b"], [3.0])
    np.testing.assert_array_equal(tracked.params["a"], moved.params["a"])


def test_fixed_data_is_all_held():
    replay = full_replay(rows_of([4, 5, 6]))
    assert int(replay.size) == 3
    settings = replace(CONFIG, warm_up=0, gradient_steps=1, batch_size=64)

    def step(learner, key, batch, index):
        return batch["number"], {}

    run = jax.jit(partial(learn, step, settings=settings))
    drawn, _ = run(np.zeros(64, np.int32), jax.random.key(0), replay)
    assert set(np.asarray(drawn).tolist()) == {4, 5, 6}
