"""Compiled programs, and what lets the points of a sweep share them.

A purifier's number of diffusion steps and its schedule decide how often a loop runs and what it reads, not what it does: points
that differ in nothing else are served by one program that takes the reverse process as an argument.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from dsrm_jax.config import AgentConfig, Config
from dsrm_jax.state.perception import PROCESS_AXES, Perception, perception_modules, purifier_settings
from dsrm_jax.state.process import ReverseProcess, at_defaults, padded
from dsrm_jax.training.prepare import Memory

# that a shared program's arrays hold; a process with more levels gets the next multiple
LEVELS = 512


def share(config: Config, perception: Perception) -> tuple[Config, Perception]:
    """Take the reverse process out of a configuration and put it beside the purifier's parameters.

    Where a purifier has no reverse process, or draws noise for every level of it, nothing changes.

    Args:
        config: of a point.
        perception: its purifier, with a leading seed axis.

    Returns:
        `(config, perception)` that mean the same to every program. Equal configurations make equal programs.
    """
    settings = purifier_settings(config)
    _, purifier = perception_modules(config)
    if purifier.process is None or settings.noise_scale != 0:
        return config, perception
    make = purifier.process

    def process_of(params: Any) -> ReverseProcess:
        process = make(params)
        visited = process.schedule.time.shape[0]
        return padded(process, -(-visited // LEVELS) * LEVELS)

    of_seeds = jax.vmap(process_of, out_axes=PROCESS_AXES)(perception.purifier)
    return replace(config, purifier=at_defaults(config.purifier)), replace(perception, process=of_seeds)


def compiled(
    memory: Memory, name: str, config: Config, function: Callable[..., Any], *arguments: Any, **options: Any
) -> Callable[..., Any]:
    """Return a compiled program for some arguments: the last one of its name, where that serves them too.

    Args:
        memory: where the last program of each name is kept.
        name: of the program.
        config: all that `function` is closed over, but the agent's floats, which it takes as an argument.
        function: pure.
        arguments: with the shapes and types that the program is for.
        options: of `jax.jit`.
    """
    types = tuple((jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(arguments))
    structures = jax.tree.structure(config.agent), jax.tree.structure(arguments)
    key = (replace(config, agent=AgentConfig()), *structures, types)
    kept = memory.get(("program", name))
    if kept is None or kept[0] != key:
        memory.pop(("program", name), None)  # two at a time would only take memory
        kept = (key, jax.jit(function, **options).lower(*arguments).compile())
        memory[("program", name)] = kept
    return kept[1]
