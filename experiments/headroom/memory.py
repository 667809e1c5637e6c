"""What a user's own history says of each item beyond what their state promises: the greedy policy that also remembers items.

Item vectors have few coordinates and are learnt from few rows, so that an item has an appeal to a user of which they say nothing,

    logit of a click = <state, vector> + bias + appeal,    appeal ~ N(0, spread) for each user and item.

Sessions show few items again and again, and soon know it: given the state, a Newton step from 0 puts an appeal at spread S / (1 +
spread W), S the sum of click - p over the events that showed the item, W that of p (1 - p). What this rule earns beyond greedy
slates says what a state that is a vector cannot hold, and what a policy can win by learning which items the log overrates.

Shapes: B users, J items, H events, K slate size.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.slates import greedy_slate, head_slots
from dsrm_jax.purify.encoder import present
from dsrm_jax.purify.perception import Perceive, Perception
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.simulator.environment import Observation
from dsrm_jax.simulator.history import History
from dsrm_jax.types import PyTree

SPREAD = (
    0.3  # of the appeals, in squared logits; on kuairand's world for choosing .1 earns a little less, .3 to 1 the same
)


@struct.dataclass
class Remembering(View):
    """A view that also holds what is known of each item's appeal to the user."""

    appeal: Float[Array, "... J"] = struct.field(kw_only=True)


def appeal_of(
    history: History, state: Float[Array, "B D"], catalogue: Catalogue, *, spread: float = SPREAD
) -> Float[Array, "B J"]:
    """Return the appeal of each item to users who have a state and a history `(B, H)`; 0 of items that they were not shown."""
    assert catalogue.position is not None
    number, users = catalogue.bias.shape[0], jnp.arange(state.shape[0])[:, None]
    position = jnp.where(present(history), catalogue.position[history.item], -1)
    held, position = position >= 0, jnp.where(position >= 0, position, 0)
    chance = jax.nn.sigmoid(jnp.einsum("bhd,bd->bh", catalogue.vectors[position], state) + catalogue.bias[position])

    def by_item(values: Float[Array, "B H"]) -> Float[Array, "B J"]:
        return jnp.zeros((state.shape[0], number)).at[users, position].add(jnp.where(held, values, 0.0))

    surprise, curvature = by_item(history.click - chance), by_item(chance * (1.0 - chance))
    return spread * surprise / (1.0 + spread * curvature)


def remembering(perceive: Perceive, catalogue: Catalogue, *, spread: float = SPREAD) -> Perceive:
    """Return `perceive`, whose views are `Remembering`."""

    def look(perception: Perception, key: Key[Array, ""], observation: Observation) -> View:
        view = perceive(perception, key, observation)
        return Remembering(**vars(view), appeal=appeal_of(observation.history, view.state, catalogue, spread=spread))

    return look


def make_remembering(*, slate_size: int) -> Agent:
    """Return the policy of K/2 items of each group with the highest predicted click logit, their appeal added."""

    def act(
        agent: PyTree, key: jax.Array, view: Remembering, catalogue: Catalogue, greedy: bool = False
    ) -> tuple[jax.Array, tuple[()]]:
        scores = view.state @ catalogue.vectors.T + catalogue.bias + view.appeal
        slots = head_slots("half", scores.shape[0], slate_size=slate_size)
        return greedy_slate(scores, catalogue.is_popular, slots, slate_size=slate_size, excluded=view.excluded), ()

    return Agent(lambda key, catalogue, logged=None: (), act, lambda agent, *_: (agent, {}), grouped=True)
