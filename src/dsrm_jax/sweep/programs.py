"""Compiled programs that points share."""

from collections.abc import Callable
from dataclasses import replace

import jax
from jax.stages import Compiled

from dsrm_jax.config import AgentConfig, Config
from dsrm_jax.runs.memory import Memory
from dsrm_jax.types import PyTree


def compiled(
    memory: Memory,
    name: str,
    config: Config,
    function: Callable[..., PyTree],
    *arguments: PyTree,
    donate_argnums: int | None = None,
) -> Compiled:
    """Return a compiled program for arguments of some shapes and types: the last one of its name, where that serves them too.

    `memory` keeps the last program of each name. `config` is all that the pure `function` is closed over, but the agent's floats,
    which it takes as an argument. `jax.ShapeDtypeStruct`s will do for arguments.
    """
    types = tuple((x.shape, x.dtype) for x in jax.tree.leaves(jax.eval_shape(lambda *x: x, *arguments)))
    structures = jax.tree.structure(config.agent), jax.tree.structure(arguments)
    key = (replace(config, agent=AgentConfig()), *structures, types)
    kept = memory.get(("program", name))
    if kept is None or kept[0] != key:
        memory.pop(("program", name), None)  # two at a time would only take memory
        kept = (key, jax.jit(function, donate_argnums=donate_argnums).lower(*arguments).compile())
        memory[("program", name)] = kept
    return kept[1]
