"""What a purifier learns to reconstruct, and what it may look at meanwhile: the choices of `PurifierConfig.target`.

Nothing here knows more than the training log. Shapes: B histories of H slots, D state dimensions.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from dsrm_jax.purify.arrays import Scalar
from dsrm_jax.purify.encoder import Encoder, EncoderParams, gather_evidence, present, summarise
from dsrm_jax.purify.posterior import UserPosterior, without_window
from dsrm_jax.purify.purifier import PurifierBatch
from dsrm_jax.purify.settings import PurifierConfig
from dsrm_jax.purify.windows import Windows
from dsrm_jax.simulator.history import unlogged_before
from dsrm_jax.simulator.world import History, SessionStarts
from dsrm_jax.types import PyTree

PROPENSITY_EXPONENT = 0.5
POPULARITY_ROWS = 500_000


@struct.dataclass
class Visited:
    """Histories that a policy made in the training simulator."""

    history: History  # `(M, H)`
    user: Int[Array, "M"]  # users of the training world


def sample_states(
    key: Key[Array, ""],
    encoder: Encoder,
    params: EncoderParams,
    windows: Windows,
    posterior: UserPosterior,
    *,
    mask_rate: Scalar = PurifierConfig.mask_rate,
    batch_size: int = PurifierConfig.batch_size,
    target: str = "mode",
    visited: Visited | None = None,
) -> PurifierBatch:
    """Draw observed states, masked views of the same histories and their users' cleaner states.

    Each view hides its own share of the events, uniform in [0, 2 mask_rate], so that the whole history is within what the
    denoiser has seen.

    Args:
        key: consumed.
        encoder: module of `params`.
        params: trained encoder.
        windows: of training rows.
        posterior: of their users; its mode is their cleaner state (or what `training.random_exposure` shows of them).
        mask_rate: mean share of hidden events, in [0, .5].
        batch_size: N.
        target: which cleaner state. `mode`: the posterior's. `draw`: a draw about it, so that targets vary as preferences do and
            not as their estimates, which shrink towards the mean the more the less the log holds of a user. Or a choice of
            `PurifierConfig.target`, of which `random_exposure` is the mode too.
        visited: histories that a policy made in the training simulator; every second one of the batch is drawn from them. No
            event of a session is a row of the log.
    """
    row_key, window_key, rate_key, mask_key, view_key, visit_key = jax.random.split(key, 6)
    embeddings, starts = params.embeddings, windows.starts
    rows, history = windows.draw(row_key, window_key, batch_size)
    user = starts.user[rows]
    unlogged = jax.vmap(lambda row, n: unlogged_before(starts, row, length=n))(rows, history.length)
    clean = posterior.mode[user]
    if target == "draw":
        clean = posterior.draw(view_key, user)
    if target == "full":
        clean = without_window(posterior, embeddings, history, user)
    if visited is not None:
        drawn = jax.random.randint(visit_key, (batch_size,), 0, visited.user.shape[0])
        fresh = jax.tree.map(lambda x: x[drawn], visited)
        played = (fresh.history, posterior.mode[fresh.user], fresh.history.length)
        history, clean, unlogged = every_second(played, (history, clean, unlogged))
    hidden = 2 * mask_rate * jax.random.uniform(rate_key, (batch_size, 1))
    visible = jax.random.uniform(mask_key, history.item.shape) >= hidden
    seen, other = history, None
    if target == "popularity_corruption":
        seen = corrupted(view_key, history, starts, hidden)
        visible = other = jnp.ones_like(visible)
    elif target in ("split_half", "inverse_propensity"):
        visible, other = halves(view_key, history, starts, thin=target == "inverse_propensity")
    if other is not None:
        clean = encoder.encode(params, summarise(embeddings, history, other))
    return PurifierBatch(
        state=encoder.encode(params, summarise(embeddings, seen)),
        condition=gather_evidence(embeddings, seen, visible, unlogged),
        target=clean,
    )


def halves(
    key: Key[Array, ""], history: History, starts: SessionStarts, *, thin: bool
) -> tuple[Bool[Array, "B H"], Bool[Array, "B H"]]:
    """Return two disjoint random halves of the events, one to look at and one to reconstruct; the key is consumed.

    With `thin`, events of the second half are kept with probability min(1, (median / pop)^.5) only, pop being how often the log
    shows the item and the median one over the histories' events: over draws a sum weighted by clipped inverse propensities.
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


def corrupted(key: Key[Array, ""], history: History, starts: SessionStarts, rate: Float[Array, "B 1"]) -> History:
    """Replace each event with probability `rate` by a row of the whole log, as everybody is shown them; the key is consumed."""
    which_key, row_key = jax.random.split(key)
    replaced = present(history) & (jax.random.uniform(which_key, history.item.shape) < rate)
    rows = jax.random.randint(row_key, history.item.shape, 0, starts.user.shape[0])
    return History(
        item=jnp.where(replaced, starts.item[rows], history.item),
        click=jnp.where(replaced, starts.click[rows], history.click),
        length=history.length,
    )


def every_second(fresh: PyTree, logged: PyTree) -> PyTree:
    """Return rows of two batches in turn: the first from `logged`, the second from `fresh`."""

    def mix(new: jax.Array, old: jax.Array) -> jax.Array:
        odd = jnp.arange(old.shape[0]) % 2 == 1
        return jnp.where(odd.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(mix, fresh, logged)
