"""Mixtures of Gaussians and what histories make of them, against float64 sums over a grid and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.purify import fit_mixture as fitting
from dsrm_jax.purify.closed_form import likelihoods_of_users, with_slack
from dsrm_jax.purify.encoder import Embeddings
from dsrm_jax.purify.exposure import Exposure
from dsrm_jax.purify.guidance import Quadratic, Whitening, quadratic
from dsrm_jax.purify.mixture import (
    ABSENT,
    Mixture,
    components_of,
    draw,
    factor,
    inverse,
    mixture_posterior,
    moments,
    posterior_mean,
    posterior_of,
    prior_of,
)
from dsrm_jax.purify.posterior import UserPosterior
from dsrm_jax.purify.purifier import LogOfUsers
from dsrm_jax.purify.windows import Windows
from dsrm_jax.simulator.world import SessionStarts

D, C, J, U = 2, 2, 3, 80
RNG = np.random.default_rng(0)


def covariances(*shape, dim=D):
    root = RNG.normal(size=(*shape, dim, dim + 2))
    return root @ np.swapaxes(root, -1, -2) / (dim + 2) + 0.1 * np.eye(dim)


WEIGHT = RNG.dirichlet(np.ones(C * J)).reshape(C, J)
MEAN, COVARIANCE = 1.5 * RNG.normal(size=(C, J, D)), covariances(C)
MIXTURE = Mixture(jnp.float32(np.log(WEIGHT)), jnp.float32(MEAN), jnp.float32(COVARIANCE))
PRECISION, LINEAR = 2.0 * covariances(U), 2.0 * RNG.normal(size=(U, D))
USERS = Quadratic(jnp.float32(LINEAR), jnp.float32(PRECISION))
SIDE = np.linspace(-9, 9, 361)
GRID = np.stack(np.meshgrid(SIDE, SIDE, indexing="ij"), axis=-1).reshape(-1, D)
CELL = (SIDE[1] - SIDE[0]) ** 2


def density(weight, mean, covariance):
    """The mixture's density on the grid."""
    away = GRID[:, None, None, :] - mean
    square = np.einsum("ncjd,cde,ncje->ncj", away, np.linalg.inv(covariance), away)
    return np.sum(weight * np.exp(-square / 2) / np.sqrt(np.linalg.det(2 * np.pi * covariance))[:, None], axis=(1, 2))


PRIOR = density(WEIGHT, MEAN, COVARIANCE)


def by_grid(linear, precision, prior=PRIOR):
    """`(mean, covariance, log evidence)` of one history, by summing over the grid."""
    mass = prior * np.exp(GRID @ linear - np.einsum("nd,de,ne->n", GRID, precision, GRID) / 2) * CELL
    share = mass / mass.sum()
    mean = share @ GRID
    return mean, (GRID - mean).T @ (share[:, None] * (GRID - mean)), np.log(mass.sum())


def test_sweeps_invert_and_factorise():
    matrix = covariances(5, 3, dim=7)
    found, log_determinant = jax.jit(inverse)(jnp.float32(matrix))
    np.testing.assert_allclose(found, np.linalg.inv(matrix), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(log_determinant, np.linalg.slogdet(matrix)[1], atol=1e-4)
    np.testing.assert_allclose(jax.jit(factor)(jnp.float32(matrix)), np.linalg.cholesky(matrix), atol=1e-5)


def test_posterior_mean_covariance_and_evidence_are_those_of_a_grid():
    found, evidence = jax.jit(mixture_posterior)(MIXTURE, USERS)
    mean, covariance = moments(found)
    expected = [by_grid(LINEAR[u], PRECISION[u]) for u in range(6)]
    np.testing.assert_allclose(mean[:6], [e[0] for e in expected], atol=2e-4)
    np.testing.assert_allclose(covariance[:6], [e[1] for e in expected], atol=2e-4)
    np.testing.assert_allclose(evidence[:6], [e[2] for e in expected], atol=2e-3)
    prior = prior_of(MIXTURE)
    posterior = posterior_of(prior, USERS)
    np.testing.assert_allclose(posterior_mean(prior, posterior), mean, atol=1e-5)
    np.testing.assert_allclose(components_of(prior, posterior).mean, found.mean, atol=1e-5)


def test_draws_have_the_moments_of_the_mixture():
    one = jax.tree.map(lambda x: jnp.broadcast_to(x, (20_000, *x.shape)), MIXTURE)
    drawn = np.asarray(jax.jit(draw)(jax.random.key(0), one))
    mean, covariance = moments(MIXTURE)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.1)


def test_a_round_of_em_is_that_of_plain_loops():
    counted = np.arange(U) % 4 != 0
    found = jax.jit(fitting.em_round)(MIXTURE, USERS, jnp.asarray(counted))
    share, own = np.zeros((U, C, J)), np.linalg.inv(COVARIANCE)
    means, spreads = np.zeros((U, C, J, D)), np.zeros((U, C, D, D))
    for u in np.flatnonzero(counted):
        for c in range(C):
            spreads[u, c] = np.linalg.inv(PRECISION[u] + own[c])
            for j in range(J):
                right = LINEAR[u] + own[c] @ MEAN[c, j]
                means[u, c, j] = spreads[u, c] @ right
                fit = right @ means[u, c, j] - MEAN[c, j] @ own[c] @ MEAN[c, j]
                share[u, c, j] = WEIGHT[c, j] * np.sqrt(np.linalg.det(own[c] @ spreads[u, c])) * np.exp(fit / 2)
        share[u] /= share[u].sum()
    count = share.sum(0)
    mean = np.einsum("ucj,ucjd->cjd", share, means) / count[..., None]
    away = means - mean
    scatter = np.einsum("ucj,ucjd,ucje->cde", share, away, away) + np.einsum("ucj,ucde->cde", share, spreads)
    np.testing.assert_allclose(np.exp(found.log_weight), count / counted.sum(), atol=1e-4)
    np.testing.assert_allclose(found.mean, mean, atol=1e-4)
    np.testing.assert_allclose(found.covariance, scatter / count.sum(1)[:, None, None], atol=1e-3)


def test_em_raises_the_evidence_and_leaves_absent_components_out():
    everyone = jnp.ones(U, bool)
    first = Mixture(MIXTURE.log_weight.at[1, 2].set(ABSENT), MIXTURE.mean, MIXTURE.covariance)

    def step(mixture, _):
        return fitting.em_round(mixture, USERS, everyone), jnp.sum(mixture_posterior(mixture, USERS)[1])

    last, evidence = jax.jit(lambda mixture: jax.lax.scan(step, mixture, length=25))(first)
    gained = np.diff(evidence)
    assert gained.min() > -0.02
    assert gained[0] > 1.0
    assert last.log_weight[1, 2] < ABSENT / 2
    assert np.exp(last.log_weight).sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("centres", "clustered"), [(np.zeros((1, D)), False), (4.0 * np.eye(D) - 2.0, True)])
def test_users_kept_out_decide_how_many_components_there_are(centres, clustered):
    """Users known up to a little noise, as `fit_mixture` compares its attempts."""
    states = centres[RNG.integers(len(centres), size=600)] + 0.4 * RNG.normal(size=(600, D))
    told = Quadratic(jnp.float32(9.0 * states), jnp.broadcast_to(9.0 * jnp.eye(D), (600, D, D)))
    kept_out = jnp.arange(600) % fitting.KEPT_OUT == 0

    def attempt(count, key):
        like = fitting.standard_normal(D, classes=2, components=4)
        mixture = fitting.start(key, jnp.float32(states), ~kept_out, count, like)
        return posterior_of(prior_of(fitting.em(mixture, told, ~kept_out, rounds=30)), told).evidence

    alone = fitting.em(fitting.standard_normal(D), told, ~kept_out, rounds=100)
    more = jax.jit(jax.vmap(attempt))(jnp.array(fitting.counts(4)), jax.random.split(jax.random.key(1), 2))
    evidence = jnp.concatenate([posterior_of(prior_of(alone), told).evidence[None], more])
    chosen = int(fitting.fewest_within_error(evidence, kept_out))
    assert (chosen > 0) == clustered


def test_users_kept_out_widen_a_mixture_that_lies_too_close_and_no_other():
    """The truth's covariance against two thirds of it."""
    states = 0.8 * RNG.normal(size=(4000, D))
    told = Quadratic(jnp.float32(25.0 * states), jnp.broadcast_to(25.0 * jnp.eye(D), (4000, D, D)))
    true = 0.64 - 1 / 25  # a row of precision 25 is a noisy look at the state
    for share, expected in ((1.0, 1.0), (1 / 1.5, 1.5)):
        mixture = Mixture(jnp.zeros((1, 1)), jnp.zeros((1, 1, D)), share * true * jnp.eye(D)[None])
        found = jax.jit(fitting.widening_of)(mixture, told, jnp.ones(4000, bool))
        assert found == pytest.approx(expected, abs=0.11)


def test_rows_of_users_are_evenly_spread_and_right_aligned():
    lengths = np.array([3, 0, 11, 5])
    first = np.concatenate([[0], np.cumsum(lengths)])
    item = np.arange(first[-1], dtype=np.int32)
    starts = SessionStarts(
        jnp.asarray(np.repeat(np.arange(4), lengths), jnp.int32),
        jnp.asarray(item),
        jnp.asarray(item % 2 == 0),
        jnp.asarray(first, jnp.int32),
    )
    user, history = fitting.rows_of_users(starts, most_users=4, most_rows=5)
    assert user.tolist() == [0, 1, 2, 3]
    assert history.length.tolist() == [3, 0, 5, 5]
    assert history.item[0].tolist() == [0, 0, 0, 1, 2]
    assert history.item[2].tolist() == [3, 5, 7, 9, 11]  # every 11 / 5 rows
    assert history.item[3].tolist() == [14, 15, 16, 17, 18]
    assert history.click[2].tolist() == [False] * 5
    assert history.click[3].tolist() == [True, False, True, False, True]
    assert fitting.rows_of_users(starts, most_users=2, most_rows=5)[0].tolist() == [0, 2]


def test_a_prior_is_told_by_clicks_and_not_by_what_the_log_showed():
    rows, items = 40, 6
    starts = SessionStarts(
        jnp.repeat(jnp.arange(8, dtype=jnp.int32), 5),
        jnp.asarray(RNG.integers(1, items, rows), jnp.int32),
        jnp.asarray(RNG.uniform(size=rows) < 0.5),
        jnp.arange(0, rows + 1, 5, dtype=jnp.int32),
    )
    vectors = jnp.float32(np.c_[RNG.normal(size=(items, D - 1)), np.ones(items)])
    embeddings = Embeddings(vectors, jnp.float32(RNG.normal(size=items)))

    def users(loudness):
        exposure = Exposure(jnp.ones(D), jnp.ones(D), *(loudness * jnp.eye(D) for _ in range(2)), jnp.float32(0.1))
        posterior = UserPosterior(jnp.float32(LINEAR[:8]), jnp.full(8, 5.0), None, exposure, jnp.float32(1))
        _, told = likelihoods_of_users(LogOfUsers(embeddings, Windows(starts, 5, 1), posterior))
        at = jnp.ones((8, D))
        return quadratic(told, at, jnp.ones((8, D)))

    jax.tree.map(np.testing.assert_array_equal, users(0.0), users(50.0))


def test_slack_is_an_error_of_the_state_in_its_own_coordinates():
    """The wider prior's draws, unwhitened, have the covariance of the prior's own plus slack I."""
    factor = np.array([[2.0, 0.0], [0.7, 0.5]])
    whitening = Whitening(jnp.ones(D), jnp.float32(factor), jnp.float32(np.linalg.inv(factor)))
    wider = with_slack(MIXTURE, whitening, 0.3)
    np.testing.assert_allclose(
        factor @ np.asarray(wider.covariance) @ factor.T, factor @ COVARIANCE @ factor.T + 0.3 * np.eye(D), rtol=1e-4
    )
    np.testing.assert_array_equal(wider.mean, MIXTURE.mean)
