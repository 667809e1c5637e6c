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
    """Return a compiled program for some arguments: the last one of its name, where that serves them too.

    Args:
        memory: where the last program of each name is kept.
        name: of the program.
        config: all that `function` is closed over, but the agent's floats, which it takes as an argument.
        function: pure.
        arguments: with the shapes and types that the program is for; `jax.ShapeDtypeStruct`s will do.
        donate_argnums: of `jax.jit`.
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
