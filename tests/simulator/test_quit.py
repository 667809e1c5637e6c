"""Leaving by category against the traces of DORL's code and a literal transcription of its rule."""

import os
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.simulator.quit import show, start_recent

TRACES = Path(os.environ.get("DSRM_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "traces"


def literal_length(items, features, window, threshold, *, slice_fault):
    """`KuaiEnv.step` until it says done: how many items were shown, at most 100."""
    sequence = []
    for t, action in enumerate(items):
        left = False
        if t > 0:
            seen = sequence[t - window : t] if slice_fault else sequence[-window:]
            count = Counter(feature for item in seen for feature in features[item])
            left = any(count[feature] > threshold for feature in features[action])
        sequence.append(action)
        if left or t >= 99:
            return t + 1
    return len(items)


def lengths(items, categories, window, threshold, *, slice_fault, slots=1):
    """Return at which item each session (S, T) ends, T where it does not, with slates of one item."""

    def session(items):
        def step(recent, slate):
            recent = show(recent, slate, categories, threshold=threshold, slice_fault=slice_fault)
            return recent, recent.left

        start = start_recent(num_categories=categories.shape[1], window=window)
        left = jax.lax.scan(step, start, items.reshape(-1, slots))[1]
        return jnp.where(jnp.any(left), jnp.argmax(left) + 1, left.shape[0])

    return np.asarray(jax.jit(jax.vmap(session))(jnp.asarray(items)))


@pytest.mark.parametrize(("window", "threshold"), [(5, 1), (1, 0), (10, 4), (9, 1)])
def test_sessions_of_the_public_code_end_where_theirs_did(window, threshold):
    path = TRACES / "easyrl4rec_leave.npz"
    if not path.is_file():
        pytest.skip(f"no traces of public simulators at {path}; set DSRM_SHARED_DATA to the folder that holds traces/")
    trace = np.load(path)
    items, length = trace[f"items_{window}_{threshold}"].astype(np.int32), trace[f"length_{window}_{threshold}"]
    got = lengths(items, jnp.asarray(trace["category"]), window, threshold, slice_fault=True)
    np.testing.assert_array_equal(got, length)
    if window > 2:
        clean = lengths(items, jnp.asarray(trace["category"]), window, threshold, slice_fault=False)
        assert np.any(clean != length)  # their sessions have the fault


@pytest.mark.parametrize("slice_fault", [False, True])
def test_ten_thousand_random_sessions_end_where_the_literal_rule_ends_them(slice_fault):
    rng = np.random.default_rng(1)
    categories = rng.random((60, 15)) < 0.2
    features = [np.flatnonzero(row) for row in categories]
    items = rng.integers(0, 60, (10_000, 100)).astype(np.int32)
    items[:5_000] = rng.permuted(np.tile(np.arange(60, dtype=np.int32), (5_000, 2)), axis=1)[:, :100]
    want = np.array([literal_length(row, features, 5, 2, slice_fault=slice_fault) for row in items])
    assert np.unique(want).size > 20
    got = lengths(items, jnp.asarray(categories), 5, 2, slice_fault=slice_fault)
    np.testing.assert_array_equal(got, want)


def test_the_items_of_a_slate_count_one_after_another():
    rng = np.random.default_rng(2)
    categories = rng.random((60, 15)) < 0.12
    items = rng.integers(0, 60, (500, 96)).astype(np.int32)
    one = lengths(items, jnp.asarray(categories), 7, 2, slice_fault=False)
    six = lengths(items, jnp.asarray(categories), 7, 2, slice_fault=False, slots=6)
    np.testing.assert_array_equal(six, -(-one // 6))
