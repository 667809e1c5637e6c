"""The training programs taken apart: environment, acting, perceiving, update, and the whole loop."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dsrm_jax.agents.agent import Rollout
from dsrm_jax.config import Config
from dsrm_jax.parallel.mesh_axes import USERS
from dsrm_jax.parallel.sharding import make_mesh, place
from dsrm_jax.purify.encoder import make_catalogue
from dsrm_jax.purify.perception import Perception
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.runs.pieces import agent_of, environment_of, perceive_of, trainer_of
from dsrm_jax.simulator.coupling import together
from dsrm_jax.simulator.environment import EnvState, Observation
from dsrm_jax.simulator.world import World
from dsrm_jax.training.loop import TrainState
from dsrm_jax.training.rollout import experience, reset_users
from dsrm_jax.types import PyTree
from experiments.fcpo_ml100k.ranker import HORIZON, RankerState, RankingData, recommend, train_ranker

RANKING_ITERATIONS = 5  # constrained steps that one call of FCPO's loop makes


@dataclass(frozen=True)
class Part:
    """A pure function and what to call it with; one call serves `updates` times T steps of B users.

    Where there is a mesh the arguments lie on it as in training, and the function is compiled for it.
    """

    name: str
    function: Callable[..., PyTree]
    args: tuple[PyTree, ...]
    updates: int = 1
    mesh: Mesh | None = None


def make_parts(config: Config, world: World, perception: Perception) -> list[Part]:
    """Take the training program of one seed apart.

    Args:
        config: of the program.
        world: the training world.
        perception: of one seed, without a seed axis.

    Returns:
        `environment` (respond and auto-reset, fixed slates), `act` (goal, scores, slate), `perceive` (summarise, encode,
        purify), `update` and `loop` (all of them, as training runs it). What is acted on, perceived and learnt from is one
        real rollout, so that none of it is constant over its steps; `environment` gets the rollout's first slates each time.
    """
    environment, perceive = environment_of(config), perceive_of(config)
    agent, trainer = agent_of(config), trainer_of(config)
    num_users, length = config.training.num_users, config.training.rollout_length
    catalogue = make_catalogue(perception.encoder.embeddings, world)
    mesh = make_mesh(1, num_users)
    key, init_key, env_key, update_key = jax.random.split(jax.random.key(config.training.seeds[0]), 4)
    keys = jax.random.split(key, length)
    state = jax.jit(trainer.init)(init_key, world, perception)
    _, env = jax.jit(lambda key, world: reset_users(key, environment, world, num_users=num_users))(env_key, world)
    # What follows from these lies on the mesh as they do.
    sessions, env_of_state, view = along_users((env, state.env, state.view), mesh)
    state = replace(on_every_device(state, mesh), env=env_of_state, view=view)
    keys, world, perception, catalogue = on_every_device((keys, world, perception, catalogue), mesh)

    # Worlds are arguments everywhere: as constants of a program a million users would be compiled into it.
    def rollout(state: TrainState, world: World, perception: Perception, catalogue: Catalogue) -> Rollout:
        def act(key: jax.Array, view: View) -> PyTree:
            return agent.act(state.agent, key, view, catalogue)

        return experience(keys, act, (state.env, state.view), environment, perceive, world, perception)[1]

    def respond(keys: jax.Array, env: EnvState, slates: jax.Array, world: World) -> PyTree:
        def step(env: EnvState, inputs: tuple[jax.Array, jax.Array]) -> tuple[EnvState, PyTree]:
            key, slate = inputs
            result = together(environment)(jax.random.split(key, num_users), env, slate, world)
            observation, env, reward, terminated, _, info = result
            return env, (observation, reward, terminated, info["session_return"])

        return jax.lax.scan(step, env, (keys, slates))

    def act(keys: jax.Array, agent_state: PyTree, views: View, catalogue: Catalogue) -> PyTree:
        return _over_steps(lambda key, view: agent.act(agent_state, key, view, catalogue), keys, views)

    def purify(keys: jax.Array, perception: Perception, observations: Observation) -> View:
        return _over_steps(lambda key, seen: perceive(perception, key, seen), keys, observations)

    seen = jax.jit(rollout)(state, world, perception, catalogue)
    observations = jax.jit(respond)(keys, sessions, seen.slate, world)[1][0]
    slates = jnp.broadcast_to(seen.slate[0], seen.slate.shape)
    return [
        Part("environment", respond, (keys, sessions, slates, world), mesh=mesh),
        Part("act", act, (keys, state.agent, seen.view, catalogue), mesh=mesh),
        Part("perceive", purify, (keys, perception, observations), mesh=mesh),
        Part("update", agent.update, (state.agent, update_key, seen, catalogue), mesh=mesh),
        Part("loop", trainer.iterate, (state, world, perception), mesh=mesh),
    ]


def along_users(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Place arrays with their first axis along a mesh's users; without a mesh they stay as they are."""
    return tree if mesh is None else place(tree, NamedSharding(mesh, PartitionSpec(USERS)))


def on_every_device(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Place whole arrays on every device of a mesh; without a mesh they stay as they are."""
    return tree if mesh is None else place(tree, NamedSharding(mesh, PartitionSpec()))


def make_ranking_parts(config: Config, data: RankingData) -> list[Part]:
    """Take FCPO's own loop apart.

    Returns:
        `sessions`, in which all users see `HORIZON` items, one at a time, and `loop`, with the constrained steps between them.
    """

    def train(key: jax.Array, data: RankingData) -> PyTree:
        return train_ranker(
            key, data, popular_limit=config.agent.fcpo.popular_limit, config=config.agent, iterations=RANKING_ITERATIONS
        )

    def sessions(key: jax.Array, data: RankingData, agent: RankerState) -> PyTree:
        return recommend(key, data, agent, config=config.agent, length=HORIZON)

    key = jax.random.key(config.training.seeds[0])
    # All zero it acts as at the start, and costs no compilation.
    agent = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(train, key, data)[0])
    return [Part("sessions", sessions, (key, data, agent)), Part("loop", train, (key, data), RANKING_ITERATIONS)]


def _over_steps(function: Callable[..., PyTree], keys: jax.Array, inputs: PyTree) -> PyTree:
    return jax.lax.scan(lambda _, xs: ((), function(*xs)), (), (keys, inputs))[1]
