"""Exposure: what a log's choice of items tells about the users whom it showed them to.

A recommender shows people what it takes them to like, so a logged history speaks twice: by what was clicked given what was
shown (`guidance`), and by what was shown. The second voice is read as a linear-Gaussian one,

    vector of a shown item ~ N(mean + slope (x - centre), covariance)   for a user of state x,

with every number estimated on the training log. Events of one user resemble each other beyond what the state explains (one visit,
one topic): two of them share a part `correlation` of their residual, so that n of them tell as much as n / (1 + (n - 1)
correlation) would alone. Where a log shows items whatever the user likes, the slope comes out as nothing, and so does what is
read. Only events that the TRAINING log chose may be read (`Observation.unlogged`): what our own policy shows follows from the
state that it already had, and would be counted twice; what an experiment shows at random tells nothing.

Shapes: D state dimensions, F = D - 1 coordinates in which item vectors differ, W windows of H events.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from dsrm_jax.purify.arrays import States
from dsrm_jax.purify.encoder import Embeddings, present
from dsrm_jax.purify.leverage import Leverage, rows_of
from dsrm_jax.simulator.history import history_before
from dsrm_jax.simulator.world import SessionStarts

WINDOWS = 4_000
WINDOW_LENGTH = 50
RIDGE = 1e-4  # of the mean variance


@struct.dataclass
class Exposure:
    """What one event that the log chose says about its user's state."""

    centre: Float[Array, "D"]  # mean state
    mean: Float[Array, "D"]  # mean vector of a shown item
    gain: Float[Array, "D D"]  # `(vector - mean) @ gain` is the gradient of the log-likelihood at the centre
    precision: Float[Array, "D D"]  # its negative Hessian
    correlation: Float[Array, ""]  # in [0, 1], of the residuals of a user's events: `independent_share`


def silent_exposure(dim: int) -> Exposure:
    """Return the exposure of a log that tells nothing by what it shows."""
    nothing = jnp.zeros((dim, dim))
    return Exposure(nothing[0], nothing[0], nothing, nothing, jnp.zeros(()))


def fit_exposure(
    key: Key[Array, ""], embeddings: Embeddings, starts: SessionStarts, full: Float[Array, "U D"], posterior: Leverage
) -> Exposure:
    """Estimate how the training log's choice of items depends on its users' states.

    The slope is that of a regression of shown vectors on the full-log embeddings. These are posterior modes, whose errors do not
    flatten a slope as far as the factorisation's prior is as wide as preferences are (a wider one flattens, a narrower one
    steepens it). The correlation is a moment estimate: how much wider the windows' sums of residuals spread than those of
    independent events would, after what is due to the embeddings' errors is taken away. The key is consumed. `full` are users'
    full-log embeddings, and `posterior` says how far these may be off.
    """
    rows = jax.random.randint(key, (WINDOWS,), 0, starts.user.shape[0])
    history = jax.vmap(lambda row: history_before(starts, row, length=WINDOW_LENGTH))(rows)
    shown = present(history).astype(jnp.float32)
    vectors = embeddings.vectors[history.item][..., :-1]
    state, count = full[starts.user[rows]], history.length.astype(jnp.float32)
    events = jnp.maximum(jnp.sum(count), 1.0)
    mean = jnp.einsum("wh,whf->f", shown, vectors) / events
    centre = count @ state / events
    x, y = state - centre, shown[..., None] * (vectors - mean)
    moment = _regular(jnp.einsum("w,wd,we->de", count, x, x) / events)
    slope = jnp.linalg.solve(moment, jnp.einsum("whf,wd->df", y, x) / events)
    residual = y - shown[..., None] * (x @ slope)[:, None]
    inverse = jnp.linalg.inv(_regular(jnp.einsum("whf,whg->fg", residual, residual) / events))
    precision = slope @ inverse @ slope.T
    sums = jnp.sum(residual, axis=1)
    pearson = jnp.einsum("wf,fg,wg->", sums, inverse, sums)
    of_errors = jnp.sum(count**2 * posterior.expectation(precision, rows_of(starts, starts.user[rows])))
    pairs = jnp.maximum(jnp.sum(count * (count - 1.0)), 1.0)
    shared = ((pearson - of_errors) / slope.shape[1] - events) / pairs
    gain = jnp.pad(inverse @ slope.T, ((0, 1), (0, 0)))
    return Exposure(centre, jnp.append(mean, 0.0), gain, precision, jnp.clip(shared, 0.0, 1.0))


def independent_share(exposure: Exposure, count: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return what share of a user's `(...)` float32 events would tell as much, were they independent of each other; in (0, 1]."""
    return 1.0 / (1.0 + jnp.maximum(count - 1.0, 0.0) * exposure.correlation)


def read_exposure(exposure: Exposure, shown_sum: States, count: Float[Array, "..."], at: States) -> States:
    """Return the gradient, at a state, of the log-likelihood of what the log showed, its events taken for independent.

    `shown_sum` is the sum of the vectors of the items that the log chose, and `count` their number, both times
    `independent_share`.
    """
    away = shown_sum - count[..., None] * exposure.mean
    # the last coordinate is 1 in every item vector and tells nothing; its row of the gain is 0
    return away @ exposure.gain - count[..., None] * ((at - exposure.centre) @ exposure.precision)


def _regular(matrix: Float[Array, "N N"]) -> Float[Array, "N N"]:
    """Add a ridge to a covariance."""
    size = matrix.shape[0]
    return matrix + (RIDGE * jnp.trace(matrix) / size + 1e-9) * jnp.eye(size)
