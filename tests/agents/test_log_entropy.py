import itertools
from collections import Counter, defaultdict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents.log_entropy import fit_log_entropy, lowest_entropy, slate_entropy, tuple_key


def fitted(*sequences, **options):
    return jax.jit(partial(fit_log_entropy, **options))(*as_arrays(*sequences))


def as_arrays(*sequences):
    """Rows of users 0, 1, ... one after the other."""
    item = [i for sequence in sequences for i in sequence]
    user = [u for u, sequence in enumerate(sequences) for _ in sequence]
    return jnp.array(item, jnp.int32), jnp.array(user, jnp.int32)


def entropies(table, *pairs):
    """P_E of showing `item` after `past`, for each `(past, item)`."""
    past = jnp.array([p for p, _ in pairs], jnp.int32)
    return np.asarray(jax.jit(slate_entropy)(table, past, jnp.array([[i] for _, i in pairs], jnp.int32)))[:, 0]


def test_three_items_by_hand():
    """User 0: 0 1 0 1 0 2; user 1: 1 0 1.

    After 0 came 1, 1, 2 and 1: H = -(3/4 log2 3/4 + 1/4 log2 1/4) over log2 2. After 1 came always 0: one successor, 1. After
    2 nothing came: unseen, 1. Pairs {0, 1}: 0, 1, 0, 2 after (0, 1), (1, 0), (0, 1), (1, 0), and 1 after user 1's (1, 0):
    0 twice, 1 twice, 2 once. {0, 2} ends the session: unseen.
    """
    table = fitted([0, 1, 0, 1, 0, 2], [1, 0, 1], window=2)
    after_0 = 0.75 * np.log2(4 / 3) + 0.25 * np.log2(4)
    after_01 = (2 * 0.4 * np.log2(5 / 2) + 0.2 * np.log2(5)) / np.log2(3)
    found = entropies(table, ([1], 0), ([0], 1), ([2], 0), ([0], 2), ([-1], 0), ([-1], 1))
    expected = [after_0 + after_01, 1 + after_01, after_0 + 1, 2, after_0 + 1, 2]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(lowest_entropy(table), after_0 + after_01, atol=1e-6)


def counted(sequences, window):
    """P_E of every tuple from plain counting, in float64."""
    followed = defaultdict(Counter)
    for sequence in sequences:
        for k in range(1, window + 1):
            for i in range(len(sequence) - k):
                rows = sequence[i : i + k + 1]
                if min(rows) >= 0:
                    followed[tuple(sorted(rows[:-1]))][rows[-1]] += 1

    def of(items):
        share = np.array(list(followed[tuple(sorted(items))].values()), float)
        if min(items) < 0 or len(share) < 2:
            return 1.0
        share /= share.sum()
        return -(share * np.log2(share)).sum() / np.log2(len(share))

    return lambda past, item: sum(of((*past[len(past) - k :], item)) for k in range(window))


@pytest.mark.parametrize("window", [1, 3])
def test_agrees_with_plain_counting(window):
    rng = np.random.default_rng(window)
    sequences = [list(rng.choice([-1, 0, 1, 2, 3], rng.integers(1, 40), p=[0.1, 0.4, 0.3, 0.1, 0.1])) for _ in range(9)]
    table = fitted(*sequences, window=window)
    reference = counted(sequences, window)
    pairs = [(past, item) for *past, item in itertools.product(range(-1, 4), range(-1, 4), range(4))]
    expected = [reference(past, item) for past, item in pairs]
    np.testing.assert_allclose(entropies(table, *pairs), expected, atol=2e-6)
    assert min(expected) < 0.95 * window  # else every tuple could be 1


def test_the_most_frequent_tuples_stay_where_room_is_short():
    sequences = [[0, 1, 0, 1, 0, 1, 0, 2, 3, 4, 3, 4, 3, 5]]
    kept = fitted(*sequences, window=1, capacity=1)
    after_0 = 0.75 * np.log2(4 / 3) + 0.25 * np.log2(4)
    np.testing.assert_allclose(entropies(kept, ([], 0), ([], 3)), [after_0, 1.0], atol=1e-6)


def test_a_log_without_neighbours_says_nothing():
    table = fitted([3], [2], [-1], window=2)
    np.testing.assert_array_equal(entropies(table, ([2], 3), ([-1], 0)), [2.0, 2.0])


def test_order_is_forgotten_and_keys_differ():
    pairs = jnp.array([[i, j] for i in range(200) for j in range(i, 200)], jnp.int32)
    key = np.asarray(tuple_key(pairs))
    np.testing.assert_array_equal(key, np.asarray(tuple_key(pairs[:, ::-1])))
    assert len(np.unique(key)) == len(key)
    single = np.asarray(tuple_key(jnp.arange(20000)[:, None]))
    assert len(np.unique(single)) == len(single)
