"""Complete sessions of a learner or a rule, slate by slate, that meet the same users whoever acts.

Shapes: N sessions, T steps, K slate size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dsrm_jax.simulator.environment import Environment, EnvState, Observation
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import Act, Step, play, until_left


class Recorded(NamedTuple):
    """What N sessions came to; of users who come back, all their sessions together."""

    user: Int[Array, "N"]
    length: Int[Array, "N"]  # steps
    returned: Float[Array, "N"]  # R_cum
    counts: Int[Array, "T N"]  # `(T, N)` int8, popular items of each slate, -1 once the user has left


def play_paired(key: jax.Array, act: Act, environment: Environment, world: World, *, num_sessions: int) -> Recorded:
    """Let users arrive as they do in the world, all together, and each go through one session; the key is consumed.

    Who arrives, and with which luck, depends on the key alone. Once nobody is left nothing is looked at any more; under `vmap` it
    would be.
    """
    size = environment.slate_size

    def rule(key: jax.Array, state: tuple[EnvState, Array], observation: Observation) -> tuple[Array, tuple[()]]:
        env, present = state
        nothing = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (num_sessions, size))
        return jax.lax.cond(jnp.any(present), lambda: act(key, env, observation)[0], lambda: nothing), ()

    def keep(_: jax.Array, step: Step) -> Array:
        count = jnp.sum(world.is_popular[step.slate], axis=1)
        return jnp.where(step.env[1], count, -1).astype(jnp.int8)

    (env, _), counts = play(
        key, rule, until_left(environment), world, keep, num_users=num_sessions, num_steps=environment.max_steps
    )
    return Recorded(env.user, env.time, env.clicks / size, counts)
