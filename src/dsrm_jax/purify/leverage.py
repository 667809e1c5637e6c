"""How sharply rows of a log pin their user's state down: the curvature of users' log-posteriors.

Shapes: D state dimensions, U users of the log.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key

from dsrm_jax.purify.arrays import States
from dsrm_jax.purify.encoder import Embeddings
from dsrm_jax.simulator.fit import BIAS_PRIOR
from dsrm_jax.simulator.world import SessionStarts

FACTOR_PRIOR = 3.0  # `fit_factors`' own precision of a user's factors
SAMPLED_ROWS = 20_000


@struct.dataclass
class Leverage:
    """Precision n M + P of a user of n rows, kept in the basis in which both matrices are diagonal.

    M is what a row of the log adds on average, P the prior's precision. Tells how far a user's mode moves when rows are added or
    left out, and how far it may be off.
    """

    basis: Float[Array, "D D"]  # columns P^(-1/2) Q
    eigenvalue: Float[Array, "D"]  # of P^(-1/2) M P^(-1/2)

    def solve(self, right: States, rows: Float[Array, "..."]) -> States:
        """Return (rows M + P)^(-1) right."""
        inside = right @ self.basis / (1.0 + rows[..., None] * self.eigenvalue)
        return inside @ self.basis.T

    def expectation(self, matrix: Float[Array, "D D"], rows: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return E[e' matrix e] over e ~ N(0, (rows M + P)^(-1))."""
        inside = jnp.diagonal(self.basis.T @ matrix @ self.basis)
        return jnp.sum(inside / (1.0 + rows[..., None] * self.eigenvalue), axis=-1)

    def draw(self, key: Key[Array, ""], rows: Float[Array, "..."]) -> States:
        """Draw from N(0, (rows M + P)^(-1)), the posterior about each mode; the key is consumed."""
        noise = jax.random.normal(key, (*rows.shape, self.eigenvalue.shape[0]))
        return (noise * jax.lax.rsqrt(1.0 + rows[..., None] * self.eigenvalue)) @ self.basis.T


def leverage_of(curvature: Float[Array, "D D"]) -> Leverage:
    """Return the leverage of rows that add `curvature` each, on top of `fit_factors`' own prior."""
    dim = curvature.shape[0]
    root = jnp.full(dim, FACTOR_PRIOR).at[-1].set(BIAS_PRIOR * FACTOR_PRIOR) ** -0.5
    eigenvalue, rotation = jnp.linalg.eigh(root[:, None] * curvature * root)
    return Leverage(root[:, None] * rotation, jnp.maximum(eigenvalue, 0.0))


def click_curvature(
    key: Key[Array, ""], embeddings: Embeddings, starts: SessionStarts, full: Float[Array, "U D"]
) -> Float[Array, "D D"]:
    """Estimate a click's mean negative log-likelihood Hessian at modes `full`, on a sample of rows; the key is consumed."""
    rows = jax.random.randint(key, (SAMPLED_ROWS,), 0, starts.user.shape[0])
    vectors = embeddings.vectors[starts.item[rows]]
    logit = jnp.sum(vectors * full[starts.user[rows]], axis=-1) + embeddings.bias[starts.item[rows]]
    slope = jax.nn.sigmoid(logit) * jax.nn.sigmoid(-logit)
    return jnp.einsum("nd,n,ne->de", vectors, slope, vectors) / SAMPLED_ROWS


def item_variance(
    embeddings: Embeddings, starts: SessionStarts, states: Float[Array, "U D"]
) -> tuple[Float[Array, "V"], Float[Array, "V"]]:
    """Return how far each item's click logit may be off for a user of the log, and how many of the log's rows it has.

    The variance of the logit, averaged over users, under the item's own posterior N(vector, (rows M + P)^-1), M what a row that
    shows it adds on average; items and users have one prior in `fit_factors`.

    Args:
        embeddings: of the log's items.
        starts: the log's rows.
        states: of the rows' users.
    """
    num_rows = starts.user.shape[0]
    rows = jnp.arange(min(SAMPLED_ROWS, num_rows)) * (num_rows // min(SAMPLED_ROWS, num_rows))
    user = states[starts.user[rows]]
    logit = jnp.sum(embeddings.vectors[starts.item[rows]] * user, axis=-1) + embeddings.bias[starts.item[rows]]
    known = user.at[:, -1].set(1.0)  # an item's last coordinate is its own bias
    slope = jax.nn.sigmoid(logit) * jax.nn.sigmoid(-logit)
    leverage = leverage_of(jnp.einsum("nd,n,ne->de", known, slope, known) / len(rows))
    count = jnp.zeros(embeddings.bias.shape[0]).at[starts.item].add(1.0)
    return leverage.expectation(known.T @ known / len(rows), count), count


def rows_of(starts: SessionStarts, user: Int[Array, "B"]) -> Float[Array, "B"]:
    """Return how many rows the log holds of each user."""
    return (starts.first[user + 1] - starts.first[user]).astype(jnp.float32)
