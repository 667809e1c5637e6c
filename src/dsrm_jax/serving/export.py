"""Write a trained policy (purify, goal, slate) with `jax.export` to one versioned file.

Shapes: B users (free), H history length, K slate size.
"""

import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jaxtyping import Array, Bool, Int

from dsrm_jax.agents.agent import Agent
from dsrm_jax.files import write_bytes
from dsrm_jax.purify.encoder import make_catalogue
from dsrm_jax.purify.perception import Perceive, Perception
from dsrm_jax.serving.load import FORMAT, ITEMS, META, PROGRAM
from dsrm_jax.simulator.environment import Observation
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.simulator.world import History, World
from dsrm_jax.types import Json, PyTree

Recommend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
PLATFORMS = ("cpu", "cuda", "tpu")


def recommender(agent: Agent, policy: PyTree, world: World, perception: Perception, perceive: Perceive) -> Recommend:
    """Return the pure function `(item, click, length, time, unlogged) -> slate` of one trained policy, acting by its mode;
    what draws, such as a purifier with noise, draws the same every time.

    Policy and perception are of one seed; of the world only its catalogue is read; `perceive`, what the agent sees, is from
    `make_perceive`. The function takes `item` `(B, H)` int32 vocabulary indices, `click` `(B, H)` bool, `length` `(B,)` int32 (a
    `History`, oldest first and right-aligned), `time` `(B,)` int32 (steps of the session so far) and `unlogged` `(B,)` int32 (how
    many of the latest events the training log's policy did not choose: `Observation`) and gives `(B, K)` int32 indices.
    """
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
        slate, _ = agent.act(policy, jax.random.key(0), view, catalogue, True)
        return world.item[slate]

    return recommend


def export_policy(
    path: str | os.PathLike[str],
    agent: Agent,
    policy: PyTree,
    world: World,
    perception: Perception,
    perceive: Perceive,
    *,
    item_ids: np.ndarray,
    history_length: int = EnvironmentConfig.history_length,
    platforms: Sequence[str] = PLATFORMS,
    facts: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Write one policy to a file that `serving.load.load_policy` reads.

    The program takes any number of users and is lowered for every platform; its arrays are constants of it.

    The file is written whole or not at all. Agent, policy, world, perception and `perceive` are as of `recommender`, the agent a
    trained one, since the file draws nothing and answers the same question alike. `item_ids` are `(V,)` raw item ids, sorted, as
    of `InteractionLog`; `history_length` is H, events that the policy is given; `platforms` are names that `jax.export` knows;
    `facts`, JSON values, are what else the file should say of the policy, such as its method, seed and configuration.

    Raises:
        InputError: the file cannot be written.
    """
    (batch,) = jax_export.symbolic_shape("batch")
    count = jax.ShapeDtypeStruct((batch,), jnp.int32)
    shapes = (
        jax.ShapeDtypeStruct((batch, history_length), jnp.int32),
        jax.ShapeDtypeStruct((batch, history_length), jnp.bool_),
        *(count, count, count),
    )
    function = jax.jit(recommender(agent, policy, world, perception, perceive))
    exported = jax_export.export(function, platforms=platforms)(*shapes)
    meta = {
        **facts,
        "format": FORMAT,
        "history_length": history_length,
        "slate_size": int(exported.out_avals[0].shape[1]),
        "platforms": list(platforms),
        "jax": jax.__version__,
    }
    _write(path, exported.serialize(), meta, np.asarray(item_ids))


def _write(path: str | os.PathLike[str], program: bytes | bytearray, meta: Json, item_ids: np.ndarray) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(META, json.dumps(meta, indent=1))
        archive.writestr(PROGRAM, bytes(program))
        with archive.open(ITEMS, "w") as file:
            np.lib.format.write_array(file, item_ids, allow_pickle=False)
    write_bytes(path, content.getvalue())
