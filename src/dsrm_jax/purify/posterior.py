"""What the training log tells of each of its users: the cleanest states there are, and how far they may be off.

The log speaks of a user by what they clicked given what it showed them, and by what it showed them (`exposure`). Together with
the prior of the factorisation this gives every user a Gaussian posterior, whose mode is what Stage I learns to reconstruct and
from whose draws a prior over preference is learnt.

Shapes: D state dimensions, U users, B histories.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key

from dsrm_jax.purify.encoder import Embeddings, present
from dsrm_jax.purify.exposure import Exposure, fit_exposure, independent_share, read_exposure
from dsrm_jax.purify.leverage import Leverage, click_curvature, leverage_of, rows_of
from dsrm_jax.simulator.world import History, SessionStarts

ROWS_AT_ONCE = 1 << 18  # summed in blocks: the vectors of 12.5 million rows would be most of a gigabyte


@struct.dataclass
class UserPosterior:
    """Gaussian posteriors N(mode, (rows M + P)^(-1)) of users' states: the cleanest states that a log holds of them."""

    mode: Float[Array, "U D"]
    rows: Float[Array, "U"]  # how many rows the log holds of each user
    leverage: Leverage  # their precision; M holds what a row's click and its being shown add
    exposure: Exposure  # what the log's choices tell
    # what a row's being shown counts here: the independent share of as many rows as the user of a mean row has. Users with
    # fewer are told somewhat too little by it, those with more too much.
    share: Float[Array, ""]

    def of(self, user: Int[np.ndarray, "N"]) -> "UserPosterior":
        """Return the posteriors of some of the users, in their order."""
        return replace(self, mode=self.mode[user], rows=self.rows[user])

    def draw(self, key: Key[Array, ""], user: Int[Array, "B"]) -> Float[Array, "B D"]:
        """Draw a state of each user from their posterior; the key is consumed."""
        return self.mode[user] + self.leverage.draw(key, self.rows[user])


def fit_posterior(
    key: Key[Array, ""], embeddings: Embeddings, starts: SessionStarts, clicked: Float[Array, "U D"]
) -> UserPosterior:
    """Add what the log showed to what its users clicked.

    The exposure is fitted to modes that have not seen it; one Newton step, exact where the clicks' log-likelihood is quadratic,
    then moves each mode by what the user's rows show. The key is consumed; `clicked` are the modes given the clicks alone
    (`encoder.user_states`).
    """
    curvature_key, exposure_key = jax.random.split(key)
    curvature = click_curvature(curvature_key, embeddings, starts, clicked)
    exposure = fit_exposure(exposure_key, embeddings, starts, clicked, leverage_of(curvature))
    rows = rows_of(starts, jnp.arange(clicked.shape[0]))
    # one share for all users, since a precision that is linear in rows has one basis
    share = independent_share(exposure, jnp.sum(rows**2) / jnp.maximum(jnp.sum(rows), 1.0))
    leverage = leverage_of(curvature + share * exposure.precision)
    shown = _sum_by_user(embeddings.vectors, starts, clicked.shape[0])
    gradient = share * read_exposure(exposure, shown, rows, at=clicked)
    return UserPosterior(clicked + leverage.solve(gradient, rows), rows, leverage, exposure, share)


def without_window(
    posterior: UserPosterior, embeddings: Embeddings, history: History, user: Int[Array, "B"]
) -> Float[Array, "B D"]:
    """Return users' modes as they would be without the window's own events: one Newton step back.

    At the mode the gradient over all rows vanishes, so that of the others is minus the window's. Matters where a window is much
    of what the log holds of a user (53 rows on average in KuaiRand): the target must not repeat the condition's own noise. The
    histories' events are rows of the log. Of a user without any nothing is taken out, for nothing was put in.
    """
    held = present(history).astype(jnp.float32)
    mode = posterior.mode[user]
    vectors = embeddings.vectors[history.item]
    logit = jnp.einsum("bhd,bd->bh", vectors, mode) + embeddings.bias[history.item]
    surprise = held * (history.click - jax.nn.sigmoid(logit))
    own = jnp.einsum("bh,bhd->bd", surprise, vectors)
    shown = jnp.einsum("bh,bhd->bd", held, vectors)
    count = history.length.astype(jnp.float32)
    own += posterior.share * read_exposure(posterior.exposure, shown, count, at=mode)
    others = posterior.rows[user] - history.length
    stepped = mode - posterior.leverage.solve(own, jnp.maximum(others, 0.0))
    return jnp.where(others[:, None] >= 0, stepped, mode)


def _sum_by_user(vectors: Float[Array, "V D"], starts: SessionStarts, num_users: int) -> Float[Array, "U D"]:
    """Return the sum of the vectors of each user's rows."""
    num_rows = starts.user.shape[0]

    def add(block: Int[Array, ""], total: Float[Array, "U D"]) -> Float[Array, "U D"]:
        row = block * ROWS_AT_ONCE + jnp.arange(min(ROWS_AT_ONCE, num_rows))
        real = (row < num_rows)[:, None]
        row = jnp.minimum(row, num_rows - 1)
        return total.at[starts.user[row]].add(jnp.where(real, vectors[starts.item[row]], 0.0))

    blocks = -(-num_rows // ROWS_AT_ONCE)
    return jax.lax.fori_loop(0, blocks, add, jnp.zeros((num_users, vectors.shape[1])))
