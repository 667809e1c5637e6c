"""What a purifier is worth downstream: session length decomposed by its closed form (P10)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from dsrm_jax.agents.yardsticks import make_quota_greedy_purified
from dsrm_jax.config import Config
from dsrm_jax.evaluation.metrics import difference, summarise
from dsrm_jax.evaluation.sessions import Sessions, agent_rule, run_sessions
from dsrm_jax.purify.perception import Perceive, Perception
from dsrm_jax.purify.view import View
from dsrm_jax.runs.pieces import environment_of, perceive_of
from dsrm_jax.runs.prepare import data_key
from dsrm_jax.simulator.environment import Observation
from dsrm_jax.simulator.leave import expected_length
from dsrm_jax.simulator.world import World
from dsrm_jax.types import Json
from experiments.probes.verdicts import PURIFIER, RAW

CONDITIONS = (RAW, "shuffled", "none", PURIFIER)
SESSION_STAGE = 6  # of `data_key`


def downstream_sessions(config: Config, world: World, perception: Perception) -> dict[str, list[Sessions]]:
    """Run half-and-half slates of the highest predicted clicks on each state, for the same users.

    The policy is the same and learns nothing, so that whatever differs is the state's doing.

    Args:
        config: environment, purifier and number of sessions.
        world: the held-out world.
        perception: of one seed.

    Returns:
        Condition to its sessions, host arrays: `identity` acts on the raw states, `shuffled` on other users' purified ones,
        `none` on a constant one, `purifier` on purified ones.
    """
    environment = environment_of(config)
    agent = make_quota_greedy_purified(slate_size=config.environment.slate_size)
    perceive = perceive_of(config)
    settings = config.evaluation

    def seeing(condition: jax.Array) -> Perceive:
        def see(perception: Perception, key: jax.Array, observation: Observation) -> View:
            view = perceive(perception, key, observation)
            other = jnp.roll(view.state, 1, axis=0)
            states = (view.observed, other, jnp.zeros_like(view.state), view.state)
            return view.replace(state=jnp.stack(states)[condition])  # type: ignore[attr-defined]

        return see

    @jax.jit
    def run(key: jax.Array, condition: jax.Array, world: World, perception: Perception) -> Sessions:
        return run_sessions(
            key,
            agent_rule(agent, (), seeing(condition), world, perception),
            environment,
            world,
            num_sessions=settings.num_sessions,
            num_users=settings.num_users,
        )

    key = jax.random.fold_in(data_key(config), SESSION_STAGE)
    return {name: [jax.device_get(run(key, jnp.int32(i), world, perception))] for i, name in enumerate(CONDITIONS)}


def downstream(
    sessions: Mapping[str, list[Sessions]],
    *,
    slate_size: int,
    max_len: int,
    ad_penalty: int = 1,
    step_cap: int = 0,
    confidence: float = 0.95,
    reference: str = RAW,
) -> dict[str, Json]:
    """Compare one policy under several states and say where a longer session comes from (P10).

    Args:
        sessions: condition to one `Sessions` per seed, host arrays, the same users in all.
        slate_size: K.
        max_len: T0.
        ad_penalty: extra temper lost for a slate at or above the bound, in steps.
        step_cap: sessions were cut after this many steps; 0: never.
        confidence: level of the intervals.
        reference: what the others are compared with.

    Returns:
        Condition to `length`, `reward` (R_each) and `broken` (p), each an interval, `length_gain`, the interval of its paired
        difference to the reference, and `decomposition`, `decompose` of that difference.

    Raises:
        KeyError: there are no sessions of the reference.
    """
    results = {
        name: summarise(
            per_seed,
            slate_size=slate_size,
            max_len=max_len,
            confidence=confidence,
            ad_penalty=ad_penalty,
            step_cap=step_cap,
        )
        for name, per_seed in sessions.items()
    }
    base = _averages(results[reference])
    return {
        name: {metric: result[metric] for metric in ("length", "reward", "broken")}
        | {
            "length_gain": difference(
                sessions[name], sessions[reference], slate_size=slate_size, confidence=confidence
            )["length"],
            "decomposition": decompose(_averages(result), base, max_len=max_len, ad_penalty=ad_penalty),
        }
        for name, result in results.items()
    }


def decompose(
    means: Mapping[str, float], base: Mapping[str, float], *, max_len: int, ad_penalty: int = 1
) -> dict[str, float]:
    """Split a difference of mean session lengths into what reward, balance and neither of them explain.

    The closed form (T0 - 1) / (2 - R_each + p) + 1/2 is changed in one factor after the other, and both orders are averaged
    (Shapley), so that the parts add up exactly.

    Args:
        means: `length`, `reward` (R_each) and `broken` (p) of a condition.
        base: the same of the reference.
        max_len: T0.
        ad_penalty: extra temper lost for a slate at or above the bound, in steps.

    Returns:
        `total`, the difference in steps, and its parts `reward`, `broken` and `residual` (what the closed form misses).
    """

    def length(reward: Mapping[str, float], broken: Mapping[str, float]) -> float:
        return expected_length(max_len, reward["reward"], ad_penalty * broken["broken"])

    before, after = length(base, base), length(means, means)
    mixed = length(means, base) - length(base, means)
    change = after - before
    total = means["length"] - base["length"]
    return {"total": total, "reward": (change + mixed) / 2, "broken": (change - mixed) / 2, "residual": total - change}


def _averages(result: Json) -> dict[str, float]:
    return {name: result[name]["mean"] for name in ("length", "reward", "broken")}
