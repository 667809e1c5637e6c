"""Programs that points share: compiled once, and every point's own reverse process inside."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.config import AgentConfig, Config, EncoderConfig, EnvironmentConfig, PurifierConfig
from dsrm_jax.purify.encoder import Embeddings, gather_evidence
from dsrm_jax.purify.perception import Perception, seed_axes, share_process
from dsrm_jax.purify.purifier import PurifierBatch
from dsrm_jax.runs.pieces import encoder_of, perceive_of, purifier_of, without_process
from dsrm_jax.simulator.environment import Observation
from dsrm_jax.simulator.world import History
from dsrm_jax.sweep.programs import compiled

H, DIM, ITEMS, SEEDS, USERS = 8, 2, 15, 2, 5
CONFIG = Config(
    environment=EnvironmentConfig(history_length=H),
    encoder=EncoderConfig(dim=DIM),
    purifier=PurifierConfig(kind="guided", hidden=8, diffusion_steps=4),
)
RNG = np.random.default_rng(0)
HISTORY = History(
    jnp.asarray(RNG.integers(0, ITEMS, (USERS, H)), jnp.int32),
    jnp.asarray(RNG.random((USERS, H)) < 0.5),
    jnp.full(USERS, H, jnp.int32),
)
OBSERVATION = Observation(HISTORY, jnp.zeros(USERS, jnp.int32), jnp.zeros(USERS, jnp.int32))


def varied(**purifier):
    return dataclasses.replace(CONFIG, purifier=dataclasses.replace(CONFIG.purifier, **purifier))


@pytest.fixture(scope="module")
def perception():
    """Two seeds with networks of their own, none of them at zero."""
    vectors = jnp.float32(np.c_[RNG.normal(size=(ITEMS, DIM)), np.ones(ITEMS)])
    embeddings = Embeddings(vectors, jnp.zeros(ITEMS))
    purifier = purifier_of(CONFIG)
    states = jnp.float32(RNG.normal(size=(40, DIM + 1)))
    evidence = jax.jit(gather_evidence)(embeddings, jax.tree.map(lambda x: np.repeat(x, 8, axis=0), HISTORY))
    init = jax.jit(jax.vmap(purifier.init, in_axes=(0, None)))
    params = init(jax.random.split(jax.random.key(0), SEEDS), PurifierBatch(states, evidence, states))
    params = params.replace(
        network=jax.tree.map(lambda x: jnp.asarray(np.asarray(x) + np.float32(0.1)), params.network)
    )
    return Perception(jax.jit(encoder_of(CONFIG).init)(jax.random.key(1), embeddings), params)


def states(config, perception, memory):
    """What each seed perceives, by a program from the memory."""
    perceive = perceive_of(config)
    axes = seed_axes(perception)
    per_seed = jax.vmap(lambda agent, p: perceive(p, None, OBSERVATION).state, in_axes=(None, axes))
    return compiled(memory, "see", config, per_seed, config.agent, perception)(config.agent, perception)


def shared(config, perception):
    """What is left of a configuration without its reverse process, and the perception with it."""
    return without_process(config), share_process(purifier_of(config), perception)


def test_points_that_differ_in_their_reverse_process_share_one_program_and_nothing_else(perception):
    memory = {}
    kept = []
    for changes in ({"diffusion_steps": 9, "schedule": "linear"}, {"sampling_steps": 3}, {"start_fraction": 0.5}):
        config = varied(**changes)
        alone = states(config, perception, {})
        found = states(*shared(config, perception), memory)
        np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-4)
        kept.append((memory["program", "see"][1], np.asarray(found)))
    assert len({id(program) for program, _ in kept}) == 1
    for i, (_, first) in enumerate(kept):
        assert all(np.abs(first - second).max() > 1e-3 for _, second in kept[:i])


def test_processes_longer_than_the_arrays_are_held_whole(perception):
    config = varied(diffusion_steps=600)
    found = states(*shared(config, perception), {})
    np.testing.assert_allclose(found, states(config, perception, {}), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("changes", [{"kind": "identity"}, {"kind": "mixture"}, {"noise_scale": 1.0}])
def test_what_has_no_reverse_process_or_draws_for_each_level_is_left_as_it_is(perception, changes):
    config = varied(**changes)
    assert shared(config, perception) == (config, perception)


def test_a_program_is_compiled_anew_where_anything_but_the_agents_floats_differs():
    memory, traced = {}, []

    def program(config, *arguments):
        def function(agent, x):
            traced.append(config.agent.method)
            return agent.learning_rate * x

        return compiled(memory, "f", config, function, config.agent, *arguments)(config.agent, *arguments)

    def agent(**changes):
        return dataclasses.replace(CONFIG, agent=AgentConfig(**changes))

    x = jnp.ones(3)
    assert float(program(agent(learning_rate=0.5), x)[0]) == 0.5
    assert float(program(agent(learning_rate=0.25), x)[0]) == 0.25
    assert len(traced) == 1
    for config, argument in (
        (agent(method="a2c"), x),
        (agent(method="a2c"), jnp.ones(4)),
        (agent(method="a2c"), jnp.ones(4, jnp.int32)),
        (dataclasses.replace(agent(method="a2c"), environment=EnvironmentConfig(max_len=50)), jnp.ones(4, jnp.int32)),
    ):
        before = len(traced)
        program(config, argument)
        assert len(traced) == before + 1
