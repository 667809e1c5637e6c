"""Rules that know what only the simulator knows: what a policy can be told from without having learnt anything.

Shapes: B users, J catalogue items, K slate size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.slates import greedy_slate
from dsrm_jax.simulator.environment import Environment, EnvState, Observation
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import Act
from dsrm_jax.types import PyTree


def oracle_rule(environment: Environment, world: World, *, num_popular: int | Int[Array, ""] | None = None) -> Act:
    """Return the ceiling's rule: K/2 of each group by the simulator's own click probability of the user at hand.

    It is greedy about one step, which is optimal under an even K where responses do not depend on what was
    shown before. An odd K gives the long tail the extra slot. `num_popular` is another number of popular items, `()` int32.
    """
    slate_size = environment.slate_size
    half = slate_size // 2 if num_popular is None else num_popular

    def act(key: jax.Array, env: EnvState, observation: Observation) -> tuple[jax.Array, PyTree]:
        quota = jnp.broadcast_to(jnp.asarray(half, jnp.int32), env.user.shape)
        return greedy_slate(chances(environment, env, world), world.is_popular, quota, slate_size=slate_size), ()

    return act


def chances(environment: Environment, env: EnvState, world: World) -> Float[Array, "B J"]:
    """Return how likely each of B users is to click each item now, given what they remember."""
    return jax.vmap(lambda one: _chances(environment, one, world))(env)


def _chances(environment: Environment, env: EnvState, world: World) -> Float[Array, "J"]:
    everything = jnp.arange(world.num_items)
    if environment.mechanisms:
        return environment.chance(env, everything, world)
    return world.response.click_probability(env.user, everything, env.history)
