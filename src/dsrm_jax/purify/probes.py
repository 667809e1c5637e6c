"""Probes that say whether purification happened: P1, P2, P3 and P6."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from dsrm_jax.purify.schedule import Schedule


@struct.dataclass
class Change:
    """How far purified states moved from observed ones (P1).

    Attributes:
        relative: mean of |s_hat - s| / |s| over states; below .01 the purifier is the identity, whatever its
            loss says.
        cosine: mean cosine of s_hat and s, in [-1, 1].
        cka: linear CKA of the two sets, in [0, 1]; 1: same geometry up to rotation and scale; near 0: what
            the states said of their users is lost.
    """

    relative: Float[Array, ""]
    cosine: Float[Array, ""]
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

    Invariant to rotations and to one scale per argument; 0 where either argument is constant.
    Source: Kornblith et al. 2019.
    """
    x = x - jnp.mean(x, axis=0)
    y = y - jnp.mean(y, axis=0)
    norm = jnp.linalg.norm(x.T @ x) * jnp.linalg.norm(y.T @ y)
    return jnp.where(norm > 0, jnp.sum((y.T @ x) ** 2) / jnp.where(norm > 0, norm, 1.0), 0.0)


def gaussian_floor(target: Float[Array, "N D"], schedule: Schedule) -> Float[Array, "S"]:
    """Return the eps error of the best UNCONDITIONAL Gaussian denoiser at each level (P2).

    It is the mean of alpha_bar v / (alpha_bar v + 1 - alpha_bar) over eigenvalues v of the targets'
    covariance.

    Args:
        target: `(N, D)` float32 in the coordinates that the denoiser works in (normalised).
        schedule: leaves `(S,)`.
    """
    variance = jnp.maximum(jnp.linalg.eigvalsh(jnp.atleast_2d(jnp.cov(target, rowvar=False))), 0.0)
    kept = schedule.alpha_bar[:, None] * variance
    return jnp.mean(kept / (kept + schedule.noise[:, None] ** 2), axis=-1)


def leak_ratio(losses: Float[Array, "S"], floor: Float[Array, "S"]) -> Float[Array, "S"]:
    """Return the denoiser's eps error over `gaussian_floor` at each level (P2).

    About 1: no better than an unconditional Gaussian. Moderately below 1: the condition informs, as it
    should. Below .2 at k = 1, where the noise is far smaller than any honest uncertainty: the condition
    contains the target, and the reverse process only copies it (the identity trap).
    """
    return losses / floor


def oracle_recovery(
    state: Float[Array, "N D"], purified: Float[Array, "N D"], clean: Float[Array, "N D"]
) -> Float[Array, ""]:
    """Return the share of contamination removed (P6), 1 - sum |s_hat - s*|^2 / sum |s - s*|^2.

    For worlds whose clean states s* are known. 1: all of it; 0: none, exactly so for the identity; negative:
    purification did harm.
    """
    return 1.0 - jnp.sum((purified - clean) ** 2) / jnp.sum((state - clean) ** 2)


def sensitivity(output: Float[Array, "N D"], changed: Float[Array, "N D"]) -> Float[Array, ""]:
    """Return how far outputs move when one input is exchanged for other users' or for nothing (P3).

    Args:
        output: `(N, D)` float32, purified states.
        changed: `(N, D)` float32, the same with the condition (or the noised state) shuffled or emptied.

    Returns:
        Root mean square move over the outputs' root mean square distance from their mean. 0: the input is ignored;
        about sqrt(2): nothing but a shuffled input matters. 0 for constant outputs that stay where they are.
    """
    spread = jnp.sum((output - jnp.mean(output, axis=0)) ** 2)
    moved = jnp.sum((changed - output) ** 2)
    return jnp.sqrt(moved / jnp.maximum(spread, 1e-12))
