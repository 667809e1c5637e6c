"""Inputs that were none: histories with popular or niche clicks put in or left out (P7), exchanged conditions and states (P3).

Shapes: N users, H history length, V vocabulary items, n events changed.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from dsrm_jax.simulator.history import append
from dsrm_jax.simulator.world import History


def insert_clicks(key: Key[Array, ""], history: History, candidates: Int[Array, "C"], *, number: int) -> History:
    """Append clicks on uniformly drawn items to each history; the oldest events fall out.

    Args:
        key: typed PRNG key; consumed.
        history: of N users.
        candidates: `(C,)` vocabulary indices to draw from, such as the popular group.
        number: n, clicks added.
    """
    users = history.item.shape[0]
    item = candidates[jax.random.randint(key, (users, number), 0, candidates.shape[0])]
    return jax.vmap(append)(history, item, jnp.ones((users, number), bool))


def hide_clicks(history: History, group: Bool[Array, "V"], *, number: int) -> Bool[Array, "N H"]:
    """Return which events stay visible when each user's latest clicks on a group's items are left out.

    Args:
        history: of N users.
        group: `(V,)`, whose clicks are hidden.
        number: n, at most so many per user.

    Returns:
        `(N, H)` bool, for `encoder.summarise` and `encoder.gather_evidence`.
    """
    slots = history.item.shape[-1]
    present = jnp.arange(slots) >= slots - history.length[..., None]
    of_group = present & history.click & group[history.item]
    later = jnp.cumsum(of_group[..., ::-1], axis=-1)[..., ::-1]
    return ~(of_group & (later <= number))


def response_ratio(
    raw: Float[ArrayLike, "N D"],
    raw_changed: Float[ArrayLike, "N D"],
    purified: Float[ArrayLike, "N D"],
    purified_changed: Float[ArrayLike, "N D"],
) -> Float[Array, ""]:
    """Return how strongly purified states answer a change of history, relative to raw ones (P7).

    Both displacements are measured in units of their own states' spread, so that shrinking everything gains nothing.

    Returns:
        (rms |d s_hat| / spread(s_hat)) / (rms |d s| / spread(s)), at least 0. 1: as strongly as the raw states, exactly so for
        the identity; 0 for constant purified states or a change that moves nothing.
    """
    moved = [
        _relative_move(jnp.asarray(a), jnp.asarray(b)) for a, b in ((raw, raw_changed), (purified, purified_changed))
    ]
    return jnp.where(moved[0] > 0, moved[1] / jnp.where(moved[0] > 0, moved[0], 1.0), 0.0)


def _relative_move(state: Float[Array, "N D"], changed: Float[Array, "N D"]) -> Float[Array, ""]:
    spread = jnp.sum((state - jnp.mean(state, axis=0)) ** 2)
    moved = jnp.sum((changed - state) ** 2)
    return jnp.sqrt(jnp.where(spread > 0, moved / jnp.where(spread > 0, spread, 1.0), 0.0))


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
