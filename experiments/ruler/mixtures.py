"""The baseline that a reviewer asks for: a mixture of Gaussians with full covariances, fitted to users by EM on their clicks.

Independent of the library's own mixture. A user known by noisy rows enters by Laplace's approximation about each component's own
mode; the number of components is the one under which left-out users' rows are likeliest. One component is the Gaussian prior in
closed form (Newton).

Shapes: U users, J components, D coordinates.
"""

import numpy as np
from jaxtyping import Float
from sklearn.cluster import KMeans

from experiments.ruler.laplace import Fit, Mixture, laplace, softmax
from experiments.ruler.worlds import Events

COMPONENTS = (1, 4, 12, 32)
ROUNDS_ABOUT_MODES, ROUNDS_ON_CLICKS = 15, 6
LEFT_OUT = 0.1  # of the users, for choosing
PRIOR_USERS = 8.0  # that each component's covariance is drawn to the overall within-component one by


def fit_to_clicks(events: Events, *, seed: int = 0) -> tuple[Mixture, Mixture, dict[int, float]]:
    """Fit priors to users known by clicks: one Gaussian, and the mixture under which left-out users' rows are likeliest.

    EM about fixed Gaussian summaries first (each user's likelihood expanded at their mode under one Gaussian), which also chooses
    the number of components; then on the clicks themselves, each round moving every user's mode under every component by one
    Newton step. Returned are the Gaussian, the mixture and left-out users' mean log-likelihood by number of components.
    """
    dim = events.vectors.shape[-1]
    wide, fit = Mixture(np.ones(1), np.zeros((1, dim)), np.eye(dim)[None]), None
    for _ in range(ROUNDS_ON_CLICKS):
        fit = laplace(events, wide, start=None if fit is None else fit.mode, iterations=4 if fit is None else 1)
        wide = maximise(fit, wide)
    assert fit is not None
    # what the clicks alone say: the summary less the prior it was made with
    fit = laplace(events, wide, start=fit.mode, iterations=1)
    own = np.linalg.inv(wide.covariance[0])
    precision = np.linalg.inv(fit.covariance[:, 0])
    linear = np.matmul(precision, fit.mode[:, 0, :, None])[..., 0] - own @ wide.mean[0]
    precision -= own
    mode = fit.mode[:, 0]
    kept = np.random.default_rng(seed).permutation(len(mode)) >= LEFT_OUT * len(mode)
    found, score = {}, {}
    for number in COMPONENTS:
        mixture = start(mode[kept], number, seed)
        for _ in range(ROUNDS_ABOUT_MODES):
            mixture = maximise(_about_summaries(linear[kept], precision[kept], mixture), mixture)
        left_out = _about_summaries(linear[~kept], precision[~kept], mixture)
        found[number], score[number] = mixture, float(np.mean(log_sum(left_out.log_evidence)))
    mixture, fit = found[max(score, key=lambda number: score[number])], None
    for _ in range(ROUNDS_ON_CLICKS):
        fit = laplace(events, mixture, start=None if fit is None else fit.mode, iterations=4 if fit is None else 1)
        mixture = maximise(fit, mixture)
    return wide, mixture, score


def fit_to_states(states: Float[np.ndarray, "U D"], *, seed: int = 0) -> tuple[Mixture, Mixture, dict[int, float]]:
    """Fit the same priors to tastes that are known, by the same EM."""
    kept = np.random.default_rng(seed).permutation(len(states)) >= LEFT_OUT * len(states)
    found, score = {}, {}
    for number in COMPONENTS:
        mixture = start(states[kept], number, seed)
        for _ in range(ROUNDS_ABOUT_MODES + ROUNDS_ON_CLICKS):
            mixture = maximise(_of_states(states[kept], mixture), mixture)
        found[number], score[number] = mixture, float(np.mean(log_sum(_of_states(states[~kept], mixture).log_evidence)))
    return found[1], found[max(score, key=lambda number: score[number])], score


def start(points: Float[np.ndarray, "U D"], number: int, seed: int) -> Mixture:
    """Return the k-means clusters of points as a mixture."""
    found = KMeans(number, n_init=3, random_state=seed).fit(points)
    away = points - found.cluster_centers_[found.labels_]
    weight = np.bincount(found.labels_, minlength=number) + 1.0
    covariance = away.T @ away / len(points) + 1e-3 * np.eye(points.shape[1])
    return Mixture(weight / weight.sum(), found.cluster_centers_, np.repeat(covariance[None], number, axis=0))


def maximise(fit: Fit, before: Mixture) -> Mixture:
    """Return the mixture that the users' posteriors call for: the M step, covariances drawn a little to their mean."""
    share = fit.share
    users = share.sum(axis=0)
    mean = np.einsum("uj,ujd->jd", share, fit.mode) / np.maximum(users, 1e-9)[:, None]
    mean = np.where(users[:, None] > 1e-3, mean, before.mean)
    scatter = np.empty_like(before.covariance)
    for j in range(len(mean)):
        away = fit.mode[:, j] - mean[j]
        scatter[j] = (share[:, j, None] * away).T @ away
        scatter[j] += np.einsum("u,ude->de", share[:, j], fit.covariance[:, j if fit.covariance.shape[1] > 1 else 0])
    pooled = scatter.sum(axis=0) / len(share)
    covariance = (scatter + PRIOR_USERS * pooled) / (users + PRIOR_USERS)[:, None, None]
    weight = users + 0.1
    return Mixture(weight / weight.sum(), mean, covariance)


def _about_summaries(linear: np.ndarray, precision: np.ndarray, prior: Mixture) -> Fit:
    """Return the posteriors under log-likelihoods linear' x - x' precision x / 2, up to a constant of each user."""
    users, dim = linear.shape
    fit = Fit(*(np.empty((users, len(prior.mean), *s)) for s in ((dim,), (dim, dim), ())))
    for j, (weight, mean, covariance) in enumerate(zip(*prior, strict=True)):
        own = np.linalg.inv(covariance)
        fit.covariance[:, j] = np.linalg.inv(precision + own)
        right = linear + own @ mean
        fit.mode[:, j] = np.matmul(fit.covariance[:, j], right[..., None])[..., 0]
        volume = np.linalg.slogdet(fit.covariance[:, j])[1] - np.linalg.slogdet(covariance)[1]
        quadratic = np.sum(right * fit.mode[:, j], axis=-1) - mean @ own @ mean
        fit.log_evidence[:, j] = np.log(weight) + 0.5 * (volume + quadratic)
    return fit


def _of_states(states: np.ndarray, prior: Mixture) -> Fit:
    """Return the components' shares of known tastes."""
    users, dim = states.shape
    away = states[:, None] - prior.mean
    square = np.einsum("ujd,jde,uje->uj", away, np.linalg.inv(prior.covariance), away)
    volume = np.linalg.slogdet(prior.covariance)[1] + dim * np.log(2 * np.pi)
    mode = np.repeat(states[:, None], len(prior.mean), axis=1)
    return Fit(mode, np.zeros((users, 1, dim, dim)), np.log(prior.weight) - 0.5 * (square + volume))


def log_sum(x: np.ndarray) -> np.ndarray:
    """Return the log of the sum of exponentials along the last axis."""
    top = x.max(axis=-1)
    return top - np.log(softmax(x).max(axis=-1))
