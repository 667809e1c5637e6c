"""Write a trained policy (purify, goal, slate) with `jax.export` to one versioned file.

Shapes: B users (free), H history length, J catalogue items, K slate size.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jaxtyping import Array, Float, Int

from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.expected import informed
from dsrm_jax.agents.item_values import click_probability_at
from dsrm_jax.agents.slates import take_turns
from dsrm_jax.agents.whole_slates import repeats
from dsrm_jax.purify.encoder import make_catalogue
from dsrm_jax.purify.perception import Perceive, Perception
from dsrm_jax.purify.view import Catalogue
from dsrm_jax.serving.artifact import write_artifact
from dsrm_jax.serving.load import argument_shapes
from dsrm_jax.simulator.environment import Environment, Observation
from dsrm_jax.simulator.mechanism import Memories, advance, begin
from dsrm_jax.simulator.mechanism import context as mechanism_context
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.simulator.shown import START_SHARE
from dsrm_jax.simulator.world import History, World
from dsrm_jax.types import PyTree

Recommend = Callable[..., tuple[jax.Array, jax.Array]]
PLATFORMS = ("cpu", "cuda", "tpu")


def recommender(
    agent: Agent,
    policy: PyTree,
    world: World,
    perception: Perception,
    perceive: Perceive,
    environment: Environment | None = None,
) -> Recommend:
    """Return the pure function `(item, click, length, time, unlogged, excluded) -> (slate, probability)` of one trained policy,
    acting by its mode; what draws, such as a purifier with noise, draws the same for every user and time.

    Policy and perception are of one seed; of the world only its catalogue is read; `perceive`, what the agent sees, is from
    `make_perceive`; of the environment its mechanisms, for what a policy that learnt beside them is told of a session
    (`session_context`).

    The function takes `item` `(B, H)` int32 vocabulary indices, `click` `(B, H)` bool, `length` `(B,)` int32 (a `History`, oldest
    first and right-aligned), `time` `(B,)` int32 (steps of the session so far), `unlogged` `(B,)` int32 (how many of the latest
    events the training log's policy did not choose: `Observation`) and `excluded` `(B, J)` bool (catalogue positions that may not
    be shown). It gives `(B, K)` int32 catalogue positions, of which any first few are as balanced as the slate is, -1 where
    nothing was left to show, and the `(B, K)` float32 chances of a click, by the encoder from the purified state. It is one
    user's function mapped over users: none depends on who else is asked for.
    """
    # a run that was spread over devices is restored to the host
    policy, perception = jax.tree.map(jnp.asarray, (policy, perception))
    catalogue = make_catalogue(perception.encoder.embeddings, world)

    def one(*user: Array) -> tuple[Int[Array, "K"], Float[Array, "K"]]:
        item, click, length, time, unlogged, excluded = (x[None] for x in user)
        history, context = History(item, click, length), None
        if environment is not None and environment.mechanisms:
            alone = jax.tree.map(lambda x: x[0], (history, time))
            context = session_context(environment, world, catalogue, *alone)[None]
        observation = Observation(history, time, unlogged, context)
        view = replace(perceive(perception, jax.random.key(0), observation), excluded=excluded)
        view = informed(view, catalogue)
        slate, _ = agent.act(policy, jax.random.key(0), view, catalogue, True)
        if agent.grouped:
            slate = take_turns(slate, catalogue.is_popular)
        left = ~jnp.take_along_axis(excluded, slate, axis=1) & ~repeats(slate)
        probability = click_probability_at(view.state, slate, catalogue)
        return jnp.where(left, slate, -1)[0].astype(jnp.int32), probability[0]

    return jax.vmap(one)


def session_context(
    environment: Environment, world: World, catalogue: Catalogue, history: History, time: Int[Array, ""]
) -> Float[Array, "M"]:
    """Return what mechanisms let a platform count of one user's session (`Observation.context`), from the history alone.

    The session's slates are the last `time` times K events, as many as the history holds; what they did to the memories is played
    again, from what the events before them say of the user's arrival. Items outside the catalogue count as unpopular, and what
    users of a world differ in (`World.traits`), which no platform knows, is that of its first user.
    """
    slots, size, mechanisms = history.item.shape[0], environment.slate_size, environment.mechanisms
    assert catalogue.position is not None
    position = catalogue.position[history.item]
    steps = jnp.minimum(time, slots // size)
    begun = slots - size * steps
    place, user = jnp.arange(slots), jnp.zeros((), jnp.int32)
    arrived = (place >= slots - history.length) & (place < begun) & (place >= begun - environment.arrival_length)
    popular = jnp.sum(arrived & (position >= 0) & catalogue.is_popular[position])
    share = jnp.where(jnp.any(arrived), popular / jnp.maximum(jnp.sum(arrived), 1), START_SHARE)

    def play(step: jax.Array, memories: Memories) -> Memories:
        slate, clicks = (jax.lax.dynamic_slice(x, (begun + step * size,), (size,)) for x in (position, history.click))
        return advance(jax.random.key(0), mechanisms, memories, user, jnp.maximum(slate, 0), clicks, world)

    memories = begin(jax.random.key(0), mechanisms, user, share, world)
    return mechanism_context(mechanisms, jax.lax.fori_loop(0, steps, play, memories))


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
    environment: Environment | None = None,
    platforms: Sequence[str] = PLATFORMS,
    facts: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Write one policy to a file that `serving.load.load_policy` reads.

    The program takes any number of users and is lowered for every platform; its arrays are constants of it.

    The file is written whole or not at all. Agent, policy, world, perception, `perceive` and environment are as of `recommender`,
    the agent a trained one, since the file draws nothing and answers the same question alike. `item_ids` are `(V,)` raw item ids,
    sorted, as of `InteractionLog`; `history_length` is H, events that the policy is given; `platforms` are names that
    `jax.export` knows; `facts`, JSON values, are what else the file should say of the policy: method, seed, configuration.

    Raises:
        InputError: the file cannot be written.
    """
    (batch,) = jax_export.symbolic_shape("batch")
    catalogue = np.asarray(world.item, np.int32)
    shapes = argument_shapes(batch, history_length, len(catalogue))
    function = jax.jit(recommender(agent, policy, world, perception, perceive, environment))
    exported = jax_export.export(function, platforms=platforms)(*shapes)
    meta = {
        **facts,
        "history_length": history_length,
        "slate_size": int(exported.out_avals[0].shape[1]),
        "platforms": list(platforms),
        "jax": jax.__version__,
    }
    write_artifact(path, exported.serialize(), meta, np.asarray(item_ids), catalogue)
