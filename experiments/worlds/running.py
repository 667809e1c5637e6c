"""A platform that runs: where a user leaves another comes, and the price of popular exposure goes on from where it was.

Sessions that begin together at a price of 0 (`paired`) are over before the price has moved; a platform has yesterday's.

Shapes: B users, T steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dsrm_jax.simulator.environment import Environment
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import Act, Step, play

# a step moves a price by a tenth of the share's error; that of sessions by .16 for a price of 1
USERS, STEPS = 256, 480


class Running(NamedTuple):
    """What all users together were shown and earned, step by step."""

    share: Float[Array, "T"]  # popular, of all that was shown
    price: Float[Array, "T"]  # of a popular share of 1, charged for the step
    ended: Int[Array, "T"]  # sessions
    returned: Float[Array, "T"]  # R_cum of those, summed


def play_running(
    key: jax.Array, act: Act, environment: Environment, world: World, *, num_users: int = USERS, num_steps: int = STEPS
) -> Running:
    """Let users come and go in a world whose platform has a price; the key is consumed."""

    def keep(_: jax.Array, step: Step) -> Running:
        ended = step.info["ended"]
        earned = jnp.where(ended, step.info["session_return"], 0.0)
        shown = jnp.mean(step.info["popular_share"])
        return Running(shown, jnp.mean(step.info["price"]), jnp.sum(ended, dtype=jnp.int32), jnp.sum(earned))

    found: Running = play(key, act, environment, world, keep, num_users=num_users, num_steps=num_steps)[1]
    return found
