"""What the tastes of the ruler's users are like: small worlds whose posterior can be computed.

A taste is x = mean(latent) + scale(latent) factor e with e ~ N(0, I). Given its latent it is Gaussian, so that exact inference
has two independent ways: `exact` sums over a quadrature of the latent (none is needed for clusters and the Gaussian), `tempered`
samples latent and e together. Every coordinate has about unit variance over users; the truths' own numbers (centres, waves) are
drawn from the seed.

Shapes: J quadrature nodes, D coordinates, L numbers of a latent.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

CLUSTERS, CLUSTER_SPREAD = 12, 0.3
SHEET_GRID, SHEET_SPREAD, SHEET_WAVES = 56, 0.2, 2.0
DEGREES, SCALE_NODES = 4.0, 24
NAMES = ("clusters", "sheet", "student", "gaussian")


class Truth(NamedTuple):
    """Where users' tastes come from."""

    weight: Float[np.ndarray, "J"]  # of the nodes, sums to 1
    mean: Float[np.ndarray, "J D"]
    scale: Float[np.ndarray, "J"]  # a node's covariance is scale^2 factor factor'
    factor: Float[np.ndarray, "D D"]
    draw: Callable[..., np.ndarray]  # `(generator, shape) -> latent (*shape, L)`, continuous where the truth's is
    locate: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # `latent -> mean (..., D), scale (..., 1)`
    # `(generator, latent, x) -> latent`: leaves the law of the latent given x as it is
    refresh: Callable[..., np.ndarray]
    # `(generator, latent) -> latent`: leaves the prior of the latent as it is, and is reversible
    wander: Callable[..., np.ndarray]

    def states(self, generator: np.random.Generator, number: int) -> Float[np.ndarray, "N D"]:
        """Draw tastes."""
        mean, scale = self.locate(self.draw(generator, (number,)))
        return mean + scale * (generator.normal(size=(number, self.factor.shape[0])) @ self.factor.T)


def make_truth(name: str, generator: np.random.Generator, dim: int) -> Truth:
    """Return one of `NAMES`.

    `clusters`: 12 of spread .3. `sheet`: a square bent by one sine wave a coordinate, thickness .2. `student`: multivariate t
    with 4 degrees of freedom. `gaussian`: correlated coordinates.
    """
    return {"clusters": _clusters, "sheet": _sheet, "student": _student, "gaussian": _gaussian}[name](generator, dim)


def _stay(generator: np.random.Generator, latent: np.ndarray, x: np.ndarray | None = None) -> np.ndarray:
    return latent


def _clusters(generator: np.random.Generator, dim: int) -> Truth:
    centre = generator.normal(size=(CLUSTERS, dim)) * np.sqrt(1 - CLUSTER_SPREAD**2)

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.integers(CLUSTERS, size=(*shape, 1))

    def locate(latent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return centre[latent[..., 0]], np.full(latent.shape, CLUSTER_SPREAD)

    def refresh(generator: np.random.Generator, latent: np.ndarray, x: np.ndarray) -> np.ndarray:
        near = (x @ centre.T - 0.5 * np.sum(centre**2, axis=1)) / CLUSTER_SPREAD**2
        return np.argmax(near + generator.gumbel(size=near.shape), axis=-1)[..., None]

    def wander(generator: np.random.Generator, latent: np.ndarray) -> np.ndarray:
        return draw(generator, latent.shape[:-1])

    weight, scale = np.full(CLUSTERS, 1 / CLUSTERS), np.full(CLUSTERS, CLUSTER_SPREAD)
    return Truth(weight, centre, scale, np.eye(dim), draw, locate, refresh, wander)


def _sheet(generator: np.random.Generator, dim: int) -> Truth:
    wave = generator.normal(size=(2, dim)) * SHEET_WAVES
    phase = generator.uniform(0, 2 * np.pi, dim)
    side = (np.arange(SHEET_GRID) + 0.5) * 2 / SHEET_GRID - 1
    nodes = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    bent = np.sin(nodes @ wave + phase)
    centre, spread = bent.mean(axis=0), bent.std(axis=0) / np.sqrt(1 - SHEET_SPREAD**2)

    def place(latent: np.ndarray) -> np.ndarray:
        return (np.sin(latent @ wave + phase) - centre) / spread

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.uniform(-1, 1, size=(*shape, 2))

    def locate(latent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return place(latent), np.full((*latent.shape[:-1], 1), SHEET_SPREAD)

    def wander(generator: np.random.Generator, latent: np.ndarray) -> np.ndarray:
        # steps of several sizes, folded back at the edges, which keeps the uniform law
        step = np.exp(generator.uniform(np.log(0.01), np.log(1.0), size=(*latent.shape[:-1], 1)))
        folded = np.mod(latent + step * generator.normal(size=latent.shape) + 1, 4)
        return np.where(folded > 2, 4 - folded, folded) - 1

    def refresh(generator: np.random.Generator, latent: np.ndarray, x: np.ndarray) -> np.ndarray:
        moved = wander(generator, latent)
        gain = np.sum((x - place(latent)) ** 2 - (x - place(moved)) ** 2, axis=-1) / (2 * SHEET_SPREAD**2)
        accepted = np.log(generator.uniform(size=gain.shape)) < gain
        return np.where(accepted[..., None], moved, latent)

    number = len(nodes)
    weight, scale = np.full(number, 1 / number), np.full(number, SHEET_SPREAD)
    return Truth(weight, place(nodes), scale, np.eye(dim), draw, locate, refresh, wander)


def _student(generator: np.random.Generator, dim: int) -> Truth:
    # x = unit e / sqrt(w), w ~ Gamma(DEGREES / 2, DEGREES / 2): variance 1
    unit, half = np.sqrt((DEGREES - 2) / DEGREES), DEGREES / 2
    law = stats.gamma(half, scale=1 / half)
    node = np.geomspace(law.ppf(1e-6), law.ppf(1 - 1e-9), SCALE_NODES)
    weight = law.pdf(node) * node  # the trapezoid rule in log w

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.gamma(half, 1 / half, size=(*shape, 1))

    def locate(latent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((*latent.shape[:-1], dim)), unit / np.sqrt(latent)

    def refresh(generator: np.random.Generator, latent: np.ndarray, x: np.ndarray) -> np.ndarray:
        square = np.sum(x**2, axis=-1, keepdims=True) / unit**2
        return generator.gamma(half + dim / 2, size=latent.shape) / (half + square / 2)

    def wander(generator: np.random.Generator, latent: np.ndarray) -> np.ndarray:
        step = np.exp(generator.uniform(np.log(0.05), np.log(2.0), size=latent.shape))
        moved = latent * np.exp(step * generator.normal(size=latent.shape))
        gain = half * (np.log(moved / latent) - moved + latent)
        return np.where(np.log(generator.uniform(size=gain.shape)) < gain, moved, latent)

    mean = np.zeros((SCALE_NODES, dim))
    return Truth(weight / weight.sum(), mean, unit / np.sqrt(node), np.eye(dim), draw, locate, refresh, wander)


def _gaussian(generator: np.random.Generator, dim: int) -> Truth:
    mixing = generator.normal(size=(dim, dim)) * np.exp(-np.arange(dim) / dim)
    factor = np.linalg.cholesky(mixing @ mixing.T + 0.1 * np.eye(dim))
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros((*shape, 1))

    def locate(latent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((*latent.shape[:-1], dim)), np.ones(latent.shape)

    one = np.ones(1)
    return Truth(one, np.zeros((1, dim)), one, factor, draw, locate, _stay, _stay)
