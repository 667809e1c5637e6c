"""What a policy expects of each group of items, beside what the platform counts, where sessions have memory.

A manager splits a slate between the groups; what the worker could fill either part with is most of what it needs to know, and it
cannot tell from a state that has forgotten the items. Looked up once, when a view is made: updates read it in the rollout.

Shapes: B users, J items, K slate size, M numbers of a context.
"""

from dataclasses import replace

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dsrm_jax.agents.item_values import click_probability_at
from dsrm_jax.agents.slates import FactoredScores, greedy_slate
from dsrm_jax.purify.perception import Perceive, Perception
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.simulator.environment import Observation

BEST = 6  # items of a group whose mean click is expected of it


def expected_clicks(view: View, catalogue: Catalogue) -> Float[Array, "B 2"]:
    """Return the mean predicted click probability of the best `BEST` items of the long tail and of the popular group.

    By the frozen encoder from the state that policies see; what a view excludes is left out, and a group with nothing left has 0.
    """
    scores = FactoredScores(view.state, catalogue.vectors, catalogue.bias)
    size = min(BEST, catalogue.bias.shape[0])
    found = []
    for popular, slots in ((False, 0), (True, size)):
        count = jnp.full(view.state.shape[:1], slots, jnp.int32)
        best = greedy_slate(scores, catalogue.is_popular, count, slate_size=size, excluded=view.excluded)
        mine = catalogue.is_popular[best] == popular
        if view.excluded is not None:
            mine &= ~jnp.take_along_axis(view.excluded, best, axis=1)
        clicks = jnp.sum(jnp.where(mine, click_probability_at(view.state, best, catalogue), 0.0), axis=1)
        found.append(clicks / jnp.maximum(jnp.sum(mine, axis=1), 1))
    return jnp.stack(found, axis=1)


def informed(view: View, catalogue: Catalogue) -> View:
    """Return views whose context also says what is expected of each group; as they are where they have no context."""
    if view.context is None:
        return view
    return replace(view, context=jnp.concatenate([view.context, expected_clicks(view, catalogue)], axis=-1))


def informing(perceive: Perceive, catalogue: Catalogue) -> Perceive:
    """Return what an agent sees of a catalogue's users: `perceive`, `informed`."""

    def look(perception: Perception, key: Key[Array, ""], observation: Observation) -> View:
        return informed(perceive(perception, key, observation), catalogue)

    return look
