"""The history encoder against float64 loops over events and a logistic regression by SciPy."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from dsrm_jax.errors import InputError
from dsrm_jax.purify.encoder import (
    NUM_LABELS,
    Embeddings,
    EncoderParams,
    embeddings_from,
    fit_encoder,
    labels_from,
    make_catalogue,
    make_encoder,
    summarise,
    summary_dim,
    user_states,
)
from dsrm_jax.purify.windows import Windows
from dsrm_jax.simulator.history import history_before
from dsrm_jax.simulator.response import FactorResponse, TableResponse
from dsrm_jax.simulator.world import History, SessionStarts, World

jitted_summarise = jax.jit(summarise)

V, DIM, H = 12, 2, 5
D = DIM + 1
ROWS = [0, 1, 3, 40, 25, 27]  # log rows per user; one has none, some have fewer than NUM_LABELS


def make_starts(user, item, click):
    first = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(ROWS)))])
    return SessionStarts(
        jnp.asarray(user, jnp.int32),
        jnp.asarray(item, jnp.int32),
        jnp.asarray(click, bool),
        jnp.asarray(first, jnp.int32),
    )


@jax.jit
def rows_around(starts):
    """The labels from each row on, and the history before it."""
    rows = jnp.arange(starts.user.shape[0])
    return labels_from(starts, rows), jax.vmap(lambda row: history_before(starts, row, length=H))(rows)


@pytest.fixture(scope="module")
def embeddings():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(V, DIM)), np.ones((V, 1))], axis=1)
    return Embeddings(jnp.asarray(vectors, jnp.float32), jnp.asarray(rng.normal(size=V), jnp.float32))


@pytest.fixture(scope="module")
def log(embeddings):
    """Users of two tastes who click as a logistic model says, with the history that each row has before it."""
    rng = np.random.default_rng(1)
    user = np.repeat(np.arange(len(ROWS)), ROWS)
    item = rng.integers(0, V, len(user))
    taste = np.array([[2.0, 0.0, -0.5], [-2.0, 1.0, 0.5]])[user % 2]
    logit = np.sum(taste * np.asarray(embeddings.vectors)[item], axis=1) + np.asarray(embeddings.bias)[item]
    click = rng.random(len(user)) < expit(logit)
    starts = make_starts(user, item, click)
    labels, history = rows_around(starts)
    return SimpleNamespace(starts=starts, history=history, labels=labels)


def reference_summary(embeddings, history, visible):
    """One history at a time, one event at a time, in float64."""
    vectors = np.asarray(embeddings.vectors, np.float64)
    bias = np.asarray(embeddings.bias, np.float64)
    history = jax.tree.map(np.asarray, history)
    summaries = []
    for item, click, length, seen in zip(history.item, history.click, history.length, visible, strict=True):
        clicked, skipped, score, curvature = np.zeros((4, vectors.shape[1]))
        num_clicked = num_skipped = 0
        for event in range(len(item) - int(length), len(item)):
            if not seen[event]:
                continue
            vector, expected = vectors[item[event]], expit(bias[item[event]])
            score = score + (float(click[event]) - expected) * vector
            curvature = curvature + expected * (1 - expected) * vector**2
            if click[event]:
                clicked, num_clicked = clicked + vector, num_clicked + 1
            else:
                skipped, num_skipped = skipped + vector, num_skipped + 1
        counts = [np.log1p(num_clicked), np.log1p(num_clicked + num_skipped)]
        parts = [clicked / (1 + num_clicked), skipped / (1 + num_skipped), score / 10, curvature / 10, counts]
        summaries.append(np.concatenate(parts))
    return np.array(summaries)


def random_histories(n=64):
    """Histories of every length; what lies before their events is rubbish that must not count."""
    rng = np.random.default_rng(2)
    return History(
        jnp.asarray(rng.integers(0, V, (n, H)), jnp.int32),
        jnp.asarray(rng.random((n, H)) < 0.5),
        jnp.asarray(np.arange(n) % (H + 1), jnp.int32),
    ), rng.random((n, H)) < 0.6


def test_summaries_equal_a_float64_loop_over_events(embeddings):
    history, visible = random_histories()
    everything = np.ones_like(visible)
    whole, masked = jitted_summarise(embeddings, history), jitted_summarise(embeddings, history, visible)
    assert whole.shape[1] == summary_dim(D)
    np.testing.assert_allclose(whole, reference_summary(embeddings, history, everything), atol=2e-6)
    np.testing.assert_allclose(masked, reference_summary(embeddings, history, visible), atol=2e-6)


def test_the_summary_holds_the_gradient_of_the_users_log_likelihood_at_the_average_user(embeddings):
    history, _ = random_histories(H + 1)
    full = jax.tree.map(lambda x: np.asarray(x[H], np.float64), history)
    vectors, bias = (np.asarray(x, np.float64)[full.item.astype(int)] for x in (embeddings.vectors, embeddings.bias))

    def log_likelihood(state):
        probability = expit(vectors @ state + bias)
        return np.sum(np.log(np.where(full.click > 0, probability, 1 - probability)))

    step = 1e-4 * np.eye(D)
    gradient = [(log_likelihood(s) - log_likelihood(-s)) / 2e-4 for s in step]
    curvature = [-(log_likelihood(s) - 2 * log_likelihood(0 * s) + log_likelihood(-s)) / 1e-8 for s in step]
    summary = np.asarray(jitted_summarise(embeddings, history))[H]
    np.testing.assert_allclose(summary[2 * D : 3 * D] * 10, gradient, atol=1e-4)
    np.testing.assert_allclose(summary[3 * D : 4 * D] * 10, curvature, atol=1e-4)


def test_states_and_vectors_of_a_factorisation_predict_its_click_logits():
    rng = np.random.default_rng(3)
    factors = FactorResponse(*(rng.normal(size=s).astype(np.float32) for s in [(4, DIM), (V, DIM), (4,), (V,)]))
    embeddings, states = embeddings_from(factors), user_states(factors)
    np.testing.assert_array_equal(embeddings.vectors[:, -1], 1.0)
    np.testing.assert_array_equal(states[:, -1], factors.user_bias)
    user, item, user_bias, item_bias = (np.asarray(x, np.float64) for x in jax.tree.leaves(factors))
    np.testing.assert_allclose(
        np.asarray(states, np.float64) @ np.asarray(embeddings.vectors, np.float64).T + np.asarray(embeddings.bias),
        user @ item.T + user_bias[:, None] + item_bias,
        rtol=1e-6,
    )


def test_a_catalogue_holds_the_vectors_of_the_worlds_items_in_its_order(embeddings, log):
    item = np.array([7, 2, 11])
    world = World(
        TableResponse(jnp.zeros((len(ROWS), 3))),
        log.starts,
        jnp.asarray(item),
        jnp.array([True, False, True]),
        jnp.array([0.5, -1.0, 0.5]),
    )
    catalogue = make_catalogue(embeddings, world)
    np.testing.assert_array_equal(catalogue.vectors, np.asarray(embeddings.vectors)[item])
    np.testing.assert_array_equal(catalogue.bias, np.asarray(embeddings.bias)[item])
    assert catalogue.log_popularity is world.log_popularity
    assert catalogue.is_popular is world.is_popular


def test_labels_are_the_rows_from_the_drawn_one_on_never_of_another_user_never_of_the_history():
    user = np.repeat(np.arange(len(ROWS)), ROWS)
    n = len(user)
    starts = make_starts(user, np.arange(n), np.random.default_rng(0).random(n) < 0.5)  # items name their rows
    click = np.asarray(starts.click)
    labels, history = jax.tree.map(np.asarray, rows_around(starts))
    for row in range(n):
        expected = [r for r in range(row, min(row + NUM_LABELS, n)) if user[r] == user[row]]
        assert labels.item[row][labels.present[row]].tolist() == expected
        assert labels.click[row][labels.present[row]].tolist() == click[expected].tolist()
        before = history.item[row][H - history.length[row] :]
        assert before.tolist() == [r for r in range(max(row - H, 0), row) if user[r] == user[row]]


@pytest.fixture(scope="module")
def fitted(embeddings, log):
    encoder = make_encoder(kind="clicked", dim=DIM)
    params, losses = fit_encoder(
        jax.random.key(0),
        encoder,
        embeddings,
        Windows(log.starts, H, H),
        iterations=600,
        batch_size=64,
        learning_rate=0.05,
    )
    return encoder, params, losses


def test_fitting_reaches_the_loss_of_the_best_logistic_regression(embeddings, log, fitted):
    encoder, params, losses = fitted
    x = reference_summary(embeddings, log.history, np.ones(log.history.item.shape, bool))[:, :D]
    row, column = np.nonzero(log.labels.present)
    item, click = np.asarray(log.labels.item)[row, column], np.asarray(log.labels.click)[row, column]
    vector, bias = np.asarray(embeddings.vectors, np.float64)[item], np.asarray(embeddings.bias)[item]
    affine = np.concatenate([x[row], np.ones((len(row), 1))], axis=1)
    features = (affine[:, :, None] * vector[:, None, :]).reshape(len(row), -1)

    def loss(weights):
        logit = features @ weights + bias
        return np.mean(np.logaddexp(0, logit) - click * logit), features.T @ (expit(logit) - click) / len(row)

    best = minimize(loss, np.zeros(features.shape[1]), jac=True, method="BFGS")
    encode = jax.jit(lambda p, h: encoder.encode(p, summarise(p.embeddings, h)))
    state = np.asarray(encode(params, log.history), np.float64)
    logit = np.sum(state[row] * vector, axis=1) + bias
    reached = np.mean(np.logaddexp(0, logit) - click * logit)
    untrained = loss(np.zeros(features.shape[1]))[0]
    assert best.fun < untrained - 0.1
    assert best.fun <= reached < best.fun + 0.02 * (untrained - best.fun)
    # the batches' own losses are noisy samples of the same number
    assert np.mean(losses[-100:]) == pytest.approx(best.fun, abs=0.02)


def test_only_the_network_moves(embeddings, fitted):
    encoder, params, _ = fitted
    untrained = encoder.init(jax.random.key(0), embeddings)
    jax.tree.map(np.testing.assert_array_equal, params.embeddings, embeddings)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), params.network, untrained.network)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(("kind", "sees"), [("clicked", False), ("exposure", True)])
def test_what_was_skipped_leaves_a_trace_in_the_exposure_encoder_alone(embeddings, kind, sees):
    encoder = make_encoder(kind=kind, dim=DIM, hidden=4)
    encode = jax.jit(lambda p, h: encoder.encode(p, summarise(p.embeddings, h)))
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), embeddings).network
    rng = np.random.default_rng(4)
    network = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)
    length = jnp.array(3, jnp.int32)
    click = jnp.array([False, False, True, False, True])
    params = EncoderParams(embeddings, network)
    first, second = (encode(params, History(jnp.array([0, 0, 5, skipped, 8]), click, length)) for skipped in (6, 7))
    assert bool(np.any(first != second)) is sees


def test_an_unknown_kind_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'clicked'"):
        make_encoder(kind="click", dim=DIM)
