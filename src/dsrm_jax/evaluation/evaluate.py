"""A trained policy's numbers on complete held-out sessions: what `dsrm_jax.evaluate` does."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from dsrm_jax.agents.agent import Agent
from dsrm_jax.evaluation.metrics import summarise
from dsrm_jax.evaluation.sessions import Sessions, agent_rule, of_each, run_sessions
from dsrm_jax.evaluation.settings import EvaluationConfig
from dsrm_jax.purify.perception import Perceive, Perception
from dsrm_jax.simulator.environment import Environment
from dsrm_jax.simulator.world import World
from dsrm_jax.types import Json, PyTree


def evaluate(
    key: Key[Array, "..."],
    environment: Environment,
    agent: Agent,
    policy: PyTree,
    world: World,
    perception: Perception,
    perceive: Perceive,
    *,
    num_sessions: int = EvaluationConfig.num_sessions,
    num_users: int = EvaluationConfig.num_users,
    greedy: bool = EvaluationConfig.greedy,
    confidence: float = EvaluationConfig.confidence,
    perception_axes: Perception | None = None,
) -> Json:
    """Run complete sessions of a trained policy, of one seed or of several at once, and summarise them.

    Under the same key two policies meet the same users (`metrics.difference` of `run_sessions` uses that).

    Args:
        key: typed PRNG key, or `(N,)` of them, one per seed; consumed.
        environment: the simulator.
        agent: the method.
        policy: what `make_train`'s program learnt; with a leading axis N where `key` has one.
        world: the held-out world.
        perception: frozen encoder and purifier.
        perceive: what the agent sees, from `make_perceive`.
        num_sessions: of each seed.
        num_users: sessions in parallel.
        greedy: act by the policy's mode instead of a sample.
        confidence: level of the intervals, in (0, 1).
        perception_axes: of `jax.vmap`, where each seed has a purifier of its own (`SEED_AXES`); None: all share one.

    Returns:
        What `metrics.summarise` gives: of `length` (Len), `reward` (R_each), `return` (R_cum), `ad` and the others
        `{"mean", "low", "high"}`, and under `seeds` each seed's own numbers.
    """

    def run(key: jax.Array, policy: PyTree, world: World, perception: Perception) -> Sessions:
        act = agent_rule(agent, policy, perceive, world, perception, greedy=greedy)
        return run_sessions(key, act, environment, world, num_sessions=num_sessions, num_users=num_users)

    if key.ndim == 0:
        key, policy = key[None], jax.tree.map(lambda x: jnp.asarray(x)[None], policy)
    every_seed = jax.jit(jax.vmap(run, in_axes=(0, 0, None, perception_axes)))
    sessions = of_each(jax.device_get(every_seed(key, policy, world, perception)))
    return summarise(sessions, slate_size=environment.slate_size, confidence=confidence)
