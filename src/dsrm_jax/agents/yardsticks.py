"""Policies that learn nothing: the floor, the free lunch and the ceiling that every learner is held against."""

from typing import Any

import jax
import jax.numpy as jnp

from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.block_slates import FactoredScores, greedy_slate, sample_slate
from dsrm_jax.purify.view import Catalogue, View

YARDSTICKS = ("random", "quota_random", "quota_greedy", "quota_greedy_purified")
SOFTMAX = "quota_softmax"  # no yardstick, but the behaviour that offline methods may learn from


def make_yardstick(method: str, *, slate_size: int) -> Agent:
    """Build a yardstick by name.

    * `random`: K items uniformly without repeats from the whole catalogue.
    * `quota_random`: K/2 popular and K/2 long-tail items, uniformly in each group.
    * `quota_greedy`: K/2 of each group, the items with the highest click that the frozen encoder predicts from the
      observed state.
    * `quota_greedy_purified`: the same from the purified state: what purification gains without any learning to act.
    * `quota_softmax`: K/2 of each group, drawn from the softmax of those clicks' logits.

    Args:
        method: one of `YARDSTICKS`, or `quota_softmax`.
        slate_size: K; an odd K gives the long tail the extra slot.
    """
    half = slate_size // 2

    def scores(view: View, catalogue: Catalogue) -> FactoredScores:
        state = view.state if method == "quota_greedy_purified" else view.observed
        return FactoredScores(state, catalogue.vectors, catalogue.bias)

    def act(agent: Any, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False) -> Any:
        batch = view.state.shape[0]
        quota = None if method == "random" else jnp.full((batch,), half, jnp.int32)
        if method in ("random", "quota_random"):
            flat = FactoredScores(jnp.zeros((batch, 1)), jnp.zeros((catalogue.is_popular.shape[0], 1)))
            slate, _ = sample_slate(key, flat, catalogue.is_popular, quota, slate_size=slate_size)
            return slate, ()
        if method == SOFTMAX:
            slate, _ = sample_slate(
                key, scores(view, catalogue), catalogue.is_popular, quota, slate_size=slate_size
            )
            return slate, ()
        return greedy_slate(scores(view, catalogue), catalogue.is_popular, quota, slate_size=slate_size), ()

    return Agent(
        init=lambda key, catalogue, logged=None: (),
        act=act,
        update=lambda agent, key, rollout, catalogue: (agent, {}),
    )
