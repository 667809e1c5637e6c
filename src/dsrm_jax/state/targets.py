"""What a purifier learns to reconstruct, and what it may look at meanwhile: the choices of `purifier.target`.

Nothing here knows more than the training log. Shapes: B histories of H slots, D state dimensions, U users of the log.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from dsrm_jax.errors import unknown_name
from dsrm_jax.simulator.fit import BIAS_PRIOR
from dsrm_jax.simulator.world import History, SessionStarts
from dsrm_jax.state.encoder import Embeddings

TARGETS = ("full", "split_half", "inverse_propensity", "popularity_corruption", "random_exposure")
FACTOR_PRIOR = 3.0  # `fit_factors`' own precision of a user's factors
PROPENSITY_EXPONENT = 0.5
SAMPLED_ROWS = 20_000
POPULARITY_ROWS = 500_000


@struct.dataclass
class Visited:
    """Histories that a policy made in the training simulator.

    Attributes:
        history: `(M, H)`.
        user: `(M,)` int32, users of the training world.
    """

    history: History
    user: Int[Array, "M"]


@struct.dataclass
class Leverage:
    """The curvature of users' log-posteriors: how far an embedding moves when rows are left out, and how far it may be off.

    With n other rows the negative Hessian of the user's log-posterior is about n M + P, M the log's mean curvature and P the
    prior precision; it is kept in the basis in which both are diagonal.

    Attributes:
        basis: `(D, D)` float32, columns P^(-1/2) Q.
        eigenvalue: `(D,)` float32, of P^(-1/2) M P^(-1/2).
    """

    basis: Float[Array, "D D"]
    eigenvalue: Float[Array, "D"]

    def solve(self, right: Float[Array, "... D"], rows: Float[Array, "..."]) -> Float[Array, "... D"]:
        """Return (rows M + P)^(-1) right."""
        inside = right @ self.basis / (1.0 + rows[..., None] * self.eigenvalue)
        return inside @ self.basis.T

    def expectation(self, matrix: Float[Array, "D D"], rows: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return E[e' matrix e] over posterior errors e ~ N(0, (rows M + P)^(-1))."""
        inside = jnp.diagonal(self.basis.T @ matrix @ self.basis)
        return jnp.sum(inside / (1.0 + rows[..., None] * self.eigenvalue), axis=-1)

    def draw(self, key: Key[Array, ""], rows: Float[Array, "..."]) -> Float[Array, "... D"]:
        """Draw from N(0, (rows M + P)^(-1)), the posterior about each embedding; the key is consumed."""
        noise = jax.random.normal(key, (*rows.shape, self.eigenvalue.shape[0]))
        return (noise * jax.lax.rsqrt(1.0 + rows[..., None] * self.eigenvalue)) @ self.basis.T


def fit_leverage(
    key: Key[Array, ""], embeddings: Embeddings, starts: SessionStarts, full: Float[Array, "U D"]
) -> Leverage:
    """Estimate the log's mean curvature on a sample of its rows.

    Args:
        key: typed PRNG key; consumed.
        embeddings: the frozen item side.
        starts: the training log's rows.
        full: each user's full-log embedding.
    """
    rows = jax.random.randint(key, (SAMPLED_ROWS,), 0, starts.user.shape[0])
    vectors = embeddings.vectors[starts.item[rows]]
    logit = jnp.sum(vectors * full[starts.user[rows]], axis=-1) + embeddings.bias[starts.item[rows]]
    slope = jax.nn.sigmoid(logit) * jax.nn.sigmoid(-logit)
    curvature = jnp.einsum("nd,n,ne->de", vectors, slope, vectors) / SAMPLED_ROWS
    dim = vectors.shape[1]
    root = jnp.full(dim, FACTOR_PRIOR).at[-1].set(BIAS_PRIOR * FACTOR_PRIOR) ** -0.5
    eigenvalue, rotation = jnp.linalg.eigh(root[:, None] * curvature * root)
    return Leverage(root[:, None] * rotation, jnp.maximum(eigenvalue, 0.0))


def without_window(
    leverage: Leverage,
    embeddings: Embeddings,
    full: Float[Array, "B D"],
    history: History,
    num_rows: Float[Array, "B"],
) -> Float[Array, "B D"]:
    """Return full-log embeddings as they would be without the window's own events: one Newton step back.

    At the mode the gradient over all rows vanishes, so that of the others is minus the window's. Matters where a window is much
    of what the log holds of a user (53 rows on average in KuaiRand): the target must not repeat the condition's own noise.

    Args:
        leverage: from `fit_leverage`.
        embeddings: the frozen item side.
        full: full-log embedding of each history's user.
        history: events that are rows of the log.
        num_rows: float32, rows that the log holds of each user.
    """
    slots = history.item.shape[-1]
    present = jnp.arange(slots) >= slots - history.length[..., None]
    vectors = embeddings.vectors[history.item]
    logit = jnp.einsum("bhd,bd->bh", vectors, full) + embeddings.bias[history.item]
    surprise = present * (history.click - jax.nn.sigmoid(logit))
    own = jnp.einsum("bh,bhd->bd", surprise, vectors)
    return full - leverage.solve(own, jnp.maximum(num_rows - history.length, 0.0))


def halves(
    key: Key[Array, ""], history: History, starts: SessionStarts, *, thin: bool
) -> tuple[Bool[Array, "B H"], Bool[Array, "B H"]]:
    """Split events into two random halves, one to look at and one to reconstruct.

    Args:
        key: typed PRNG key; consumed.
        history: B histories.
        starts: the training log's rows, for popularity.
        thin: keep events of the second half with probability min(1, (median / pop)^.5) only, pop being how often the log shows
            the item and the median one over the histories' events: over draws a sum weighted by clipped inverse propensities.

    Returns:
        `(first, second)`, disjoint.
    """
    half_key, thin_key = jax.random.split(key)
    first = jax.random.bernoulli(half_key, 0.5, history.item.shape)
    if not thin:
        return first, ~first
    exposure = jnp.maximum(exposures(starts, history.item), 1.0)
    chance = (jnp.median(exposure) / exposure) ** PROPENSITY_EXPONENT
    return first, ~first & (jax.random.uniform(thin_key, first.shape) < chance)


def exposures(starts: SessionStarts, item: Int[Array, "..."]) -> Float[Array, "..."]:
    """Return how often a sample of the log shows each item, scaled to the whole log."""
    rows = starts.item.shape[0]
    stride = max(rows // POPULARITY_ROWS, 1)
    sample = jnp.sort(starts.item[::stride])
    count = jnp.searchsorted(sample, item, side="right") - jnp.searchsorted(sample, item, side="left")
    return count * float(stride)


def corrupted(
    key: Key[Array, ""], history: History, starts: SessionStarts, rate: Float[Array, "B 1"]
) -> History:
    """Replace a share of the events by rows drawn from the whole log: what everybody is shown, and anybody's clicks on it.

    Args:
        key: typed PRNG key; consumed.
        history: B histories.
        starts: the training log's rows.
        rate: probability that an event is replaced, in [0, 1].
    """
    which_key, row_key = jax.random.split(key)
    slots = history.item.shape[-1]
    present = jnp.arange(slots) >= slots - history.length[..., None]
    replaced = present & (jax.random.uniform(which_key, history.item.shape) < rate)
    rows = jax.random.randint(row_key, history.item.shape, 0, starts.user.shape[0])
    return History(
        item=jnp.where(replaced, starts.item[rows], history.item),
        click=jnp.where(replaced, starts.click[rows], history.click),
        length=history.length,
    )


def every_second(fresh: Any, logged: Any) -> Any:
    """Return rows of two batches in turn: the first from `logged`, the second from `fresh`."""

    def mix(new: jax.Array, old: jax.Array) -> jax.Array:
        odd = jnp.arange(old.shape[0]) % 2 == 1
        return jnp.where(odd.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(mix, fresh, logged)


def check_target(target: str) -> None:
    """Raise `InputError` with the nearest valid name where a target does not exist."""
    if target not in TARGETS:
        raise unknown_name("purifier target", target, TARGETS)


def rows_of(starts: SessionStarts, user: Int[Array, "B"]) -> Float[Array, "B"]:
    """Return how many rows the log holds of each user."""
    return (starts.first[user + 1] - starts.first[user]).astype(jnp.float32)
