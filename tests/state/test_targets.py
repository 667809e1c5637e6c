"""Cleaner states, against refits and expectations computed another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from dsrm_jax.errors import InputError
from dsrm_jax.simulator.fit import BIAS_PRIOR
from dsrm_jax.simulator.world import History, SessionStarts
from dsrm_jax.state.encoder import Embeddings
from dsrm_jax.state.targets import (
    FACTOR_PRIOR,
    check_target,
    corrupted,
    every_second,
    fit_leverage,
    halves,
    rows_of,
    without_window,
)

USERS, ROWS, ITEMS, D, H = 12, 60, 40, 4, 30
PRIOR = FACTOR_PRIOR * np.array([1.0] * (D - 1) + [BIAS_PRIOR])


@pytest.fixture(scope="module")
def log():
    """A log of 60 rows per user, item vectors and biases, all in float64."""
    generator = np.random.default_rng(0)
    vectors = np.c_[generator.normal(size=(ITEMS, D - 1)), np.ones(ITEMS)]
    bias = generator.normal(size=ITEMS)
    item = generator.integers(0, ITEMS, (USERS, ROWS))
    taste = generator.normal(size=(USERS, D))
    logit = np.einsum("urd,ud->ur", vectors[item], taste) + bias[item]
    return vectors, bias, item, generator.uniform(size=item.shape) < 1 / (1 + np.exp(-logit))


def mode(vectors, bias, item, click):
    """Float64 maximum a posteriori of one user's state."""

    def objective(s):
        logit = vectors[item] @ s + bias[item]
        return np.sum(np.logaddexp(0, logit) - click * logit) + np.sum(PRIOR * s**2) / 2

    return minimize(objective, np.zeros(D), tol=1e-10).x


def test_window_is_taken_out_as_a_refit_without_it_would(log):
    vectors, bias, item, click = log
    full = np.stack([mode(vectors, bias, item[u], click[u]) for u in range(USERS)])
    rest = np.stack([mode(vectors, bias, item[u, :-H], click[u, :-H]) for u in range(USERS)])
    starts = SessionStarts(
        jnp.repeat(jnp.arange(USERS), ROWS),
        jnp.asarray(item.reshape(-1)),
        jnp.asarray(click.reshape(-1)),
        jnp.arange(0, USERS * ROWS + 1, ROWS),
    )
    embeddings = Embeddings(jnp.float32(vectors), jnp.float32(bias))
    leverage = fit_leverage(jax.random.key(0), embeddings, starts, jnp.float32(full))
    window = History(jnp.asarray(item[:, -H:]), jnp.asarray(click[:, -H:]), jnp.full(USERS, H, jnp.int32))
    num_rows = rows_of(starts, jnp.arange(USERS))
    np.testing.assert_array_equal(num_rows, ROWS)
    got = without_window(leverage, embeddings, jnp.float32(full), window, num_rows)
    moved, wanted = np.asarray(got) - full, rest - full
    assert np.corrcoef(moved.ravel(), wanted.ravel())[0, 1] > 0.85
    assert np.sum((moved - wanted) ** 2) < 0.35 * np.sum(wanted**2)
    empty = without_window(
        leverage,
        embeddings,
        jnp.float32(full),
        History(window.item, window.click, jnp.zeros(USERS, jnp.int32)),
        num_rows,
    )
    np.testing.assert_allclose(empty, full, atol=1e-6)


@pytest.mark.parametrize("rows", [0.0, 3.0, 500.0])
def test_posterior_draws_have_the_covariance_of_prior_and_rows(rows):
    """N(0, (n M + P)^-1): the prior's without rows, ever narrower with them."""
    generator = np.random.default_rng(4)
    vectors = generator.normal(size=(6, D)) * np.linspace(0.2, 1.5, D)
    starts = SessionStarts(
        jnp.zeros(600, jnp.int32),
        jnp.asarray(np.arange(600) % 6),
        jnp.zeros(600, bool),
        jnp.array([0, 600]),
    )
    embeddings = Embeddings(jnp.float32(vectors), jnp.zeros(6))
    leverage = fit_leverage(jax.random.key(0), embeddings, starts, jnp.zeros((1, D)))
    draws = np.asarray(leverage.draw(jax.random.key(1), jnp.full(40_000, rows)))
    prior = np.diag(np.r_[np.full(D - 1, FACTOR_PRIOR), FACTOR_PRIOR * BIAS_PRIOR])
    expected = np.linalg.inv(rows * vectors.T @ vectors / 6 / 4 + prior)  # at the logit 0 the slope is 1 / 4
    root = np.linalg.cholesky(np.linalg.inv(expected))
    np.testing.assert_allclose(np.cov((draws @ root).T), np.eye(D), atol=0.05)
    np.testing.assert_allclose((draws @ root).mean(0), 0, atol=0.03)


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


def test_misspelt_target_is_named():
    with pytest.raises(InputError, match="did you mean 'split_half'"):
        check_target("splithalf")
