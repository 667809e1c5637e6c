"""What is looked at and what is reconstructed, against expectations computed another way."""

import jax
import jax.numpy as jnp
import numpy as np

from dsrm_jax.purify.targets import corrupted, every_second, halves
from dsrm_jax.simulator.world import History, SessionStarts


def skewed_starts():
    """Item 0 is shown nine times as often as item 1; everybody clicks item 0."""
    item = jnp.asarray(np.tile([0] * 9 + [1], 100))
    return SessionStarts(jnp.zeros(1000, jnp.int32), item, item == 0, jnp.array([0, 1000]))


def test_halves_never_share_an_event_and_popular_items_are_thinned_by_their_propensity():
    history = History(jnp.tile(jnp.array([0, 1]), (4000, 5)), jnp.ones((4000, 10), bool), jnp.full(4000, 10))
    first, second = halves(jax.random.key(0), history, skewed_starts(), thin=False)
    np.testing.assert_array_equal(first, ~second)
    first, second = halves(jax.random.key(0), history, skewed_starts(), thin=True)
    assert not np.any(first & second)
    kept = np.asarray(second).mean(0)
    # popularity 900 and 100 with median 500: (500 / 900)^.5 of the half, and all of it
    np.testing.assert_allclose(kept[0::2], 0.5 * np.sqrt(500 / 900), atol=0.03)
    np.testing.assert_allclose(kept[1::2], 0.5, atol=0.03)


def test_corruption_replaces_events_by_what_the_log_shows_everybody():
    length = 8
    history = History(jnp.full((3000, 10), 7), jnp.zeros((3000, 10), bool), jnp.full(3000, length, jnp.int32))
    rate = jnp.full((3000, 1), 0.4)
    got = corrupted(jax.random.key(1), history, skewed_starts(), rate)
    items = np.asarray(got.item)
    assert np.all(items[:, : 10 - length] == 7)
    real = items[:, 10 - length :]
    np.testing.assert_allclose(np.mean(real != 7), 0.4, atol=0.02)
    np.testing.assert_allclose(np.mean(real[real != 7] == 0), 0.9, atol=0.02)
    np.testing.assert_array_equal(got.click, got.item == 0)


def test_every_second_row_is_fresh():
    mixed = every_second({"a": jnp.ones((5, 2))}, {"a": jnp.zeros((5, 2))})
    np.testing.assert_array_equal(mixed["a"][:, 0], [0, 1, 0, 1, 0])
