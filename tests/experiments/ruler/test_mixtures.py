"""The fair mixture: EM finds clusters that it can only see through clicks, and chooses as many components as there are."""

import numpy as np

from experiments.ruler import mixtures
from experiments.ruler.laplace import Mixture
from experiments.ruler.mixtures import fit_to_clicks, fit_to_states, maximise
from experiments.ruler.worlds import Events, chance

CENTRES = np.array([[-2.0, 0.0, 0.0], [2.0, 1.0, 0.0], [0.0, -1.5, 2.0], [0.5, 2.5, -1.5]])


def users(seed: int, number: int, rows: int):
    generator = np.random.default_rng(seed)
    states = CENTRES[generator.integers(4, size=number)] + 0.3 * generator.normal(size=(number, 3))
    vectors = 0.8 * generator.normal(size=(number, rows, 3))
    click = generator.uniform(size=(number, rows)) < chance(np.einsum("uhd,ud->uh", vectors, states))
    return states, Events(vectors, np.zeros((number, rows)), click)


def test_clusters_are_found_through_clicks(monkeypatch):
    monkeypatch.setattr(mixtures, "COMPONENTS", (1, 4))
    states, events = users(0, 500, 60)
    gaussian, mixture, score = fit_to_clicks(events)
    by_size = {int(name.split()[0]): value for name, value in score.items()}
    assert by_size[4] > by_size[1] + 0.5
    distance = np.linalg.norm(mixture.mean[None] - CENTRES[:, None], axis=-1)
    assert distance.min(axis=1).max() < 0.35
    # the spread within clusters, which the noise of 60 clicks (about .4) hides from the users' modes
    heavy = mixture.weight > 0.1
    within = np.sqrt(np.trace(mixture.covariance[heavy], axis1=1, axis2=2) / 3)
    assert within.max() < 0.5
    np.testing.assert_allclose(gaussian.mean[0], states.mean(axis=0), atol=0.15)
    np.testing.assert_allclose(gaussian.covariance[0], np.cov(states.T), atol=0.35)


def test_known_states_give_their_own_moments():
    states, _ = users(1, 2_000, 1)
    gaussian, mixture, score = fit_to_states(states)
    np.testing.assert_allclose(gaussian.mean[0], states.mean(axis=0), atol=0.06)
    assert int(max(score, key=score.get).split()[0]) >= 4
    assert np.linalg.norm(mixture.mean[None] - CENTRES[:, None], axis=-1).min(axis=1).max() < 0.1


def test_a_round_never_lowers_the_likelihood():
    """EM's own guarantee, with covariances not drawn to their mean."""
    states, _ = users(2, 300, 1)
    mixture = mixtures.start(states, 4, 0)
    values = []
    for _ in range(8):
        fit = mixtures._of_states(states, mixture)
        values.append(mixtures.log_sum(fit.log_evidence).sum())
        mixture = maximise(fit, mixture, 0.0)
    assert np.all(np.diff(values) > -0.3)  # the weights' small floor is not EM's


def test_summaries_are_the_gaussian_posterior():
    generator = np.random.default_rng(3)
    prior = Mixture(np.array([0.3, 0.7]), generator.normal(size=(2, 2)), np.stack([np.eye(2), 2 * np.eye(2)]))
    precision, noisy = 3.0 * np.eye(2)[None], np.array([[0.4, -1.0]])
    fit = mixtures._about_summaries(noisy @ precision[0], precision, prior)
    # noisy ~ N(mean, covariance + I / 3)
    total = prior.covariance + np.eye(2) / 3
    away = noisy - prior.mean
    density = np.log(prior.weight) - 0.5 * np.einsum("jd,jde,je->j", away, np.linalg.inv(total), away)
    density -= 0.5 * np.linalg.slogdet(total)[1]
    np.testing.assert_allclose(fit.log_evidence[0, 0] - fit.log_evidence[0, 1], density[0] - density[1], rtol=1e-9)
    gain = prior.covariance @ np.linalg.inv(total)
    np.testing.assert_allclose(fit.mode[0], prior.mean + np.einsum("jde,je->jd", gain, away), rtol=1e-9)
