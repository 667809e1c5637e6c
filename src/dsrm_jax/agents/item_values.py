"""Q-values of every item of a catalogue, and the replay that value-based agents learn them from.

An item's value is Q(s, i) = E[r_i + gamma V(s')], where V(s) is the mean of Q over the K shown items: SlateQ's
decomposition with equal weights, so that V is the discounted sum of the slates' mean rewards. A single Q of the whole
slate, the sum of its items' (facts/methods.md 3.6), leaves single items undetermined: one may rise as another falls.

Shapes: B users, J items, K slate size, D state dimensions, E = D + 3 item features.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.agents.agent import Rollout, transitions
from dsrm_jax.agents.networks import MLP, features
from dsrm_jax.agents.replay import Replay, start_replay
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import Catalogue


@struct.dataclass
class Experience:
    """What a value is learnt from: `Transition` without what no value needs.

    Attributes:
        state, next_state: `(N, D)` float32.
        time, next_time: `(N,)` int32, steps taken in the session.
        slate: `(N, K)` int32 catalogue positions.
        clicks: `(N, K)` bool.
        terminated: `(N,)` bool, nothing follows.
    """

    state: Float[Array, "N D"]
    time: Int[Array, "N"]
    slate: Int[Array, "N K"]
    clicks: Bool[Array, "N K"]
    terminated: Bool[Array, "N"]
    next_state: Float[Array, "N D"]
    next_time: Int[Array, "N"]


class ItemValues(nn.Module):
    """Weights of Q on the item features: `(state (..., D), time (...)) -> (..., E + 1)`; they start at zero.

    The last one is common to all items; it carries the part of the value that no choice changes, so that the others need not.
    """

    hidden: int

    @nn.compact
    def __call__(self, state: Float[Array, "... D"], time: Int[Array, "..."]) -> Float[Array, "... E+1"]:
        """Return the weights."""
        return MLP(self.hidden, state.shape[-1] + 4)(features(state, time))


def collected(rollout: Rollout) -> Experience:
    """Return a rollout's N = T B steps as experience."""
    step = transitions(rollout)
    return Experience(
        state=step.view.state,
        time=step.view.time,
        slate=step.slate,
        clicks=step.clicks,
        terminated=step.terminated,
        next_state=step.next_view.state,
        next_time=step.next_view.time,
    )


def start_experience(catalogue: Catalogue, *, slate_size: int, capacity: int) -> Replay:
    """Return an empty buffer of `Experience`."""
    dim = catalogue.vectors.shape[1]

    def row(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    count, slots = row(dtype=jnp.int32), (slate_size,)
    held = Experience(
        state=row(dim),
        time=count,
        slate=row(*slots, dtype=jnp.int32),
        clicks=row(*slots, dtype=jnp.bool_),
        terminated=row(dtype=jnp.bool_),
        next_state=row(dim),
        next_time=count,
    )
    return start_replay(held, capacity=capacity)


def click_probability(state: Float[Array, "B D"], catalogue: Catalogue) -> Float[Array, "B J"]:
    """Return the click that the frozen encoder predicts for every item, in [0, 1]: what every Q is anchored at."""
    return jax.nn.sigmoid(state @ catalogue.vectors.T + catalogue.bias)


def click_probability_at(
    state: Float[Array, "B D"], slate: Int[Array, "B K"], catalogue: Catalogue
) -> Float[Array, "B K"]:
    """Return `click_probability` of the given items alone."""
    logit = jnp.einsum("...d,...kd->...k", state, catalogue.vectors[slate])
    return jax.nn.sigmoid(logit + catalogue.bias[slate])


def correction(weights: Float[Array, "B E+1"], item: Float[Array, "J E"]) -> Float[Array, "B J"]:
    """Return what `ItemValues` adds to the anchor, for every item."""
    return weights[:, :-1] @ item.T + weights[:, -1:]


def correction_at(
    weights: Float[Array, "B E+1"], item: Float[Array, "J E"], slate: Int[Array, "B K"]
) -> Float[Array, "B K"]:
    """Return `correction` of the given items alone, at the cost of those."""
    return jnp.einsum("be,bke->bk", weights[:, :-1], item[slate]) + weights[:, -1:]


def one_step_target(
    reward: Float[Array, "B K"],
    terminated: Bool[Array, "B"],
    next_value: Float[Array, "B"],
    *,
    discount: float | Float[Array, ""],
) -> Float[Array, "B K"]:
    """Return r_k + gamma (1 - terminated) V(s'), each item's own reward and what follows the slate."""
    return reward + discount * jnp.where(terminated, 0.0, next_value)[:, None]


def exposure_of(catalogue: Catalogue, method: str) -> tuple[Float[Array, "J"], Float[Array, "J"]]:
    """Return how often the training log shows each item, and how often it was clicked.

    Raises:
        InputError: the catalogue has no such counts.
    """
    if catalogue.exposure is None or catalogue.clicked is None:
        raise InputError(
            f"{method} needs Catalogue.exposure and Catalogue.clicked, which are None: "
            "make the catalogue with make_catalogue from a World that has both"
        )
    return catalogue.exposure, catalogue.clicked
