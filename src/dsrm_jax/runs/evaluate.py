"""Evaluate a trained method and the yardsticks in the held-out simulator, all on the same users."""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dsrm_jax.agents.methods import METHODS, method_of
from dsrm_jax.config import Config
from dsrm_jax.errors import InputError
from dsrm_jax.evaluation.metrics import difference, summarise
from dsrm_jax.evaluation.oracles import oracle_rule
from dsrm_jax.evaluation.sessions import Sessions, agent_rule, any_of, of_each, run_sessions
from dsrm_jax.progress import phase, steps
from dsrm_jax.purify.perception import SEED_AXES, Perception
from dsrm_jax.runs.pieces import agent_of, environment_of, mechanisms_of, perceive_of
from dsrm_jax.runs.prepare import seed_keys
from dsrm_jax.simulator.build import Worlds
from dsrm_jax.simulator.world import World
from dsrm_jax.training.rollout import Act
from dsrm_jax.types import Json, PyTree, Say


def compared_methods(world: World, trained: str) -> list[str]:
    """Return the methods of the closing table: the trained one, the yardsticks and, where the truth is known, the oracle."""
    known = world.preference is not None
    others = (m.name for m in METHODS.values() if not m.learns and (m.make is not None or known))
    return [trained, *(name for name in others if name != trained)]


def rule_of(config: Config, method: str, policy: PyTree, world: World, perception: Perception) -> Act:
    """Return the rule by which a method of `METHODS` fills slates in a world.

    `policy` is its trained state, of one seed as the perception is; `()` where it learns nothing.

    Raises:
        InputError: an unknown method, or the oracle in a world whose truth nobody knows.
    """
    if method_of(method).make is not None:
        agent, greedy = agent_of(config, method), config.evaluation.greedy
        return agent_rule(agent, policy, perceive_of(config), world, perception, greedy=greedy)
    if world.preference is None:
        raise InputError(
            f"method {method} needs users whose true preference is known, which only the embedded synthetic worlds "
            f"have, and data.env={config.data.env!r} was read from files: evaluate one of "
            f"{', '.join(compared_methods(world, config.agent.method))} instead, or leave data.path empty and "
            "the default data folder without files"
        )
    return oracle_rule(environment_of(config), world)


def evaluate_methods(
    config: Config, methods: Sequence[str], agent_state: PyTree, world: World, perception: Perception, say: Say
) -> dict[str, list[Sessions]]:
    """Run complete held-out sessions of several methods for every seed, as one compiled program.

    Args:
        config: of the run; `evaluation` says how many sessions, `training.seeds` which seeds.
        methods: names of `agents.methods.METHODS`.
        agent_state: trained state of `config.agent.method` with a leading seed axis; None where that method learns nothing or is
            not among `methods`. The yardsticks have no state.
        world: the held-out world.
        perception: as trained, one purifier per seed.
        say: told how long compiling and each method took.

    Returns:
        Method to one `Sessions` of host arrays per seed; all methods meet the same users.

    Raises:
        InputError: as `rule_of`.
    """
    environment = environment_of(config)
    trained = () if agent_state is None else agent_state
    states = tuple(trained if method == config.agent.method else () for method in methods)
    size = {"num_sessions": config.evaluation.num_sessions, "num_users": config.evaluation.num_users}

    def run(key: jax.Array, choice: tuple[jax.Array, PyTree], world: World, perception: Perception) -> Sessions:
        index, states = choice
        rules = [rule_of(config, m, own, world, perception) for m, own in zip(methods, states, strict=True)]
        return run_sessions(key, any_of(index, rules), environment, world, **size)

    mapped = jax.jit(jax.vmap(run, in_axes=(0, (None, 0), None, SEED_AXES)))
    keys = seed_keys(config, 2)
    started = time.perf_counter()
    with phase("compiling the evaluation", config.agent.method):
        program = mapped.lower(keys, (jnp.int32(0), states), world, perception).compile()
    say(f"evaluation compiled: {time.perf_counter() - started:.0f} s")
    results = {}
    with steps("evaluating", len(methods)) as report:
        for i, method in enumerate(methods):
            report(i, method)
            started = time.perf_counter()
            sessions = jax.device_get(program(keys, (jnp.int32(i), states), world, perception))
            results[method] = of_each(sessions)
            with report.apart():
                say(f"evaluated {method}: {time.perf_counter() - started:.1f} s")
    return results


def summary_of(config: Config, per_seed: Sequence[Sessions]) -> Json:
    """Return `metrics.summarise` of one `Sessions` per seed; the closed form of Len holds for the paper's leave rule alone."""
    settings = config.environment
    others = any(m.cost or m.leaves or m.returns for m in mechanisms_of(config))
    return summarise(
        per_seed,
        slate_size=settings.slate_size,
        confidence=config.evaluation.confidence,
        max_len=0 if settings.leave or others else settings.max_len,
        ad_penalty=settings.ad_penalty,
        step_cap=settings.step_cap,
    )


def evaluate_all(
    config: Config, agent_state: PyTree, worlds: Worlds, perception: Perception, say: Say
) -> dict[str, Json]:
    """Evaluate the trained method beside every yardstick in the test world; arguments as of `evaluate_methods`.

    It returns method name to what `metrics.summarise` gives, the trained method first, whose result also holds `difference`: of
    each other method, the intervals of `metrics.difference`.
    """
    methods = compared_methods(worlds.test, config.agent.method)
    sessions = evaluate_methods(config, methods, agent_state, worlds.test, perception, say)
    results = {method: summary_of(config, sessions[method]) for method in methods}
    trained, *others = methods
    results[trained]["difference"] = {
        other: difference(
            sessions[trained],
            sessions[other],
            slate_size=config.environment.slate_size,
            confidence=config.evaluation.confidence,
        )
        for other in others
    }
    return results
