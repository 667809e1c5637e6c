"""Complete held-out sessions, summed exactly: what a policy is judged by.

Shapes: N sessions of one seed, B lanes in parallel, T steps, J catalogue items, K slate size.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int, Key

from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.slates import greedy_slate
from dsrm_jax.purify.encoder import make_catalogue
from dsrm_jax.purify.perception import Perceive, Perception
from dsrm_jax.simulator.environment import Environment, EnvState, Observation
from dsrm_jax.simulator.world import World

# (agent_state, key, sessions, observation, world, perception) -> slates (B, K); the key is consumed
Decide = Callable[[Any, jax.Array, EnvState, Observation, World, Perception], jax.Array]

T = TypeVar("T")


@struct.dataclass
class Sessions:
    """Exact integer sums of N complete sessions, and what was shown in them all together.

    Attributes:
        length: `(N,)` int32, steps until the user left (or `step_cap` cut the session).
        clicks: `(N,)` int32; divided by K it is the session's return R_cum.
        popular: `(N,)` int32, popular items shown.
        imbalance: `(N,)` int32, sum over the session's slates of |2n - K|, n their popular items; divided by K
            it is the sum of abs(2s - 1).
        broken: `(N,)` int32, slates at or above the bound.
        step_popular: `(batches, T)` int32, popular items that a batch of sessions showed at its step t.
        step_slates: `(batches, T)` int32, slates that it showed then, one per session still under way.
        item_count: `(J,)` int32, how often each item was shown.
    """

    length: Int[Array, "N"]
    clicks: Int[Array, "N"]
    popular: Int[Array, "N"]
    imbalance: Int[Array, "N"]
    broken: Int[Array, "N"]
    step_popular: Int[Array, "batches T"]
    step_slates: Int[Array, "batches T"]
    item_count: Int[Array, "J"]


def agent_decisions(agent: Agent, perceive: Perceive, *, greedy: bool) -> Decide:
    """Return the rule by which a trained agent fills slates; `greedy` acts by the policy's mode."""

    def decide(
        state: Any,
        key: jax.Array,
        env: EnvState,
        observation: Observation,
        world: World,
        perception: Perception,
    ) -> jax.Array:
        view_key, act_key = jax.random.split(key)
        view = perceive(perception, view_key, observation)
        catalogue = make_catalogue(perception.encoder.embeddings, world)
        return agent.act(state, act_key, view, catalogue, greedy)[0]

    return decide


def oracle_decisions(*, slate_size: int) -> Decide:
    """Return the ceiling's rule: K/2 of each group by the simulator's own click probability of the user at hand.

    It is greedy about one step, which is optimal under an even K where responses do not depend on what was
    shown before. An odd K gives the long tail the extra slot.
    """

    def decide(
        state: Any,
        key: jax.Array,
        env: EnvState,
        observation: Observation,
        world: World,
        perception: Perception,
    ) -> jax.Array:
        everything = jnp.arange(world.num_items)
        probability = jax.vmap(world.response.click_probability, in_axes=(0, None, 0))(
            env.user, everything, env.history
        )
        quota = jnp.full(env.user.shape, slate_size // 2, jnp.int32)
        return greedy_slate(probability, world.is_popular, quota, slate_size=slate_size)

    return decide


def any_of(rules: Sequence[Decide]) -> Decide:
    """Return one rule that is each of several in turn, so that methods can share one compiled program.

    Most of what is compiled is the environment and not the method: one program for six methods compiles in a
    third of the time of six, and runs the branch of one method alone.

    Args:
        rules: what to choose from.

    Returns:
        A rule whose `agent_state` is `(index, states)`: `()` int32, which rule, and a tuple of every rule's own
        state. Map `index` over nothing, or all branches are computed.
    """

    def decide(
        state: Any,
        key: jax.Array,
        env: EnvState,
        observation: Observation,
        world: World,
        perception: Perception,
    ) -> jax.Array:
        index, states = state

        def branch(rule: Decide, own: Any) -> Callable[[], jax.Array]:
            return lambda: rule(own, key, env, observation, world, perception)

        return jax.lax.switch(index, [branch(rule, own) for rule, own in zip(rules, states, strict=True)])

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

    A session counts from its first step to its last, whoever else is still there, so long sessions weigh as
    much as short ones, and nothing that is shown to a user who has left counts anywhere. The users who arrive
    and the randomness they respond with depend on the key alone: under the same key two rules meet the same
    users, session by session (`metrics.difference`).

    Args:
        key: typed PRNG key; consumed.
        decide: how slates are filled, see `agent_decisions`.
        agent_state: the agent's state, handed to `decide`.
        environment: the simulator.
        world: the held-out world.
        perception: frozen encoder and purifier.
        num_sessions: N, positive; the last batch leaves the lanes empty that it does not need.
        num_users: B, lanes, positive.

    Returns:
        Sums of exactly N sessions; T is `environment.max_steps`, batches is N / B rounded up.
    """
    batches = -(-num_sessions // num_users)
    wanted = jnp.arange(batches * num_users).reshape(batches, num_users) < num_sessions

    def batch(inputs: tuple[jax.Array, jax.Array]) -> Any:
        key, wanted = inputs
        reset_key, run_key = jax.random.split(key)
        observation, env = jax.vmap(environment.reset, in_axes=(0, None))(
            jax.random.split(reset_key, num_users), world
        )
        step = _make_step(decide, agent_state, environment, world, perception)
        start = (observation, env, wanted, jnp.zeros_like(env.time), jnp.zeros(world.num_items, jnp.int32))
        (_, env, _, imbalance, item_count), shown = jax.lax.scan(
            step, start, jax.random.split(run_key, environment.max_steps)
        )
        return (env.time, env.clicks, env.popular, imbalance, env.broken), item_count, shown

    per_session, item_count, (step_popular, step_slates) = jax.lax.map(
        batch, (jax.random.split(key, batches), wanted)
    )
    length, clicks, popular, imbalance, broken = (x.reshape(-1)[:num_sessions] for x in per_session)
    return Sessions(
        length=length,
        clicks=clicks,
        popular=popular,
        imbalance=imbalance,
        broken=broken,
        step_popular=step_popular,
        step_slates=step_slates,
        item_count=jnp.sum(item_count, axis=0),
    )


def of_each(stacked: T) -> list[T]:
    """Return the parts of a pytree of arrays along its leading axis: of each seed's sessions their own."""
    return [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(len(jax.tree.leaves(stacked)[0]))]


def _make_step(
    decide: Decide, agent_state: Any, environment: Environment, world: World, perception: Perception
) -> Callable[[Any, jax.Array], Any]:
    """Build the body of a batch's scan; only lanes that are still present move and are counted."""
    slate_size = environment.slate_size

    def step(carry: Any, key: jax.Array) -> Any:
        observation, env, present, imbalance, item_count = carry
        act_key, env_key = jax.random.split(key)
        slate = decide(agent_state, act_key, env, observation, world, perception)
        observation, following, _, _, _, info = jax.vmap(environment.step, in_axes=(0, 0, 0, None))(
            jax.random.split(env_key, present.shape[0]), env, slate, world
        )
        env = jax.tree.map(lambda new, old: _where(present, new, old), following, env)
        num_popular = jnp.sum(world.is_popular[slate], axis=1, dtype=jnp.int32)
        imbalance = imbalance + jnp.where(present, jnp.abs(2 * num_popular - slate_size), 0)
        item_count = item_count.at[slate].add(present[:, None].astype(jnp.int32))
        shown = (jnp.sum(jnp.where(present, num_popular, 0)), jnp.sum(present, dtype=jnp.int32))
        return (observation, env, present & ~info["ended"], imbalance, item_count), shown

    return step


def _where(mask: Bool[Array, "B"], new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - 1)), new, old)
