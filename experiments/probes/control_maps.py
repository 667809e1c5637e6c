"""Controls that a purifier has to beat (P9): each a map from observed to other states.

None of them is a method: they say what a probe shows when states were merely shrunk, rotated, blurred or regressed. Shapes: N
histories, D state dimensions.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, ArrayLike, Float, Key

from dsrm_jax.purify.diffusion_model import Normaliser, fit_normaliser
from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.purifier import Learning, Purifier, PurifierBatch
from dsrm_jax.types import PyTree

Control = Callable[[Float[Array, "N D"], Evidence], Float[np.ndarray, "N D"]]
"""`(observed states, evidence) -> states`."""


class Affine(NamedTuple):
    """The map `mean + (state - mean) @ matrix`.

    Attributes:
        matrix: `(D, D)` float64.
        mean: `(D,)` float64.
    """

    matrix: Float[np.ndarray, "D D"]
    mean: Float[np.ndarray, "D"]

    def apply(self, state: Float[ArrayLike, "N D"]) -> Float[np.ndarray, "N D"]:
        """Return the mapped states in float64."""
        return self.mean + (np.asarray(state, np.float64) - self.mean) @ self.matrix


def shrinkage(state: Float[ArrayLike, "N D"], *, alpha_bar: float = 0.5) -> Affine:
    """Return PCA shrinkage: what an unconditional Gaussian diffusion does to states noised to a level.

    An eigen-direction of variance v, in units of the mean eigenvalue, keeps the share alpha_bar v / (alpha_bar v + 1 -
    alpha_bar): leading directions survive, and low-variance ones, such as niche interests, are wiped first.

    Args:
        state: `(N, D)` training states.
        alpha_bar: signal that the level keeps, in (0, 1).
    """
    x = np.asarray(state, np.float64)
    value, vector = np.linalg.eigh(np.cov(x, rowvar=False))
    value = np.maximum(value, 0.0) / max(value.mean(), 1e-12)
    kept = alpha_bar * value / (alpha_bar * value + 1 - alpha_bar)
    return Affine(vector * kept @ vector.T, x.mean(axis=0))


def erasure(state: Float[ArrayLike, "N D"], concept: Float[ArrayLike, "N"]) -> Affine:
    """Return least-squares concept erasure: the smallest linear change after which no linear probe reads the concept.

    Args:
        state: `(N, D)` training states.
        concept: `(N,)` such as the popularity of what each history clicked.

    Returns:
        x - W+ P W (x - mean), W the whitening of the states and P the projection on the whitened cross-covariance; the identity
        where the two are uncorrelated. Source: LEACE, Belrose et al. 2023.
    """
    x, z = np.asarray(state, np.float64), np.asarray(concept, np.float64)
    mean = x.mean(axis=0)
    covariance = np.atleast_2d(np.cov(x, rowvar=False))
    cross = (x - mean).T @ (z - z.mean()) / (len(x) - 1)
    value, vector = np.linalg.eigh(covariance)
    used = value > 1e-10 * value.max()
    root = np.sqrt(value[used])
    axes = vector[:, used]
    whitened = (axes.T @ cross) / root
    norm = np.linalg.norm(whitened)
    if norm == 0:
        return Affine(np.eye(len(mean)), mean)
    unit = whitened / norm
    # a row vector maps by the transpose of I - W+ P W
    return Affine(np.eye(len(mean)) - np.outer(axes @ (unit / root), axes @ (unit * root)), mean)


def blur(state: Float[ArrayLike, "N D"], *, scale: float = 1.0) -> Float[np.ndarray, "N D"]:
    """Return states plus Gaussian noise of `scale` standard deviations of each coordinate.

    The noise is a function of the whole batch of states: the same states get the same noise, any others fresh noise, so that
    nobody can be known by it.
    """
    x = np.asarray(state, np.float64)
    return x + scale * x.std(axis=0) * _generator(x).normal(size=x.shape)


def swap_users(state: Float[ArrayLike, "N D"]) -> Float[np.ndarray, "N D"]:
    """Return everyone somebody else's state; who gets whose is a function of the whole batch, as in `blur`."""
    x = np.asarray(state, np.float64)
    return x[derangement(int(_generator(x).integers(2**31)), len(x))]


def _generator(x: np.ndarray) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(np.ascontiguousarray(x).tobytes()))


def derangement(seed: int, size: int) -> np.ndarray:
    """Return a permutation of 0..size-1 that leaves nothing in its place: everyone gets somebody else's state."""
    order = np.random.default_rng(seed).permutation(size)
    shuffled = np.empty(size, int)
    shuffled[order] = np.roll(order, 1)
    return shuffled


@struct.dataclass
class AutoencoderParams:
    """A trained denoising autoencoder: variables of its `network`, and how its input and its output are normalised."""

    network: PyTree
    condition: Normaliser
    target: Normaliser


class _Autoencoder(nn.Module):
    """The purifier's two hidden layers, without levels and without a noised state."""

    dim: int
    hidden: int

    @nn.compact
    def __call__(self, condition: Float[Array, "... C"]) -> Float[Array, "... D"]:
        x = nn.silu(nn.Dense(self.hidden)(condition))
        x = nn.silu(nn.Dense(self.hidden)(x))
        return nn.Dense(self.dim, kernel_init=nn.initializers.zeros)(x)


def denoising_autoencoder(*, hidden: int, learning: Learning) -> Purifier:
    """Return a denoising autoencoder under the `Purifier` contract: a masked view in, the cleaner state out, square error.

    It has the widths of a diffusion purifier and learns from the same pairs (`stage_one.fit_purifier`), so what it lacks is
    diffusion alone.

    Args:
        hidden: width of its two hidden layers.
        learning: how it is trained.
    """

    def init(key: Key[Array, ""], batch: PurifierBatch) -> AutoencoderParams:
        module = _Autoencoder(batch.target.shape[-1], hidden)
        network = module.init(key, batch.condition.summary[:1])
        return AutoencoderParams(network, fit_normaliser(batch.condition.summary), fit_normaliser(batch.target))

    def predict(params: AutoencoderParams, evidence: Evidence) -> Array:
        fixed = jax.lax.stop_gradient(params.condition)
        module = _Autoencoder(params.target.mean.shape[0], hidden)
        return module.apply(params.network, fixed.apply(evidence.summary))  # type: ignore[return-value]

    def loss(params: AutoencoderParams, key: Key[Array, ""], batch: PurifierBatch) -> Float[Array, ""]:
        target = jax.lax.stop_gradient(params.target).apply(batch.target)
        return jnp.mean(optax.squared_error(predict(params, batch.condition), target))

    def purify(params: AutoencoderParams, key: Array, state: Array, evidence: Evidence) -> Array:
        return params.target.invert(predict(params, evidence))

    return Purifier(init, loss, purify, learning=learning)
