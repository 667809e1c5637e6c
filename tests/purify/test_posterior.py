"""What a log tells of its users, against float64 refits of clicks and of what was shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from dsrm_jax.purify import exposure as module_of_exposure
from dsrm_jax.purify import posterior as module
from dsrm_jax.purify.encoder import Embeddings
from dsrm_jax.purify.exposure import Exposure, fit_exposure, independent_share, read_exposure, silent_exposure
from dsrm_jax.purify.leverage import FACTOR_PRIOR, click_curvature, item_variance, leverage_of, rows_of
from dsrm_jax.purify.posterior import UserPosterior, fit_posterior, without_window
from dsrm_jax.simulator.fit import BIAS_PRIOR
from dsrm_jax.simulator.world import History, SessionStarts

USERS, ROWS, ITEMS, D, H = 12, 60, 40, 4, 30
PRIOR = FACTOR_PRIOR * np.array([1.0] * (D - 1) + [BIAS_PRIOR])


ONE = jnp.float32(1)
CURVATURE, LEVERAGE_OF, WITHOUT_WINDOW = map(jax.jit, (click_curvature, leverage_of, without_window))
DRAW = jax.jit(lambda leverage, key, rows: leverage.draw(key, rows))


def rows_by_user(item, click):
    users, rows = item.shape
    return SessionStarts(
        jnp.asarray(np.repeat(np.arange(users), rows)),
        jnp.asarray(item.reshape(-1)),
        jnp.asarray(click.reshape(-1)),
        jnp.asarray(np.arange(0, users * rows + 1, rows)),
    )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture(scope="module")
def log():
    """A log of 60 rows per user, item vectors and biases, all in float64."""
    generator = np.random.default_rng(0)
    vectors = np.c_[generator.normal(size=(ITEMS, D - 1)), np.ones(ITEMS)]
    bias = generator.normal(size=ITEMS)
    item = generator.integers(0, ITEMS, (USERS, ROWS))
    taste = generator.normal(size=(USERS, D))
    logit = np.einsum("urd,ud->ur", vectors[item], taste) + bias[item]
    return vectors, bias, item, generator.uniform(size=item.shape) < sigmoid(logit)


def mode(vectors, bias, item, click, exposure=None):
    """Float64 maximum a posteriori of one user's state; `exposure`: `(centre, mean, slope, covariance)` of shown vectors."""

    def objective(s):
        logit = vectors[item] @ s + bias[item]
        found = np.sum(np.logaddexp(0, logit) - click * logit) + np.sum(PRIOR * s**2) / 2
        if exposure is not None:
            centre, mean, slope, covariance = exposure
            away = vectors[item][:, :-1] - mean - (s - centre) @ slope
            found += np.einsum("hf,fg,hg->", away, np.linalg.inv(covariance), away) / 2
        return found

    return minimize(objective, np.zeros(D), tol=1e-10).x


def taught(slope, covariance, centre, mean):
    """`Exposure` of a known slope `(D, F)` and covariance `(F, F)`."""
    inverse = np.linalg.inv(covariance)
    gain = np.pad(inverse @ slope.T, ((0, 1), (0, 0)))
    parts = (centre, np.append(mean, 0.0), gain, slope @ inverse @ slope.T, 0.0)
    return Exposure(*(jnp.float32(x) for x in parts))


EXPOSURE = (
    np.array([0.1, -0.2, 0.0, 0.3]),
    np.array([0.2, 0.0, -0.1]),
    0.2 * np.random.default_rng(5).normal(size=(D, D - 1)),
    np.eye(D - 1) * [0.8, 1.1, 1.3],
)
READ = taught(EXPOSURE[2], EXPOSURE[3], EXPOSURE[0], EXPOSURE[1])


@pytest.mark.parametrize("exposure", [None, EXPOSURE])
def test_window_is_taken_out_as_a_refit_without_it_would(log, exposure):
    vectors, bias, item, click = log
    full = np.stack([mode(vectors, bias, item[u], click[u], exposure) for u in range(USERS)])
    rest = np.stack([mode(vectors, bias, item[u, :-H], click[u, :-H], exposure) for u in range(USERS)])
    starts = rows_by_user(item, click)
    embeddings = Embeddings(jnp.float32(vectors), jnp.float32(bias))
    curvature = CURVATURE(jax.random.key(0), embeddings, starts, jnp.float32(full))
    read = silent_exposure(D) if exposure is None else READ
    everyone = np.arange(USERS)
    num_rows = rows_of(starts, everyone)
    np.testing.assert_array_equal(num_rows, ROWS)
    posterior = UserPosterior(jnp.float32(full), num_rows, LEVERAGE_OF(curvature + read.precision), read, ONE)
    window = History(jnp.asarray(item[:, -H:]), jnp.asarray(click[:, -H:]), np.full(USERS, H, np.int32))
    got = WITHOUT_WINDOW(posterior, embeddings, window, everyone)
    moved, wanted = np.asarray(got) - full, rest - full
    assert np.corrcoef(moved.ravel(), wanted.ravel())[0, 1] > 0.85
    assert np.sum((moved - wanted) ** 2) < 0.35 * np.sum(wanted**2)
    nothing = History(window.item, window.click, np.zeros(USERS, np.int32))
    empty = WITHOUT_WINDOW(posterior, embeddings, nothing, everyone)
    np.testing.assert_allclose(empty, full, atol=1e-6)
    # of users whose rows are none of the log's nothing can be taken out
    strangers = WITHOUT_WINDOW(posterior.replace(rows=0 * num_rows), embeddings, window, everyone)
    np.testing.assert_allclose(strangers, full, atol=1e-6)


def test_the_windows_being_shown_is_taken_out_apart_from_its_clicks(log):
    """What moves where the clicks surprise nobody: the closed form of the Gaussian part."""
    vectors, _, item, _ = log
    full = np.zeros((USERS, D))
    leverage = LEVERAGE_OF(READ.precision)
    rows = np.full(USERS, ROWS, np.float32)
    posterior = UserPosterior(jnp.float32(full), rows, leverage, READ, ONE)
    embeddings = Embeddings(
        jnp.float32(vectors), np.full(ITEMS, -30, np.float32)
    )  # nobody ever clicks, and nobody does
    window = History(jnp.asarray(item[:, -H:]), np.zeros((USERS, H), bool), np.full(USERS, H, np.int32))
    got = WITHOUT_WINDOW(posterior, embeddings, window, np.arange(USERS))
    centre, mean, slope, covariance = EXPOSURE
    inverse = np.linalg.inv(covariance)
    residual = vectors[item[:, -H:]][..., :-1] - mean + centre @ slope
    gradient = residual.sum(1) @ inverse @ slope.T
    precision = (ROWS - H) * slope @ inverse @ slope.T + np.diag(PRIOR)
    np.testing.assert_allclose(got, -np.linalg.solve(precision, gradient.T).T, rtol=1e-3, atol=1e-4)


def test_modes_move_by_what_was_shown_as_a_refit_with_it_would(log, monkeypatch):
    vectors, bias, item, click = log
    clicked = np.stack([mode(vectors, bias, item[u], click[u]) for u in range(USERS)])
    both = np.stack([mode(vectors, bias, item[u], click[u], EXPOSURE) for u in range(USERS)])
    monkeypatch.setattr(module, "fit_exposure", lambda *_: READ)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 256)  # 720 rows: two blocks and a part of one
    embeddings = Embeddings(jnp.float32(vectors), jnp.float32(bias))
    fit = jax.jit(lambda *x: fit_posterior(*x))  # traced with what is patched
    found = fit(jax.random.key(0), embeddings, rows_by_user(item, click), jnp.float32(clicked))
    moved, wanted = np.asarray(found.mode) - clicked, both - clicked
    assert np.corrcoef(moved.ravel(), wanted.ravel())[0, 1] > 0.95
    assert np.sum((moved - wanted) ** 2) < 0.15 * np.sum(wanted**2)
    np.testing.assert_array_equal(found.of(np.array([3, 1])).mode, found.mode[jnp.array([3, 1])])


@pytest.mark.parametrize("rows", [0.0, 3.0, 500.0])
def test_posterior_draws_have_the_covariance_of_prior_and_rows(rows):
    """N(0, (n M + P)^-1): the prior's without rows, ever narrower with them."""
    generator = np.random.default_rng(4)
    vectors = generator.normal(size=(6, D)) * np.linspace(0.2, 1.5, D)
    item = np.arange(600).reshape(1, -1) % 6
    embeddings = Embeddings(jnp.float32(vectors), np.zeros(6, np.float32))
    curvature = CURVATURE(jax.random.key(0), embeddings, rows_by_user(item, item < 0), np.zeros((1, D), np.float32))
    leverage = LEVERAGE_OF(curvature)
    draws = np.asarray(DRAW(leverage, jax.random.key(1), np.full(40_000, rows, np.float32)))
    expected = np.linalg.inv(rows * vectors.T @ vectors / 6 / 4 + np.diag(PRIOR))  # at the logit 0 the slope is 1 / 4
    root = np.linalg.cholesky(np.linalg.inv(expected))
    np.testing.assert_allclose(np.cov((draws @ root).T), np.eye(D), atol=0.05)
    np.testing.assert_allclose((draws @ root).mean(0), 0, atol=0.03)
    matrix = generator.normal(size=(D, D))
    matrix = matrix @ matrix.T
    np.testing.assert_allclose(
        leverage.expectation(jnp.float32(matrix), jnp.float32(rows)), np.trace(matrix @ expected), rtol=0.05
    )


def shown_log(users, rows, strength, *, visits=1, seed=0):
    """A log that shows items in proportion to exp(strength <taste, vector>), each choice repeated `visits` times."""
    generator = np.random.default_rng(seed)
    vectors = np.c_[generator.normal(size=(400, D - 1)), np.ones(400)]
    taste = np.c_[0.7 * generator.normal(size=(users, D - 1)), generator.normal(size=users)]
    logit = strength * taste[:, :-1] @ vectors[:, :-1].T
    cumulative = np.cumsum(np.exp(logit), axis=1)
    draws = generator.uniform(size=(users, rows // visits, 1)) * cumulative[:, None, -1:]
    item = np.repeat((draws > cumulative[:, None]).sum(-1), visits, axis=1)
    starts = rows_by_user(item, np.zeros(item.shape, bool))
    return Embeddings(jnp.float32(vectors), jnp.zeros(400)), starts, jnp.float32(taste), item


CERTAIN = LEVERAGE_OF(1e6 * np.eye(D, dtype=np.float32))  # full-log embeddings without error
FIT = jax.jit(fit_exposure)


def test_slope_is_that_of_the_shown_items_mean_on_taste():
    """Of a softmax with weak tastes the mean moves by strength times the vectors' covariance; items differ by the same."""
    strength = 0.3
    embeddings, starts, taste, _ = shown_log(3000, 60, strength)
    exposure = FIT(jax.random.key(0), embeddings, starts, taste, CERTAIN)
    vectors = np.asarray(embeddings.vectors, np.float64)[:, :-1]
    covariance = np.cov(vectors.T, bias=True)
    # slope = strength covariance, so gain = strength I and precision = strength^2 covariance, for every shown event
    gain = np.asarray(exposure.gain)
    np.testing.assert_allclose(gain[:-1, :-1], strength * np.eye(D - 1), atol=0.05 * strength + 0.02)
    np.testing.assert_allclose(gain[-1], 0.0, atol=1e-6)  # a constant coordinate tells nothing
    np.testing.assert_allclose(gain[:, -1], 0.0, atol=0.02)  # and of the user's click rate nothing is told
    np.testing.assert_allclose(exposure.precision[:-1, :-1], strength**2 * covariance, atol=0.02)


def test_a_log_that_shows_whatever_the_user_likes_tells_nothing():
    embeddings, starts, taste, _ = shown_log(3000, 60, 0.0)
    exposure = FIT(jax.random.key(0), embeddings, starts, taste, CERTAIN)
    per_event = np.trace(np.asarray(exposure.precision) @ np.cov(np.asarray(taste).T))
    assert per_event < 1e-3


def test_events_that_repeat_each_other_count_once():
    """Each choice stands five times in the log: what a window of it tells is a fifth."""
    single = FIT(jax.random.key(0), *shown_log(3000, 60, 0.3)[:3], CERTAIN)
    repeated = FIT(jax.random.key(0), *shown_log(3000, 60, 0.3, visits=5)[:3], CERTAIN)
    np.testing.assert_allclose(np.trace(repeated.precision), np.trace(single.precision), rtol=0.1)
    assert single.correlation < 0.003
    windows = jnp.float32(np.arange(60).clip(max=module_of_exposure.WINDOW_LENGTH))  # before each row of a user
    weight = windows / windows.sum()
    np.testing.assert_allclose(weight @ independent_share(repeated, windows), 1 / 5, rtol=0.15)


@pytest.mark.parametrize("correlation", [0.05, 0.4])
def test_a_users_events_that_share_a_part_are_told_from_their_state(monkeypatch, correlation):
    """Vectors shown to a user are moved together, whatever they like: found at any length of window, and their sum tells less."""
    generator = np.random.default_rng(3)
    users, rows, slope = 3000, 60, 0.5
    taste = generator.normal(size=(users, D - 1))
    own = np.sqrt(correlation) * generator.normal(size=(users, 1, D - 1))
    rest = np.sqrt(1 - correlation) * generator.normal(size=(users, rows, D - 1))
    vectors = (slope * taste[:, None] + own + rest).reshape(-1, D - 1)
    embeddings = Embeddings(
        jnp.float32(np.c_[vectors, np.ones(users * rows)]), jnp.zeros(users * rows)
    )  # every row an item of its own
    starts = rows_by_user(np.arange(users * rows).reshape(users, rows), np.zeros((users, rows), bool))
    state = jnp.float32(np.c_[taste, np.zeros(users)])
    for length in (10, 50):
        monkeypatch.setattr(module_of_exposure, "WINDOW_LENGTH", length)
        exposure = jax.jit(lambda *x: fit_exposure(*x))(jax.random.key(0), embeddings, starts, state, CERTAIN)
        np.testing.assert_allclose(exposure.correlation, correlation, rtol=0.1)
    # n vectors have the mean slope x + N(0, correlation + (1 - correlation) / n): the precision of x that they give
    n = 20.0
    told = n * independent_share(exposure, jnp.float32(n)) * np.diag(exposure.precision)[:-1]
    np.testing.assert_allclose(told, slope**2 / (correlation + (1 - correlation) / n), rtol=0.1)


def test_errors_of_the_embeddings_are_no_reason_to_distrust_the_log():
    """Shrunken posterior means: windows scatter more than their means explain, by what is not known of the users."""
    embeddings, starts, taste, _ = shown_log(3000, 60, 0.3)
    error = LEVERAGE_OF(0.1 * np.eye(D, dtype=np.float32))
    variance = np.asarray(jax.jit(lambda error: error.solve(jnp.eye(D), jnp.float32(60.0)))(error))
    total = np.cov(np.asarray(taste).T)
    # tastes = means + errors with cov(errors) = variance: means are regressions of tastes plus independent noise
    keep = (total - variance) @ np.linalg.inv(total)
    noise = keep @ variance
    generator = np.random.default_rng(9)
    means = np.asarray(taste) @ keep.T + generator.multivariate_normal(np.zeros(D), (noise + noise.T) / 2, 3000)
    told = FIT(jax.random.key(0), embeddings, starts, jnp.float32(means), error)
    blamed = FIT(jax.random.key(0), embeddings, starts, jnp.float32(means), CERTAIN)
    exact = FIT(jax.random.key(0), embeddings, starts, taste, CERTAIN)
    np.testing.assert_allclose(np.trace(told.precision), np.trace(exact.precision), rtol=0.1)
    assert told.correlation < 0.003
    assert exact.correlation < 0.003
    assert blamed.correlation > 0.005


def test_reading_is_the_gradient_of_the_gaussian_log_likelihood(log):
    vectors, _, item, _ = log
    centre, mean, slope, covariance = EXPOSURE
    at = np.array([0.4, -0.3, 0.2, 0.1])
    seen = vectors[item[0, :7]]
    residual = seen[:, :-1] - mean - (at - centre) @ slope
    expected = (residual @ np.linalg.inv(covariance) @ slope.T).sum(0)
    got = read_exposure(READ, jnp.float32(seen.sum(0)), jnp.float32(7), at=jnp.float32(at))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_an_items_logit_is_as_uncertain_as_its_rows_leave_it(log):
    """Against each item's own float64 posterior, at the mean curvature of a row: the more rows, the less, the prior's at none."""
    vectors, bias, item, click = log
    generator = np.random.default_rng(5)
    states = generator.normal(size=(USERS, D))
    skewed = item.copy()
    skewed[:, :30] = 3
    skewed[skewed == 7] = 8
    starts = rows_by_user(skewed, click)
    embeddings = Embeddings(jnp.float32(vectors), jnp.float32(bias))
    found, rows = jax.jit(item_variance)(embeddings, starts, jnp.float32(states))
    known = np.repeat(np.c_[states[:, :-1], np.ones(USERS)], ROWS, axis=0)
    chance = sigmoid(np.einsum("urd,ud->ur", vectors[skewed], states) + bias[skewed]).reshape(-1)
    row = known.T @ (known * (chance * (1 - chance))[:, None]) / len(known)
    count = np.bincount(skewed.reshape(-1), minlength=ITEMS)
    np.testing.assert_array_equal(rows, count)
    second = known.T @ known / len(known)
    expected = [np.trace(np.linalg.solve(n * row + np.diag(PRIOR), second)) for n in count]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert (np.argmin(found), np.argmax(found)) == (3, 7)
