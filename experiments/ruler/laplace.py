"""Posteriors of tastes under a mixture of Gaussians: Laplace's approximation about each component's own mode.

Shapes: B users of H events, J components, D coordinates.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.ruler.worlds import Events, chance

USERS_AT_ONCE = 250
LONGEST_STEP = 3.0  # of Newton's: a wide component's first one may overshoot


class Mixture(NamedTuple):
    """A prior over tastes: a weighted sum of Gaussians."""

    weight: Float[np.ndarray, "J"]
    mean: Float[np.ndarray, "J D"]
    covariance: Float[np.ndarray, "J D D"]


class Fit(NamedTuple):
    """Each component's posterior N(mode, covariance), and how well it explains the user."""

    mode: Float[np.ndarray, "B J D"]
    covariance: Float[np.ndarray, "B J D D"]
    log_evidence: Float[np.ndarray, "B J"]  # of the clicks and the component: its log weight is in it

    @property
    def share(self) -> Float[np.ndarray, "B J"]:
        """Posterior probabilities of the components."""
        return softmax(self.log_evidence)

    @property
    def mean(self) -> Float[np.ndarray, "B D"]:
        """The mixture's posterior mean."""
        return np.einsum("bj,bjd->bd", self.share, self.mode)

    def draw(self, generator: np.random.Generator, number: int) -> Float[np.ndarray, "B N D"]:
        """Draw tastes of each user."""
        component = categorical(generator, self.share, number)
        factor = np.linalg.cholesky(self.covariance)
        users = np.arange(len(component))[:, None]
        noise = generator.normal(size=(*component.shape, self.mode.shape[-1], 1))
        return self.mode[users, component] + np.matmul(factor[users, component], noise)[..., 0]


def laplace(
    events: Events, prior: Mixture, *, start: np.ndarray | None = None, iterations: int = 10, averaged: bool = False
) -> Fit:
    """Return the Laplace approximation of every user under every component; `start` are `(B, J, D)` modes to go on from.

    `averaged`: instead of the mode and its curvature, a fixed point at which slope and curvature are averaged over the Gaussian
    itself (a normal logit's mean sigmoid as in MacKay 1992): nearer the posterior's moments where few clicks leave it wide.
    """
    blocks = [slice(i, i + USERS_AT_ONCE) for i in range(0, len(events.click), USERS_AT_ONCE)]
    parts = [_laplace(events.of(b), prior, None if start is None else start[b], iterations, averaged) for b in blocks]
    return Fit(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def _laplace(events: Events, prior: Mixture, start: np.ndarray | None, iterations: int, averaged: bool) -> Fit:
    users, dim = len(events.click), events.vectors.shape[-1]
    upper = np.triu_indices(dim)
    products = events.vectors[..., upper[0]] * events.vectors[..., upper[1]]
    precision = np.linalg.inv(prior.covariance)
    x = np.broadcast_to(prior.mean, (users, *prior.mean.shape)).copy() if start is None else start.copy()

    def away(x: np.ndarray) -> np.ndarray:
        return np.einsum("jde,bje->bjd", precision, x - prior.mean)

    twice = np.where(upper[0] == upper[1], 1.0, 2.0)
    shrink: np.ndarray | float = 1.0
    for step in range(iterations + 1):
        logit = x @ events.vectors.swapaxes(1, 2) + events.bias[:, None]
        probability = chance(logit * shrink)
        half = (probability * (1 - probability) * shrink) @ products
        hessian = np.empty((*half.shape[:2], dim, dim))
        hessian[..., upper[0], upper[1]] = half
        hessian[..., upper[1], upper[0]] = half
        hessian += precision
        if step == iterations:
            break
        gradient = (events.click[:, None] - probability) @ events.vectors - away(x)
        move = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        if averaged:
            variance = (np.linalg.inv(hessian)[..., upper[0], upper[1]] * twice) @ products.swapaxes(1, 2)
            shrink = 1 / np.sqrt(1 + np.pi / 8 * variance)
        x += move * np.minimum(1, LONGEST_STEP / np.maximum(np.linalg.norm(move, axis=-1, keepdims=True), 1e-12))
    signed = np.where(events.click[:, None], logit, -logit)
    value = np.sum(np.log(chance(signed)), axis=-1) - 0.5 * np.sum((x - prior.mean) * away(x), axis=-1)
    volume = np.linalg.slogdet(precision)[1] - np.linalg.slogdet(hessian)[1]
    return Fit(x, np.linalg.inv(hessian), np.log(prior.weight) + value + 0.5 * volume)


def softmax(x: np.ndarray) -> np.ndarray:
    """Return probabilities along the last axis."""
    raised = np.exp(x - x.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def categorical(generator: np.random.Generator, share: np.ndarray, number: int) -> np.ndarray:
    """Draw `number` indices of each row, `(B, number)`, stratified: an index of share s comes s `number` times, rounded."""
    at = (np.arange(number) + generator.uniform(size=(len(share), 1))) / number
    edges = np.cumsum(share, axis=-1)
    edges[:, -1] = 1.0
    rows = np.arange(len(share))[:, None]
    flat = np.searchsorted((edges + rows).ravel(), (at + rows).ravel(), side="right").reshape(at.shape)
    return np.minimum(flat - rows * share.shape[-1], share.shape[-1] - 1)
