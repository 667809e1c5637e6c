"""What is looked at and what is reconstructed, against expectations computed another way."""

import jax
import jax.numpy as jnp
import numpy as np

from dsrm_jax.purify.targets import corrupted, every_second, halves
from dsrm_jax.simulator.world import History, SessionStarts


def skewed_starts():
    """Item 0 is shown nine times as often as item 1; everybody clicks item 0."""
    item = np.tile([0] * 9 + [1], 100)
    return SessionStarts(*map(jnp.asarray, (np.zeros(1000, np.int32), item, item == 0, np.array([0, 1000]))))


def test_halves_never_share_an_event_and_popular_items_are_thinned_by_their_propensity():
    history = np.tile([0, 1], (4000, 5)), np.ones((4000, 10), bool), np.full(4000, 10)
    split = jax.jit(halves, static_argnames="thin")
    history = History(*map(jnp.asarray, history))
    first, second = map(np.asarray, split(jax.random.key(0), history, skewed_starts(), thin=False))
    np.testing.assert_array_equal(first, ~second)
    first, second = map(np.asarray, split(jax.random.key(0), history, skewed_starts(), thin=True))
    assert not np.any(first & second)
    kept = np.asarray(second).mean(0)
    # popularity 900 and 100 with median 500: (500 / 900)^.5 of the half, and all of it
    np.testing.assert_allclose(kept[0::2], 0.5 * np.sqrt(500 / 900), atol=0.03)
    np.testing.assert_allclose(kept[1::2], 0.5, atol=0.03)


def test_corruption_replaces_events_by_what_the_log_shows_everybody():
    length = 8
    history = np.full((3000, 10), 7), np.zeros((3000, 10), bool), np.full(3000, length, np.int32)
    history, rate = History(*map(jnp.asarray, history)), np.full((3000, 1), 0.4, np.float32)
    got = jax.device_get(jax.jit(corrupted)(jax.random.key(1), history, skewed_starts(), rate))
    items = np.asarray(got.item)
    assert np.all(items[:, : 10 - length] == 7)
    real = items[:, 10 - length :]
    np.testing.assert_allclose(np.mean(real != 7), 0.4, atol=0.02)
    np.testing.assert_allclose(np.mean(real[real != 7] == 0), 0.9, atol=0.02)
    np.testing.assert_array_equal(got.click, got.item == 0)


def test_every_second_row_is_fresh():
    mixed = every_second({"a": jnp.ones((5, 2))}, {"a": jnp.zeros((5, 2))})
    np.testing.assert_array_equal(mixed["a"][:, 0], [0, 1, 0, 1, 0])
