"""Controls of a trained manager: the same parameters, but goals that do not fit the user they are for.

A manager that earns by telling users and moments apart must lose it under them.

Shapes: B users, D state dimensions, M numbers of a context.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.dsrm_hrl import DSRM_HRL
from dsrm_jax.agents.methods import AgentConfig, keywords_of
from dsrm_jax.agents.networks import Manager


def _half(goal: Float[Array, "B 2"], time: Array) -> Float[Array, "B 2"]:
    """Half and half for everybody: what the trained worker earns on its own."""
    return jnp.zeros_like(goal)


def _alike(goal: Float[Array, "B 2"], time: Array) -> Float[Array, "B 2"]:
    """The mean of all users' goals for everybody, at each step."""
    return jnp.broadcast_to(jnp.mean(goal, axis=0), goal.shape)


def _shuffled(goal: Float[Array, "B 2"], time: Array) -> Float[Array, "B 2"]:
    """Another user's goal, always the same other user's."""
    return goal[jax.random.permutation(jax.random.key(0), goal.shape[0])]


def _random(goal: Float[Array, "B 2"], time: Array) -> Float[Array, "B 2"]:
    """The goal of somebody drawn anew at each step."""
    key = jax.random.fold_in(jax.random.key(0), jnp.max(time))
    return goal[jax.random.randint(key, goal.shape[:1], 0, goal.shape[0])]


CONTROLS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {"half": _half, "alike": _alike, "shuffled": _shuffled, "random": _random}
)


class Controlled(nn.Module):
    """`networks.Manager` by its own parameters, its mean goal changed."""

    manager: Manager
    change: Callable[..., Array]

    def apply(self, variables: Any, state: Array, time: Array, *context: Array) -> Any:  # type: ignore[override]
        """Return mean, log deviation and value."""
        mean, log_std, value = self.manager.apply(variables, state, time, *context)  # type: ignore[misc]
        return self.change(mean, time), log_std, value

    def init(self, key: jax.Array, state: Array, time: Array, *context: Array) -> Any:  # type: ignore[override]
        """Return the manager's own parameters."""
        return self.manager.init(key, state, time, *context)


def controlled(index: Int[Array, ""], config: AgentConfig, *, slate_size: int) -> Agent:
    """Return DSRM-HRL, at index 0 as it is and then under each of `CONTROLS`, for parameters trained without that."""
    changes = [lambda goal, time: goal, *CONTROLS.values()]

    def change(goal: Float[Array, "B 2"], time: Array) -> Float[Array, "B 2"]:
        return jax.lax.switch(index, changes, goal, time)

    keywords = keywords_of(DSRM_HRL, replace(config, method=DSRM_HRL.name))
    keywords["manager"] = Controlled(Manager(config.hidden, config.goal_log_deviation), change)
    assert DSRM_HRL.make is not None
    made: Agent = DSRM_HRL.make(slate_size=slate_size, **keywords)
    return made
