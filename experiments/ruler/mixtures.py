"""The baseline that a reviewer asks for: a mixture of Gaussians with full covariances, fitted to users by EM on their clicks.

Independent of the library's own mixture. A user known by noisy rows enters by Laplace's approximation about each component's own
mode; the number of components is the one under which left-out users' rows are likeliest. One component is the Gaussian prior in
closed form (Newton).

Shapes: U users, J components, D coordinates.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.cluster import KMeans

from experiments.ruler.laplace import Fit, Mixture, laplace, softmax
from experiments.ruler.worlds import Events

COMPONENTS = (1, 4, 12, 32)
ROUNDS_ABOUT_MODES, ROUNDS_ON_CLICKS = 15, 6
LEAST_SHARE = 1e-5
LEFT_OUT = 0.1  # of the users, for choosing
STRENGTHS = (8.0, 100.0, 1_000.0)  # users' worth by which each component's covariance is drawn to their mean


def fit_to_clicks(events: Events, *, seed: int = 0) -> tuple[Mixture, Mixture, dict[str, float]]:
    """Fit priors to users known by clicks: one Gaussian, and the mixture under which left-out users' rows are likeliest.

    EM about fixed Gaussian summaries first (each user's likelihood expanded at their mode under one Gaussian), which also chooses
    the number of components and how far their covariances may differ; then on the clicks themselves, each round moving every
    user's mode under every component by one Newton step. Returned are the Gaussian, the mixture and left-out users' mean
    log-likelihood by what was tried.
    """
    dim = events.vectors.shape[-1]
    wide, fit = Mixture(np.ones(1), np.zeros((1, dim)), np.eye(dim)[None]), None
    for _ in range(ROUNDS_ON_CLICKS):
        fit = laplace(events, wide, start=None if fit is None else fit.mode, iterations=4 if fit is None else 1)
        wide = maximise(fit, wide, 0.0)
    assert fit is not None
    # what the clicks alone say: the summary less the prior it was made with
    fit = laplace(events, wide, start=fit.mode, iterations=1)
    own = np.linalg.inv(wide.covariance[0])
    precision = np.linalg.inv(fit.covariance[:, 0])
    linear = np.matmul(precision, fit.mode[:, 0, :, None])[..., 0] - own @ wide.mean[0]
    precision -= own
    mode = fit.mode[:, 0]
    kept = np.random.default_rng(seed).permutation(len(mode)) >= LEFT_OUT * len(mode)
    chosen, scores = _choose(
        mode[kept],
        lambda prior, share: _about_summaries(linear[kept], precision[kept], prior, share),
        lambda prior: _about_summaries(linear[~kept], precision[~kept], prior),
        seed=seed,
    )
    mixture, fit = chosen.mixture, None
    for _ in range(ROUNDS_ON_CLICKS):
        fit = laplace(events, mixture, start=None if fit is None else fit.mode, iterations=4 if fit is None else 1)
        mixture = maximise(fit, mixture, chosen.strength)
    return wide, mixture, scores


def fit_to_states(states: Float[np.ndarray, "U D"], *, seed: int = 0) -> tuple[Mixture, Mixture, dict[str, float]]:
    """Fit the same priors to tastes that are known, by the same EM."""
    kept = np.random.default_rng(seed).permutation(len(states)) >= LEFT_OUT * len(states)
    chosen, scores = _choose(
        states[kept],
        lambda prior, share: _of_states(states[kept], prior),
        lambda prior: _of_states(states[~kept], prior),
        seed=seed,
    )
    one = start(states, 1, seed)
    return maximise(_of_states(states, one), one, 0.0), chosen.mixture, scores


class _Chosen(NamedTuple):
    mixture: Mixture
    strength: float


def _choose(
    points: Float[np.ndarray, "U D"],
    expect: Callable[[Mixture, np.ndarray | None], Fit],
    expect_left_out: Callable[[Mixture], Fit],
    *,
    seed: int,
) -> tuple[_Chosen, dict[str, float]]:
    """Return the mixture under which left-out users are likeliest: first by its size, then by its covariances' strength."""
    scores: dict[str, float] = {}
    found: dict[str, _Chosen] = {}

    def add(number: int, strength: float, mixture: Mixture, rounds: int) -> None:
        share = None
        for step in range(rounds):
            fit = expect(mixture, None if share is None or step % 5 == 0 else share)
            share, mixture = fit.share, maximise(fit, mixture, strength)
        name = f"{number} components, strength {strength:g}"
        found[name] = _Chosen(mixture, strength)
        scores[name] = float(np.mean(log_sum(expect_left_out(mixture).log_evidence)))

    middle = STRENGTHS[len(STRENGTHS) // 2]
    for number in COMPONENTS:
        add(number, middle, start(points, number, seed), ROUNDS_ABOUT_MODES)
    best = found[max(scores, key=lambda name: scores[name])].mixture
    for strength in STRENGTHS:
        if strength != middle and len(best.weight) > 1:
            add(len(best.weight), strength, best, ROUNDS_ABOUT_MODES // 2)
    return found[max(scores, key=lambda name: scores[name])], scores


def start(points: Float[np.ndarray, "U D"], number: int, seed: int) -> Mixture:
    """Return the k-means clusters of points as a mixture."""
    found = KMeans(number, n_init=3, random_state=seed).fit(points)
    away = points - found.cluster_centers_[found.labels_]
    weight = np.bincount(found.labels_, minlength=number) + 1.0
    covariance = away.T @ away / len(points) + 1e-3 * np.eye(points.shape[1])
    return Mixture(weight / weight.sum(), found.cluster_centers_, np.repeat(covariance[None], number, axis=0))


def maximise(fit: Fit, before: Mixture, strength: float) -> Mixture:
    """Return the mixture that the users' posteriors call for: the M step, covariances drawn to their mean as by so many users."""
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
    covariance = (scatter + strength * pooled) / (users + strength)[:, None, None]
    weight = users + 0.1
    return Mixture(weight / weight.sum(), mean, covariance)


def _about_summaries(linear: np.ndarray, precision: np.ndarray, prior: Mixture, share: np.ndarray | None = None) -> Fit:
    """Return the posteriors under log-likelihoods linear' x - x' precision x / 2, up to a constant of each user.

    `share`: of the round before; components that had next to none of a user stay without. None: all are looked at.
    """
    users, dim = linear.shape
    fit = Fit(*(np.zeros((users, len(prior.mean), *s)) for s in ((dim,), (dim, dim), ())))
    fit.log_evidence[:] = -np.inf
    for j, (weight, mean, covariance) in enumerate(zip(*prior, strict=True)):
        of = slice(None) if share is None else share[:, j] > LEAST_SHARE
        own = np.linalg.inv(covariance)
        within = np.linalg.inv(precision[of] + own)
        right = linear[of] + own @ mean
        mode = np.matmul(within, right[..., None])[..., 0]
        volume = np.linalg.slogdet(within)[1] - np.linalg.slogdet(covariance)[1]
        quadratic = np.sum(right * mode, axis=-1) - mean @ own @ mean
        fit.covariance[of, j], fit.mode[of, j] = within, mode
        fit.log_evidence[of, j] = np.log(weight) + 0.5 * (volume + quadratic)
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
