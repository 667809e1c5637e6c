"""Complete held-out sessions, summed exactly: what a policy is judged by.

Shapes: N sessions of one seed, B lanes in parallel, T steps, J catalogue items, K slate size.
"""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key

from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.expected import informing
from dsrm_jax.evaluation.settings import EvaluationConfig
from dsrm_jax.purify.encoder import make_catalogue
from dsrm_jax.purify.perception import Perceive, Perception
from dsrm_jax.simulator.environment import Environment, EnvState, Observation
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import Act, Step, play, until_left
from dsrm_jax.types import PyTree

T = TypeVar("T")


@struct.dataclass
class Sessions:
    """Exact sums of N complete sessions, and what was shown in them all together."""

    length: Int[Array, "N"]  # steps until the user left (or `step_cap` cut the session)
    clicks: Int[Array, "N"]  # divided by K it is the session's return R_cum
    popular: Int[Array, "N"]  # popular items shown
    # sum over the session's slates of |2n - K|, n their popular items; divided by K it is the sum of abs(2s - 1)
    imbalance: Int[Array, "N"]
    broken: Int[Array, "N"]  # slates at or above the bound
    step_popular: Int[Array, "batches T"]  # popular items that a batch of sessions showed at its step t
    step_slates: Int[Array, "batches T"]  # slates that it showed then, one per session still under way
    item_count: Int[Array, "J"]  # how often each item was shown
    # summed rewards where the environment has one of its own (in floats, not exact); None elsewhere
    total: Float[Array, "N"] | None = None
    visits: Int[Array, "N"] | None = (
        None  # sessions in a row of a user who may come back, of which all sums are; None elsewhere
    )


def agent_rule(
    agent: Agent, policy: PyTree, perceive: Perceive, world: World, perception: Perception, *, greedy: bool = True
) -> Act:
    """Return the rule by which an agent of trained state `policy` fills slates, by its mode (`greedy`) or by a sample."""
    catalogue = make_catalogue(perception.encoder.embeddings, world)
    look = informing(perceive, catalogue)

    def act(key: jax.Array, env: EnvState, observation: Observation) -> tuple[jax.Array, PyTree]:
        view_key, act_key = jax.random.split(key)
        view = look(perception, view_key, observation)
        return agent.act(policy, act_key, view, catalogue, greedy)[0], ()

    return act


def any_of(index: Int[Array, ""], rules: Sequence[Act]) -> Act:
    """Return the rule of an index, so that methods can share one compiled program.

    Most of what is compiled is the environment and not the method: one program for six methods compiles in a third of the time of
    six, and runs the branch of one method alone. Map `index` over nothing, or all branches are computed.
    """

    def act(key: jax.Array, env: EnvState, observation: Observation) -> tuple[jax.Array, PyTree]:
        return jax.lax.switch(index, list(rules), key, env, observation)

    return act


def run_sessions(
    key: Key[Array, ""],
    act: Act,
    environment: Environment,
    world: World,
    *,
    num_sessions: int = EvaluationConfig.num_sessions,
    num_users: int = EvaluationConfig.num_users,
) -> Sessions:
    """Run complete sessions from arrival to leaving; pure, to be jitted and vmapped over seeds.

    A session counts from its first step to its last, whoever else is still there, so long sessions weigh as much as short ones,
    and nothing that is shown to a user who has left counts anywhere. The users who arrive and the randomness they respond with
    depend on the key alone: under the same key two rules meet the same users, session by session (`metrics.difference`).

    Args:
        key: typed PRNG key; consumed.
        act: how slates are filled, `(key, env, observation) -> (slates, record)`: see `agent_rule`.
        environment: the simulator.
        world: the held-out world.
        num_sessions: N, positive; the last batch leaves the lanes empty that it does not need.
        num_users: B, lanes, positive; at most N are made.

    Returns:
        Sums of exactly N sessions; T is `environment.max_steps`, batches is N / B rounded up.
    """
    num_users = min(num_users, num_sessions)
    batches = -(-num_sessions // num_users)
    wanted = jnp.arange(batches * num_users).reshape(batches, num_users) < num_sessions

    def keep(_: jax.Array, step: Step) -> tuple[jax.Array, ...]:
        return jnp.sum(world.is_popular[step.slate], axis=1, dtype=jnp.int32), step.env[1], step.slate

    def batch(inputs: tuple[jax.Array, jax.Array]) -> tuple[PyTree, ...]:
        key, wanted = inputs
        (env, _), (num_popular, present, slate) = play(
            key,
            lambda key, state, observation: act(key, state[0], observation),
            until_left(environment),
            world,
            keep,
            num_users=num_users,
            num_steps=environment.max_steps,
        )
        present &= wanted
        imbalance = jnp.where(present, jnp.abs(2 * num_popular - environment.slate_size), 0)
        seen = jnp.broadcast_to(present[..., None], slate.shape).astype(jnp.int32)
        item_count = jnp.zeros(world.num_items, jnp.int32).at[slate].add(seen)
        shown = jnp.sum(jnp.where(present, num_popular, 0), axis=1), jnp.sum(present, axis=1, dtype=jnp.int32)
        sums = env.time, env.clicks, env.popular, jnp.sum(imbalance, axis=0), env.broken, env.total, env.visits
        return sums, item_count, shown

    per_session, item_count, (step_popular, step_slates) = jax.lax.map(batch, (jax.random.split(key, batches), wanted))
    length, clicks, popular, imbalance, broken, total, visits = jax.tree.map(
        lambda x: x.reshape(-1)[:num_sessions], per_session
    )
    return Sessions(
        length=length,
        clicks=clicks,
        popular=popular,
        imbalance=imbalance,
        broken=broken,
        step_popular=step_popular,
        step_slates=step_slates,
        item_count=jnp.sum(item_count, axis=0),
        total=total,
        visits=visits,
    )


def of_each(stacked: T) -> list[T]:
    """Return the parts of a pytree of arrays along its leading axis: of each seed's sessions their own."""
    return [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(len(jax.tree.leaves(stacked)[0]))]
