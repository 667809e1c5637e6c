"""Exact inference, the first way: importance sampling about the Laplace posteriors of every node of the truth.

A node j is drawn with its approximate posterior probability, a taste x from a t distribution about the node's own mode; the
weight is p(x) p(clicks | x) over the density of what was drawn: of x, or where nodes are many and narrow of x and its node. Where
the approximation about each node is good the weights are nearly equal, however many modes the posterior has.

Shapes: B users of H events, N draws, J nodes, D coordinates.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from experiments.ruler.laplace import Fit, Mixture, categorical, laplace, softmax
from experiments.ruler.truths import Truth
from experiments.ruler.worlds import Events, chance

PROPOSAL_DEGREES = 8.0
MANY_NODES = 100  # from here on a node's posterior is one Newton step from its mean
USERS_AT_ONCE = 32
LARGEST_LOGIT, FACTORS = 60.0, 10  # exp(60 * 10) is still a float64


class Posterior(NamedTuple):
    """Weighted draws from each user's posterior."""

    draws: Float[np.ndarray, "B N D"]
    weight: Float[np.ndarray, "B N"]  # sums to 1

    @property
    def mean(self) -> Float[np.ndarray, "B D"]:
        """The posterior mean."""
        return np.einsum("bn,bnd->bd", self.weight, self.draws)

    @property
    def variance(self) -> Float[np.ndarray, "B"]:
        """Mean posterior variance of a coordinate: what the mean's squared error is on average."""
        centred = self.draws - self.mean[:, None]
        return np.einsum("bn,bnd,bnd->b", self.weight, centred, centred) / self.draws.shape[-1]

    @property
    def effective(self) -> Float[np.ndarray, "B"]:
        """Effective sample size, 1 / sum of squared weights."""
        return 1 / np.sum(self.weight**2, axis=-1)


def importance(generator: np.random.Generator, truth: Truth, events: Events, number: int) -> Posterior:
    """Return the exact posterior of each user by weighted draws."""
    blocks = [slice(i, i + USERS_AT_ONCE) for i in range(0, len(events.click), USERS_AT_ONCE)]
    parts = [_importance(generator, truth, events.of(block), number) for block in blocks]
    return Posterior(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def _importance(generator: np.random.Generator, truth: Truth, events: Events, number: int) -> Posterior:
    dim = truth.mean.shape[-1]
    few = len(truth.mean) < MANY_NODES
    if few:
        covariance = truth.scale[:, None, None] ** 2 * (truth.factor @ truth.factor.T)
        fit = laplace(events, Mixture(truth.weight, truth.mean, covariance), iterations=20, averaged=True)
    else:
        fit = _one_step(truth, events)
    # nodes that the approximation thinks little of are drawn all the same
    share = 0.9 * fit.share + 0.1 * softmax(0.5 * fit.log_evidence)
    node = categorical(generator, share, number)
    users = np.arange(len(node))[:, None]
    factor = np.linalg.cholesky(fit.covariance)
    own = factor[users, node if few else 0]
    noise = generator.normal(size=(*node.shape, dim))
    noise /= np.sqrt(generator.chisquare(PROPOSAL_DEGREES, size=(*node.shape, 1)) / PROPOSAL_DEGREES)
    x = fit.mode[users, node] + np.matmul(own, noise[..., None])[..., 0]
    inverse = np.linalg.inv(truth.factor).T
    if few:  # over all nodes at once, which evens the weights out
        prior, drawn_with = [], []
        for j in range(len(truth.mean)):
            inside = np.matmul(x - fit.mode[:, j, None], np.linalg.inv(factor[:, j]).swapaxes(1, 2))
            drawn_with.append(np.log(share[:, j, None]) + _log_t(inside) - _log_volume(factor[:, j])[:, None])
            prior.append(_log_prior(truth, np.full(node.shape, j), (x - truth.mean[j]) @ inverse))
        ratio = logsumexp(prior, axis=0) - logsumexp(drawn_with, axis=0)
    else:
        drawn_with = np.log(share[users, node]) + _log_t(noise) - _log_volume(own)
        ratio = _log_prior(truth, node, (x - truth.mean[node]) @ inverse) - drawn_with
    return Posterior(x, softmax(ratio + log_likelihood(events, x)))


def _log_prior(truth: Truth, node: np.ndarray, away: np.ndarray) -> np.ndarray:
    """Return log p(node) N(x; node) up to a constant, from what `(x - mean) factor^-T` is."""
    scale = truth.scale[node]
    square = np.sum(away**2, axis=-1) / scale**2
    return np.log(truth.weight[node]) - 0.5 * square - away.shape[-1] * np.log(scale)


def _one_step(truth: Truth, events: Events) -> Fit:
    """Expand at each of many narrow nodes' means, with one curvature a user: that of the nodes' mean chances."""
    dim = truth.mean.shape[-1]
    logit = truth.mean @ events.vectors.swapaxes(1, 2) + events.bias[:, None]
    probability = chance(logit)
    value = np.sum(np.log(np.where(events.click[:, None], probability, 1 - probability)), axis=-1)
    share = softmax(value)
    slope = np.einsum("bj,bjh->bh", share, probability * (1 - probability))
    hessian = np.einsum("bhd,bh,bhe->bde", events.vectors, slope, events.vectors)
    scale = truth.scale[0]
    covariance = np.linalg.inv(hessian + np.eye(dim) / scale**2)
    gradient = (events.click[:, None] - probability) @ events.vectors
    move = gradient @ covariance
    log_evidence = np.log(truth.weight) + value + 0.5 * np.sum(move * gradient, axis=-1)
    return Fit(truth.mean + move, covariance[:, None], log_evidence)


def log_likelihood(events: Events, x: Float[np.ndarray, "B N D"]) -> Float[np.ndarray, "B N"]:
    """Return the log-likelihood of each user's clicks at tastes of their own."""
    total = np.zeros(x.shape[:2])
    sign = np.where(events.click, -1.0, 1.0)
    for user, (vectors, bias) in enumerate(zip(events.vectors, events.bias, strict=True)):
        odds = (sign[user, :, None] * vectors) @ x[user].T
        odds += (sign[user] * bias)[:, None]
        np.exp(np.clip(odds, -LARGEST_LOGIT, LARGEST_LOGIT, out=odds), out=odds)
        odds += 1
        for i in range(0, len(odds), FACTORS):  # one logarithm for several events
            total[user] -= np.log(np.prod(odds[i : i + FACTORS], axis=0))
    return total


def _log_t(noise: np.ndarray) -> np.ndarray:
    """Return the log density of a multivariate t distribution, up to a constant."""
    dim, degrees = noise.shape[-1], PROPOSAL_DEGREES
    return -0.5 * (degrees + dim) * np.log1p(np.sum(noise**2, axis=-1) / degrees)


def _log_volume(factor: np.ndarray) -> np.ndarray:
    return np.sum(np.log(np.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)
