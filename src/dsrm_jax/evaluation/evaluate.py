"""Evaluate a trained method and the yardsticks in the held-out simulator, all on the same sessions' keys."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from dsrm_jax.agents.methods import make_agent
from dsrm_jax.agents.yardsticks import YARDSTICKS
from dsrm_jax.config import Config
from dsrm_jax.evaluation.metrics import summarise_seeds
from dsrm_jax.evaluation.sessions import Decide, Sessions, agent_decisions, oracle_decisions, run_sessions
from dsrm_jax.simulator.build import Worlds
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.state.perception import Perception, make_perceive
from dsrm_jax.training.prepare import seed_keys

Say = Callable[[str], None]
SEED_AXES = Perception(None, 0)  # type: ignore[arg-type]


def compared_methods(worlds: Worlds, trained: str) -> list[str]:
    """Return the methods of the closing table: the trained one, the yardsticks and, where the truth is known, the oracle."""
    oracle = ["oracle"] if worlds.test.preference is not None else []
    return [trained, *(m for m in YARDSTICKS if m != trained), *oracle]


def evaluate_method(
    config: Config, method: str, agent_state: Any, worlds: Worlds, perception: Perception
) -> dict[str, Any]:
    """Run complete held-out sessions of one method for every seed and summarise them.

    Args:
        config: of the run; `evaluation` says how many sessions.
        method: a name of `agents.methods.METHODS`.
        agent_state: trained state with a leading seed axis; None for methods that learn nothing.
        worlds: only the test world is used.
        perception: as trained, one purifier per seed.

    Returns:
        What `metrics.summarise_seeds` gives, and `seconds`.
    """
    environment = make_environment(config.environment)
    decide: Decide
    if method == "oracle":
        decide = oracle_decisions(slate_size=config.environment.slate_size)
    else:
        agent = make_agent(replace(config.agent, method=method), slate_size=config.environment.slate_size)
        decide = agent_decisions(agent, make_perceive(config), greedy=config.evaluation.greedy)

    def run(key: jax.Array, state: Any, world: Any, perception: Perception) -> Sessions:
        return run_sessions(
            key,
            decide,
            state,
            environment,
            world,
            perception,
            num_sessions=config.evaluation.num_sessions,
            num_users=min(config.evaluation.num_users, config.evaluation.num_sessions),
        )

    started = time.perf_counter()
    mapped = jax.jit(jax.vmap(run, in_axes=(0, 0, None, SEED_AXES)))
    state = () if agent_state is None else agent_state
    sessions = jax.tree.map(np.asarray, mapped(seed_keys(config, 2), state, worlds.test, perception))
    per_seed = [jax.tree.map(lambda x, i=i: x[i], sessions) for i in range(len(config.training.seeds))]
    result = summarise_seeds(
        per_seed,
        slate_size=config.environment.slate_size,
        max_len=config.environment.max_len,
        confidence=config.evaluation.confidence,
    )
    return result | {"seconds": time.perf_counter() - started}


def evaluate_all(
    config: Config, agent_state: Any, worlds: Worlds, perception: Perception, say: Say
) -> dict[str, dict[str, Any]]:
    """Evaluate the trained method beside every yardstick.

    Returns:
        Method name to `evaluate_method`'s result, the trained method first.
    """
    results = {}
    for method in compared_methods(worlds, config.agent.method):
        state = agent_state if method == config.agent.method else None
        results[method] = evaluate_method(config, method, state, worlds, perception)
        say(f"evaluated {method}: {results[method]['seconds']:.0f} s")
    return results
