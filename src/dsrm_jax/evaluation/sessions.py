"""Complete held-out sessions, summed exactly: what a policy is judged by.

Shapes: N sessions of one seed, B lanes in parallel, J catalogue items, K slate size.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.slates import greedy_slate
from dsrm_jax.simulator.environment import Environment, EnvState, Observation
from dsrm_jax.simulator.response import click_probability
from dsrm_jax.simulator.world import World
from dsrm_jax.state.encoder import make_catalogue
from dsrm_jax.state.perception import Perceive, Perception

# (agent_state, key, sessions, observation, world, perception) -> slates (B, K)
Decide = Callable[[Any, jax.Array, EnvState, Observation, World, Perception], jax.Array]


@struct.dataclass
class Sessions:
    """Exact sums of N complete sessions, and what was shown in them all together.

    Attributes:
        length: `(N,)` int32, steps until the user left.
        clicks: `(N,)` int32; divided by K it is the session's return R_cum.
        popular: `(N,)` int32, popular items shown.
        imbalance: `(N,)` float32, sum over the session's slates of abs(2s - 1).
        broken: `(N,)` int32, slates at or above the bound.
        step_popular: `(batches, T)` int32, popular items that a batch of sessions under way showed at its step t.
        step_slates: `(batches, T)` int32, slates that it showed then.
        item_count: `(J,)` int32, how often each item was shown.
    """

    length: Int[Array, "N"]
    clicks: Int[Array, "N"]
    popular: Int[Array, "N"]
    imbalance: Float[Array, "N"]
    broken: Int[Array, "N"]
    step_popular: Int[Array, "batches T"]
    step_slates: Int[Array, "batches T"]
    item_count: Int[Array, "J"]


def agent_decisions(agent: Agent, perceive: Perceive, *, greedy: bool) -> Decide:
    """Return the rule by which a trained agent fills slates; `greedy` acts by the policy's mode."""

    def decide(state: Any, key: jax.Array, env: EnvState, observation: Any, world: World, perception: Any) -> Any:
        view_key, act_key = jax.random.split(key)
        view = perceive(perception, view_key, observation)
        catalogue = make_catalogue(perception.encoder.embeddings, world)
        return agent.act(state, act_key, view, catalogue, greedy)[0]

    return decide


def oracle_decisions(*, slate_size: int) -> Decide:
    """Return the ceiling's rule: K/2 of each group by the simulator's own click probability of the user at hand.

    It is greedy about one step, which is optimal where responses do not depend on what was shown before.
    """

    def decide(state: Any, key: jax.Array, env: EnvState, observation: Any, world: World, perception: Any) -> Any:
        everything = jnp.arange(world.num_items)
        probability = jax.vmap(lambda user, history: click_probability(world.response, user, everything, history))(
            env.user, env.history
        )
        quota = jnp.full(env.user.shape, slate_size // 2, jnp.int32)
        return greedy_slate(probability, world.is_popular, quota, slate_size=slate_size)

    return decide


def run_sessions(
    key: Key[Array, ""],
    decide: Decide,
    agent_state: Any,
    environment: Environment,
    world: World,
    perception: Perception,
    *,
    num_sessions: int,
    num_users: int,
) -> Sessions:
    """Run complete sessions from arrival to leaving; pure, to be jitted and vmapped over seeds.

    A session counts from its first step to its last, whoever else is still there, so long sessions weigh as much as short ones.

    Args:
        key: typed PRNG key; consumed.
        decide: how slates are filled, see `agent_decisions`.
        agent_state: the agent's state, handed to `decide`.
        environment: the simulator.
        world: the held-out world.
        perception: frozen encoder and purifier.
        num_sessions: N; rounded up to whole batches of lanes and cut again.
        num_users: B, lanes.
    """
    batches = -(-num_sessions // num_users)
    slate_size, steps = environment.slate_size, environment.max_steps

    def batch(key: jax.Array) -> Any:
        reset_key, run_key = jax.random.split(key)
        observation, env = jax.vmap(environment.reset, in_axes=(0, None))(
            jax.random.split(reset_key, num_users), world
        )

        def step(carry: Any, key: jax.Array) -> Any:
            observation, env, present, imbalance, item_count = carry
            act_key, env_key = jax.random.split(key)
            slate = decide(agent_state, act_key, env, observation, world, perception)
            observation, following, _, terminated, truncated, info = jax.vmap(
                environment.step, in_axes=(0, 0, 0, None)
            )(jax.random.split(env_key, num_users), env, slate, world)
            env = jax.tree.map(lambda new, old: _where(present, new, old), following, env)
            imbalance = imbalance + jnp.where(present, jnp.abs(2 * info["popular_share"] - 1), 0.0)
            item_count = item_count.at[slate].add(present[:, None].astype(jnp.int32))
            popular = jnp.sum(world.is_popular[slate] & present[:, None], dtype=jnp.int32)
            shown = (popular, jnp.sum(present, dtype=jnp.int32))
            return (observation, env, present & ~terminated & ~truncated, imbalance, item_count), shown

        start = (
            observation,
            env,
            jnp.ones(num_users, bool),
            jnp.zeros(num_users, jnp.float32),
            jnp.zeros(world.num_items, jnp.int32),
        )
        (_, env, _, imbalance, item_count), shown = jax.lax.scan(step, start, jax.random.split(run_key, steps))
        return env, imbalance, item_count, shown

    env, imbalance, item_count, (step_popular, step_slates) = jax.lax.map(batch, jax.random.split(key, batches))

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(-1)[:num_sessions]

    return Sessions(
        length=flat(env.time),
        clicks=flat(env.clicks),
        popular=flat(env.popular),
        imbalance=flat(imbalance),
        broken=flat(env.broken),
        step_popular=step_popular,
        step_slates=step_slates,
        item_count=jnp.sum(item_count, axis=0),
    )


def _where(mask: Bool[Array, "B"], new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - 1)), new, old)
