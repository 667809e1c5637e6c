"""Exact inference on the ruler: against quadrature, and the two ways against each other, on every truth."""

import numpy as np
import pytest

from experiments.ruler.exact import importance, log_likelihood
from experiments.ruler.laplace import Mixture, categorical, laplace
from experiments.ruler.tempered import tempered
from experiments.ruler.truths import NAMES, make_truth
from experiments.ruler.worlds import Events, Size, chance, make_world

SIZE = Size(4, 60, 20, 5, 6, (3, 12), 5, 400, 6, 600)


def events_of(name: str):
    world = make_world(name, 3, SIZE)
    return world.truth, world.test_events


def test_log_likelihood_is_the_sum_of_logs_of_chances():
    _, events = events_of("student")
    x = np.random.default_rng(0).normal(size=(6, 9, 4)) * 5
    logit = np.einsum("bnd,bhd->bnh", x, events.vectors) + events.bias[:, None]
    expected = np.log(np.where(events.click[:, None], chance(logit), chance(-logit))).sum(axis=-1)
    np.testing.assert_allclose(log_likelihood(events, x), expected, rtol=1e-9)


@pytest.mark.parametrize("averaged", [False, True])
def test_two_coordinates_against_quadrature(averaged):
    """The mode is the posterior's highest point; averaged, the mean is nearer the posterior's mean than the mode is."""
    generator = np.random.default_rng(1)
    events = Events(
        generator.normal(size=(3, 6, 2)), generator.normal(size=(3, 6)), generator.uniform(size=(3, 6)) < 0.5
    )
    prior = Mixture(np.ones(1), np.array([[0.3, -0.2]]), np.array([[[1.5, 0.4], [0.4, 0.8]]]))
    side = np.linspace(-8, 8, 321)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(1, -1, 2)
    away = grid - prior.mean
    log_prior = -0.5 * np.einsum("bnd,de,bne->bn", away, np.linalg.inv(prior.covariance[0]), away)
    log_post = log_prior + log_likelihood(events, np.broadcast_to(grid, (3, *grid.shape[1:])))
    weight = np.exp(log_post - log_post.max(axis=1, keepdims=True))
    mass = weight.sum(axis=1) * (side[1] - side[0]) ** 2 / (2 * np.pi * np.sqrt(np.linalg.det(prior.covariance[0])))
    mean = (weight @ grid[0]) / weight.sum(axis=1, keepdims=True)
    mode = laplace(events, prior).mode[:, 0]
    np.testing.assert_allclose(mode, grid[0][log_post.argmax(axis=1)], atol=0.03)
    evidence = np.log(mass) + log_post.max(axis=1)
    np.testing.assert_allclose(laplace(events, prior).log_evidence[:, 0], evidence, atol=0.1)
    if averaged:
        found = laplace(events, prior, iterations=20, averaged=True).mode[:, 0]
        assert np.linalg.norm(found - mean) < 0.3 * np.linalg.norm(mode - mean)


@pytest.mark.parametrize("name", NAMES)
def test_the_two_ways_agree(name):
    truth, events = events_of(name)
    for number in SIZE.lengths:
        first = importance(np.random.default_rng(0), truth, events.first(number), 2_000)
        second = tempered(np.random.default_rng(1), truth, events.first(number), 1_500)
        assert first.effective.min() > 300
        noise = first.variance * (1 / first.effective + 1 / 1_500)
        difference = np.mean((first.mean - second.mean) ** 2, axis=-1)
        assert np.mean(difference / noise) < 3.0  # 1 for independent draws; particles that share ancestors do worse
        np.testing.assert_allclose(second.variance, first.variance, rtol=0.25)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_and_draws_are_the_same_law(name):
    """The quadrature's first two moments are those of the tastes that are drawn."""
    truth = make_truth(name, np.random.default_rng(5), 4)
    drawn = truth.states(np.random.default_rng(6), 200_000)
    mean = truth.weight @ truth.mean
    within = np.sum(truth.weight * truth.scale**2) * truth.factor @ truth.factor.T
    second = np.einsum("j,jd,je->de", truth.weight, truth.mean, truth.mean) + within
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), second, atol=0.06)


@pytest.mark.parametrize("name", NAMES)
def test_moves_of_the_latent_leave_its_law(name):
    """Wandering keeps the prior; refreshing given x keeps the joint law of latent and x."""
    truth = make_truth(name, np.random.default_rng(5), 3)
    generator = np.random.default_rng(7)
    latent = truth.draw(generator, (40_000,))
    mean, scale = truth.locate(latent)
    x = mean + scale * (generator.normal(size=(40_000, 3)) @ truth.factor.T)

    def told(latent):
        mean, scale = truth.locate(latent)
        away = (x - mean) / scale
        return np.array(
            [scale.mean(), mean.mean(), (mean[:, 0] ** 2).mean(), (away**2).mean(), (away[:, 0] * scale[:, 0]).std()]
        )

    before, wandered, refreshed = latent, latent, latent
    for _ in range(3):
        wandered = truth.wander(generator, wandered)
        refreshed = truth.refresh(generator, refreshed, x)
    np.testing.assert_allclose(told(refreshed), told(before), rtol=0.05, atol=0.02)
    np.testing.assert_allclose(truth.locate(wandered)[0].std(), truth.locate(before)[0].std(), rtol=0.02)
    np.testing.assert_allclose(np.log(truth.locate(wandered)[1]).std(), np.log(scale).std(), rtol=0.03, atol=1e-9)


def test_stratified_draws_come_as_often_as_their_shares():
    share = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    drawn = categorical(np.random.default_rng(0), share, 400)
    counts = np.stack([np.bincount(row, minlength=3) for row in drawn])
    np.testing.assert_array_equal(counts, [[200, 100, 100], [0, 400, 0]])
