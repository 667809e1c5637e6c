"""Policies that learn nothing: the floor, the free lunch and the ceiling that every learner is held against."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dsrm_jax.agents.agent import Agent, Method
from dsrm_jax.agents.settings import Head
from dsrm_jax.agents.slates import FactoredScores, greedy_slate, head_slots, sample_slate
from dsrm_jax.purify.settings import PURIFYING
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.types import PyTree


def make_random(*, slate_size: int = EnvironmentConfig.slate_size) -> Agent:
    """Return the policy that shows K items uniformly without repeats from the whole catalogue."""
    return _rule(_nothing, slate_size=slate_size, draws=True, head="own")


def make_quota_random(*, slate_size: int = EnvironmentConfig.slate_size) -> Agent:
    """Return the policy of K/2 popular and K/2 long-tail items, uniform in each; an odd K gives the long tail one more."""
    return _rule(_nothing, slate_size=slate_size, draws=True)


def make_quota_greedy(*, slate_size: int = EnvironmentConfig.slate_size) -> Agent:
    """Return the policy of K/2 items of each group, the likeliest clicks by the frozen encoder from the observed state."""
    return _rule(lambda view: view.observed, slate_size=slate_size)


def make_quota_greedy_purified(*, slate_size: int = EnvironmentConfig.slate_size) -> Agent:
    """Return the same from the purified state: what purification gains without any learning to act."""
    return _rule(lambda view: view.state, slate_size=slate_size)


def make_quota_softmax(*, slate_size: int = EnvironmentConfig.slate_size) -> Agent:
    """Return the policy of K/2 items of each group from the softmax of those logits: what offline methods may learn from."""
    return _rule(lambda view: view.observed, slate_size=slate_size, draws=True)


def _nothing(view: View) -> None:
    return None


def _rule(
    state_of: Callable[[View], Float[Array, "B D"] | None], *, slate_size: int, draws: bool = False, head: Head = "half"
) -> Agent:
    """Return the agent that scores items by the encoder's click logit in a state, all alike where there is none."""

    def act(
        agent: PyTree, key: jax.Array, view: View, catalogue: Catalogue, greedy: bool = False
    ) -> tuple[jax.Array, tuple[()]]:
        batch, num_items = view.state.shape[0], catalogue.is_popular.shape[0]
        slots = head_slots(head, batch, slate_size=slate_size)
        state = state_of(view)
        if state is None:
            scores = FactoredScores(jnp.zeros((batch, 1)), jnp.zeros((num_items, 1)))
        else:
            scores = FactoredScores(state, catalogue.vectors, catalogue.bias)
        barred = view.excluded
        if draws:
            return sample_slate(key, scores, catalogue.is_popular, slots, slate_size=slate_size, excluded=barred)[0], ()
        return greedy_slate(scores, catalogue.is_popular, slots, slate_size=slate_size, excluded=barred), ()

    return Agent(
        init=lambda key, catalogue, logged=None: (),
        act=act,
        update=lambda agent, key, rollout, catalogue: (agent, {}),
        grouped=head == "half",
    )


RANDOM = Method("random", "random", "yardstick: items drawn uniformly", make_random, draws=True, learns=False)
QUOTA_RANDOM = Method(
    "quota_random",
    "random, half and half",
    "yardstick: half popular, half long tail, drawn uniformly",
    make_quota_random,
    draws=True,
    learns=False,
)
QUOTA_GREEDY = Method(
    "quota_greedy",
    "greedy, half and half",
    "yardstick: half and half, ranked by the frozen encoder's clicks from the observed state",
    make_quota_greedy,
    learns=False,
    rival=True,
)
QUOTA_GREEDY_PURIFIED = Method(
    "quota_greedy_purified",
    "greedy, purified state",
    "yardstick: the same from the purified state",
    make_quota_greedy_purified,
    state=PURIFYING,
    learns=False,
    rival=True,
)
ORACLE = Method("oracle", "oracle", "knows the simulator's click probabilities; in tables only", None, learns=False)
