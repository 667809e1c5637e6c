"""Rules that know what only the simulator knows: what a policy can be told from without having learnt anything.

Shapes: B users, J catalogue items, K slate size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.slates import greedy_slate
from dsrm_jax.simulator import mechanism as remembering
from dsrm_jax.simulator.environment import Environment, EnvState, Observation
from dsrm_jax.simulator.mechanism import Memories
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


def myopic_rule(environment: Environment, world: World) -> Act:
    """Return the rule that shows the K items that are likeliest to be clicked now, whatever follows from it."""

    def act(key: jax.Array, env: EnvState, observation: Observation) -> tuple[jax.Array, PyTree]:
        probability = chances(environment, env, world)
        return greedy_slate(probability, world.is_popular, None, slate_size=environment.slate_size), ()

    return act


def aware_rule(environment: Environment, world: World) -> Act:
    """Return the rule that looks one step ahead: of the best slates of 0 to K popular items the one that is worth most.

    A slate is worth its clicks, less the temper that it costs beside the paper's 2 - r, and the clicks of the myopic slate that
    would follow it. Temper is worth r / (2 - r) clicks a step, r the myopic slate's: so many the session would earn with it. What
    a mechanism draws at a step is drawn once, alike for all slates; one that looks at clicks is told those of chance over 1/2.
    """
    slate_size, mechanisms = environment.slate_size, environment.mechanisms

    def best(probability: Float[Array, "J"], num_popular: Int[Array, ""] | None) -> Int[Array, "K"]:
        quota = None if num_popular is None else num_popular[None]
        return greedy_slate(probability[None], world.is_popular, quota, slate_size=slate_size)[0]

    def of_user(key: jax.Array, env: EnvState) -> Int[Array, "K"]:
        probability = _chances(environment, env, world)
        myopic = jnp.mean(probability[best(probability, None)])
        worth = myopic / (2 - myopic)

        def value(num_popular: Int[Array, ""]) -> tuple[Float[Array, ""], Int[Array, "K"]]:
            slate = best(probability, num_popular)
            shown = probability[slate]
            value = (1 + worth) * jnp.mean(shown) - worth * _extra_cost(environment, env, slate, world) / slate_size
            if env.memory is not None:
                memory = remembering.advance(key, mechanisms, env.memory, env.user, slate, shown > 0.5, world)
                following = _chances(environment, env.replace(memory=memory), world)  # type: ignore[attr-defined]
                value += (1 + worth) * jnp.mean(following[best(following, None)])
            return value, slate

        values, slates = jax.vmap(value)(jnp.arange(slate_size + 1, dtype=jnp.int32))
        return slates[jnp.argmax(values)]

    def act(key: jax.Array, env: EnvState, observation: Observation) -> tuple[jax.Array, PyTree]:
        return jax.vmap(of_user)(jax.random.split(key, env.user.shape[0]), env), ()

    return act


def chances(environment: Environment, env: EnvState, world: World) -> Float[Array, "B J"]:
    """Return how likely each of B users is to click each item now, given what they remember."""
    return jax.vmap(lambda one: _chances(environment, one, world))(env)


def _chances(environment: Environment, env: EnvState, world: World) -> Float[Array, "J"]:
    everything = jnp.arange(world.num_items)
    if environment.mechanisms:
        return environment.chance(env, everything, world)
    return world.response.click_probability(env.user, everything, env.history)


def _extra_cost(environment: Environment, env: EnvState, slate: Int[Array, "K"], world: World) -> Int[Array, ""]:
    """Return the temper that a slate costs beside 2 - r, in units of 1/K of a step, of a leave rule that has temper."""
    cost, leave = jnp.zeros((), jnp.int32), environment.leave
    if leave.charge is not None:
        no_clicks = jnp.zeros(slate.shape, bool)
        num_popular = jnp.sum(world.is_popular[slate], dtype=jnp.int32)
        cost += env.temper - leave.step(env.temper, no_clicks, num_popular)[0] - 2 * slate.shape[0]
    memory: Memories | None = env.memory
    return (
        cost
        if memory is None
        else cost + remembering.total_cost(environment.mechanisms, memory, env.user, slate, world)
    )
