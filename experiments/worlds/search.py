"""A setting of a method's, its discount, say, searched for it alone: trained at each of a few values, measured by sessions of
the training simulator.

Data seeds are to be others than those of the learners' table; one training seed each; nothing held out is looked at.

Shapes: C values, N sessions.
"""

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.methods import AgentConfig, check_method, make_agent
from dsrm_jax.cli.commands import write_json
from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.evaluation.sessions import agent_rule
from dsrm_jax.purify.perception import Perception
from dsrm_jax.runs.memory import Memory
from dsrm_jax.runs.pieces import encoder_of, perceive_of, purifier_of
from dsrm_jax.runs.prepare import seed_keys
from dsrm_jax.simulator.world import World
from dsrm_jax.training.loop import make_trainer
from dsrm_jax.types import Json, PyTree, Say
from experiments.worlds.learners import BUDGETS, LEARNT, TINY, TRAINING_SEEDS, Setting, of_seed
from experiments.worlds.paired import play_paired


def setting_of(text: str) -> tuple[str, list[float]]:
    """Read `field=value,value`.

    Raises:
        InputError: a text that is not of this form.
    """
    field, _, values = text.partition("=")
    try:
        return field.strip(), [float(value) for value in values.split(",")]
    except ValueError:
        raise InputError(f"search is {text!r}, expected field=value,value: manager_discount=0.8,0.9, say") from None


def search(
    *,
    env: str,
    worlds: Sequence[str],
    seeds: Sequence[int],
    methods: Sequence[str],
    state: str,
    field: str,
    values: Sequence[float],
    tiny: bool,
    json: str,
    say: Say,
) -> Json:
    """Measure, write the numbers after each world, data seed and method, and return them: a row each, R_cum of each value.

    `field` is one of `AgentConfig`'s that hold a float, `values` what it is set to, `json` the file to write to (empty: none).

    Raises:
        InputError: an unknown world, method or field.
    """
    for world in worlds:
        if world not in LEARNT:
            raise unknown_name("world", world, LEARNT)
    for method in methods:
        check_method(method)
    searched = [f.name for f in fields(AgentConfig) if isinstance(f.default, float)]
    if field not in searched:
        raise unknown_name("setting to search", field, searched)
    result: Json = {"env": env, "state": state, "training_seed": TRAINING_SEEDS[0], "rows": []}
    memories: dict[int, Memory] = {seed: {} for seed in seeds}
    for seed in seeds:
        for world in worlds:
            budget = TINY if tiny else BUDGETS[world]
            setting = Setting(env, world, seed, state, budget, memories[seed], say, TRAINING_SEEDS[:1])
            for method in methods:
                began = time.monotonic()
                earned = earned_at(setting, method, field, values).astype(np.float64)
                row: Json = {"world": world, "seed": seed, "method": method, "field": field, "values": [*values]}
                row["earned"] = earned.mean(axis=1).tolist()
                best = earned[np.argmax(earned.mean(axis=1))]  # differences to it are paired: the same users arrive
                error = (earned - best).std(axis=1) / np.sqrt(earned.shape[1])
                result["rows"].append(row | {"error_of_difference": error.tolist()})
                said = ", ".join(f"{c:g} {x:.2f}" for c, x in zip(values, row["earned"], strict=True))
                say(f"{world}, data seed {seed}, {method} by {field}: {said} ({time.monotonic() - began:.0f} s)")
                write_json(json, result)
    return result


def earned_at(setting: Setting, method: str, field: str, values: Sequence[float]) -> Float[np.ndarray, "C N"]:
    """Return R_cum of sessions of the training simulator, by policies trained at each value in one program."""
    config, budget = setting.config, setting.budget
    encoder, purifier, perceive = encoder_of(config), purifier_of(config), perceive_of(config)
    environment, perception = setting.environment, of_seed(setting.prepared.perception, 0)
    length = config.training.rollout_length
    updates = max(budget.steps // (budget.num_users * length), 1)

    def agent_at(value: Array) -> Agent:
        changed: dict[str, Any] = {"method": method, field: value}
        chosen = replace(config.agent, **changed)
        return make_agent(chosen, slate_size=environment.slate_size)

    def train(value: Array, key: jax.Array, world: World, perception: Perception) -> PyTree:
        trainer = make_trainer(
            environment, agent_at(value), encoder, purifier, num_users=budget.num_users, rollout_length=length
        )
        return trainer.train(trainer.init(key, world, perception), world, perception, updates)[0].agent

    @jax.jit
    def program(values: Array, key: jax.Array, world: World, perception: Perception) -> Array:
        policies = jax.vmap(train, in_axes=(0, None, None, None))(values, key, world, perception)

        def played(one: tuple[Array, PyTree]) -> Array:
            act = agent_rule(agent_at(one[0]), one[1], perceive, world, perception)
            return play_paired(setting.choose_key, act, environment, world, num_sessions=budget.sessions).returned

        return jax.lax.map(played, (values, policies))  # one by one, so that each ends with its last session

    key = seed_keys(config, 0)[0]
    found = program(jnp.asarray(values, jnp.float32), key, setting.prepared.worlds.train, perception)
    return np.asarray(found)
