"""Q-values of every item of a catalogue, as methods of one value an item learn them.

An item's value is Q(s, i) = E[r_i + gamma V(s')], where V(s) is the mean of Q over the K shown items: SlateQ's decomposition (Ie
et al. 2019) with equal weights, so that V is the discounted sum of the slates' mean rewards. A single Q of the whole slate, the
sum of its items' (the DQN of github.com/1163710212/HER4IF), leaves single items undetermined: one may rise as another falls.

Shapes: B users, J items, K slate size, D state dimensions, E = D + 3 item features.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from dsrm_jax.agents.agent import Rollout, transitions
from dsrm_jax.agents.networks import MLP
from dsrm_jax.agents.replay import Experience, experience
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import Catalogue


class ItemValues(nn.Module):
    """Weights of Q on the item features: `features (..., D + 1) -> (..., E + 1)`; they start at zero.

    The last one is common to all items; it carries the part of the value that no choice changes, so that the others need not.
    """

    hidden: int

    @nn.compact
    def __call__(self, features: Float[Array, "... D+1"], dim: int | None = None) -> Float[Array, "... E+1"]:
        """Return the weights; D = `dim` where the features hold what the platform counts, too."""
        return MLP(self.hidden, (features.shape[-1] - 1 if dim is None else dim) + 4)(features)


def collected(rollout: Rollout) -> Experience:
    """Return a rollout's N = T B slates and clicks as experience."""
    found = transitions(rollout)
    return experience(found, found.slate, found.clicks)


def click_probability(state: Float[Array, "B D"], catalogue: Catalogue) -> Float[Array, "B J"]:
    """Return the click that the frozen encoder predicts for every item, in [0, 1]: what every Q is anchored at.

    The state may have other numbers after its D, which are not looked at.
    """
    return jax.nn.sigmoid(_own(state, catalogue) @ catalogue.vectors.T + catalogue.bias)


def click_probability_at(
    state: Float[Array, "B D"], slate: Int[Array, "B K"], catalogue: Catalogue
) -> Float[Array, "B K"]:
    """Return `click_probability` of the given items alone."""
    logit = jnp.einsum("...d,...kd->...k", _own(state, catalogue), catalogue.vectors[slate])
    return jax.nn.sigmoid(logit + catalogue.bias[slate])


def _own(state: Float[Array, "... D+M"], catalogue: Catalogue) -> Float[Array, "... D"]:
    return state[..., : catalogue.vectors.shape[-1]]


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
