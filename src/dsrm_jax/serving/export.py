"""Write a trained policy (purify, goal, slate) with `jax.export` to one versioned file.

Shapes: B users (free), H history length, K slate size.
"""

import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jaxtyping import Array, Bool, Int

from dsrm_jax.config import Config
from dsrm_jax.config.serialise import to_json
from dsrm_jax.data.log import InteractionLog
from dsrm_jax.errors import InputError
from dsrm_jax.files import write_bytes
from dsrm_jax.purify.encoder import make_catalogue
from dsrm_jax.purify.perception import Perception
from dsrm_jax.runs.pieces import agent_of, perceive_of
from dsrm_jax.serving.load import FORMAT, ITEMS, META, PROGRAM
from dsrm_jax.simulator.environment import Observation
from dsrm_jax.simulator.world import History, World

ALWAYS_RANDOM = ("random", "quota_random")  # an exported program draws nothing
Recommend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
PLATFORMS = ("cpu", "cuda", "tpu")


def recommender(config: Config, agent_state: Any, world: World, perception: Perception) -> Recommend:
    """Return the pure function `(item, click, length, time, unlogged) -> slate` of one trained policy, acting by its mode;
    what draws, such as a purifier with noise, draws the same every time.

    Args:
        config: of the run.
        agent_state: of one seed.
        world: only its catalogue is read.
        perception: encoder, and the purifier of that seed.

    Returns:
        A function of `item` `(B, H)` int32 vocabulary indices, `click` `(B, H)` bool, `length` `(B,)` int32 (a `History`, oldest
        first and right-aligned), `time` `(B,)` int32 (steps of the session so far) and `unlogged` `(B,)` int32 (how many of the
        latest events the training log's policy did not choose: `Observation`) that gives `(B, K)` int32 vocabulary indices.
    """
    perceive = perceive_of(config)
    agent = agent_of(config)
    catalogue = make_catalogue(perception.encoder.embeddings, world)

    def recommend(
        item: Int[Array, "B H"],
        click: Bool[Array, "B H"],
        length: Int[Array, "B"],
        time: Int[Array, "B"],
        unlogged: Int[Array, "B"],
    ) -> Int[Array, "B K"]:
        observation = Observation(History(item, click, length), time, unlogged)
        view = perceive(perception, jax.random.key(0), observation)
        slate, _ = agent.act(agent_state, jax.random.key(0), view, catalogue, True)
        return world.item[slate]

    return recommend


def export_policy(
    path: str | os.PathLike[str],
    config: Config,
    agent_state: Any,
    world: World,
    perception: Perception,
    log: InteractionLog,
    *,
    platforms: Sequence[str] = PLATFORMS,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write one policy to a file that `serving.load.load_policy` reads.

    The program takes any number of users and is lowered for every platform; its arrays are constants of it.

    Args:
        path: the file, whole or not at all.
        config: of the run.
        agent_state: of one seed.
        world: whose catalogue is recommended from.
        perception: encoder, and the purifier of that seed.
        log: for the raw item ids.
        platforms: names that `jax.export` knows.
        facts: more that the file should say of the policy, such as its seed and step; JSON values.

    Raises:
        InputError: a method that acts at random whatever it is asked, or the file cannot be written.
    """
    if config.agent.method in ALWAYS_RANDOM:
        raise InputError(
            f"method {config.agent.method} draws its slates, and an exported policy answers the same question alike: "
            "export the run of another method"
        )
    history = config.environment.history_length
    (batch,) = jax_export.symbolic_shape("batch")
    count = jax.ShapeDtypeStruct((batch,), jnp.int32)
    shapes = (
        jax.ShapeDtypeStruct((batch, history), jnp.int32),
        jax.ShapeDtypeStruct((batch, history), jnp.bool_),
        *(count, count, count),
    )
    function = jax.jit(recommender(config, agent_state, world, perception))
    program = jax_export.export(function, platforms=platforms)(*shapes).serialize()
    meta = {
        **(facts or {}),
        "format": FORMAT,
        "method": config.agent.method,
        "source": log.source,
        "history_length": history,
        "slate_size": config.environment.slate_size,
        "platforms": list(platforms),
        "jax": jax.__version__,
        "config": to_json(config),
    }
    _write(path, program, meta, np.asarray(log.item_ids))


def _write(
    path: str | os.PathLike[str], program: bytes | bytearray, meta: dict[str, Any], item_ids: np.ndarray
) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(META, json.dumps(meta, indent=1))
        archive.writestr(PROGRAM, bytes(program))
        with archive.open(ITEMS, "w") as file:
            np.lib.format.write_array(file, item_ids, allow_pickle=False)
    write_bytes(path, content.getvalue())
