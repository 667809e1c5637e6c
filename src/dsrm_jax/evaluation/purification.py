"""Whether purification happened: how far states moved (P1), what leaked (P2), what was recovered (P6)."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from dsrm_jax.purify.encoder import Encoder
from dsrm_jax.purify.perception import Perception
from dsrm_jax.purify.posterior import UserPosterior
from dsrm_jax.purify.purifier import Purifier
from dsrm_jax.purify.targets import sample_states
from dsrm_jax.purify.windows import Windows


@struct.dataclass
class Change:
    """How far purified states moved from observed ones (P1)."""

    # mean of |s_hat - s| / |s| over states; below .01 the purifier is the identity, whatever its loss says
    relative: Float[Array, ""]
    cosine: Float[Array, ""]  # mean cosine of s_hat and s, in [-1, 1]
    # linear CKA of the two sets, in [0, 1]; 1: same geometry up to rotation and scale; near 0: what the states said of
    # their users is lost
    cka: Float[Array, ""]


def change(state: Float[Array, "N D"], purified: Float[Array, "N D"]) -> Change:
    """Measure how far purification moved the states (P1); zero states count as norm 1e-12."""
    norm = jnp.maximum(jnp.linalg.norm(state, axis=-1), 1e-12)
    purified_norm = jnp.maximum(jnp.linalg.norm(purified, axis=-1), 1e-12)
    relative = jnp.mean(jnp.linalg.norm(purified - state, axis=-1) / norm)
    cosine = jnp.mean(jnp.sum(state * purified, axis=-1) / (norm * purified_norm))
    return Change(relative, cosine, linear_cka(state, purified))


def linear_cka(x: Float[Array, "N D"], y: Float[Array, "N E"]) -> Float[Array, ""]:
    """Return linear centred kernel alignment |Y'X|_F^2 / (|X'X|_F |Y'Y|_F) of centred columns, in [0, 1].

    Invariant to rotations and to one scale per argument; 0 where either argument is constant. Source: Kornblith et al. 2019.
    """
    x = x - jnp.mean(x, axis=0)
    y = y - jnp.mean(y, axis=0)
    norm = jnp.linalg.norm(x.T @ x) * jnp.linalg.norm(y.T @ y)
    return jnp.where(norm > 0, jnp.sum((y.T @ x) ** 2) / jnp.where(norm > 0, norm, 1.0), 0.0)


def oracle_recovery(
    state: Float[Array, "N D"], purified: Float[Array, "N D"], clean: Float[Array, "N D"]
) -> Float[Array, ""]:
    """Return the share of contamination removed (P6), 1 - sum |s_hat - s*|^2 / sum |s - s*|^2.

    For worlds whose clean states s* are known. 1: all of it; 0: none, exactly so for the identity; negative:
    purification did harm.
    """
    return 1.0 - jnp.sum((purified - clean) ** 2) / jnp.sum((state - clean) ** 2)


def probe_perception(
    key: Key[Array, ""],
    encoder: Encoder,
    purifier: Purifier,
    perception: Perception,
    windows: Windows,
    posterior: UserPosterior,
    *,
    num_states: int = 2000,
) -> dict[str, Float[Array, ""]]:
    """Measure P1, P2 and P6 of a trained purifier on histories of users it need not have seen.

    The key is consumed. `perception` is trained, of one seed; a `process` of its own serves instead of the purifier's.
    `num_states` histories are drawn from `windows` of the users to probe, whose posterior's mode without the window's own events
    stands for the clean state, so that no kind is rewarded for what it shares with the target's own estimate.

    Returns:
        `change` (P1, relative), `cosine`, `cka`, `recovery` (P6) and, of diffusion models, `leak` (P2: error at k = 1 over the
        unconditional floor; below .2 the condition contains the target), each `()` float32.
    """
    batch_key, purify_key, leak_key = jax.random.split(key, 3)
    batch = sample_states(
        batch_key, encoder, perception.encoder, windows, posterior, mask_rate=0.0, batch_size=num_states, target="full"
    )
    params, process = perception.purifier, perception.process
    given = () if process is None else (process,)
    purified = purifier.purify(params, purify_key, batch.state, batch.condition, *given)
    moved = change(batch.state, purified)
    found = {
        "change": moved.relative,
        "cosine": moved.cosine,
        "cka": moved.cka,
        "recovery": oracle_recovery(batch.state, purified, batch.target),
    }
    if process is None and purifier.process is not None:
        process = purifier.process(params)
    if purifier.leak is not None and process is not None:
        found["leak"] = purifier.leak(params, leak_key, batch, process.lowest)[0]
    return found
