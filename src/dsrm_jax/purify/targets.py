"""What a purifier learns to reconstruct, and what it may look at meanwhile. Nothing here knows more than the training log.

Shapes: B histories of H slots, D state dimensions.
"""

import jax
from jaxtyping import Array, Key

from dsrm_jax.purify.arrays import Scalar
from dsrm_jax.purify.encoder import Encoder, EncoderParams, gather_evidence, summarise
from dsrm_jax.purify.posterior import UserPosterior, without_window
from dsrm_jax.purify.purifier import MASK_RATE, PurifierBatch
from dsrm_jax.purify.settings import PurifierConfig
from dsrm_jax.purify.windows import Windows
from dsrm_jax.simulator.history import unlogged_before


def sample_states(
    key: Key[Array, ""],
    encoder: Encoder,
    params: EncoderParams,
    windows: Windows,
    posterior: UserPosterior,
    *,
    mask_rate: Scalar = MASK_RATE,
    batch_size: int = PurifierConfig.batch_size,
    target: str = "mode",
) -> PurifierBatch:
    """Draw observed states, masked views of the same histories and their users' cleaner states.

    Each view hides its own share of the events, uniform in [0, 2 mask_rate], so that the whole history is within what the
    denoiser has seen.

    Args:
        key: consumed.
        encoder: module of `params`.
        params: trained encoder.
        windows: of training rows.
        posterior: of their users; its mode is their cleaner state.
        mask_rate: mean share of hidden events, in [0, .5].
        batch_size: N.
        target: which cleaner state. `mode`: the posterior's. `full`: the same without what the history's own events say. `draw`:
            a draw about the mode, so that targets vary as preferences do and not as their estimates, which shrink towards the
            mean the more the less the log holds of a user.
    """
    row_key, window_key, rate_key, mask_key, view_key = jax.random.split(key, 5)
    embeddings, starts = params.embeddings, windows.starts
    rows, history = windows.draw(row_key, window_key, batch_size)
    user = starts.user[rows]
    unlogged = jax.vmap(lambda row, n: unlogged_before(starts, row, length=n))(rows, history.length)
    clean = posterior.mode[user]
    if target == "draw":
        clean = posterior.draw(view_key, user)
    if target == "full":
        clean = without_window(posterior, embeddings, history, user)
    hidden = 2 * mask_rate * jax.random.uniform(rate_key, (batch_size, 1))
    visible = jax.random.uniform(mask_key, history.item.shape) >= hidden
    return PurifierBatch(
        state=encoder.encode(params, summarise(embeddings, history)),
        condition=gather_evidence(embeddings, history, visible, unlogged),
        target=clean,
    )
