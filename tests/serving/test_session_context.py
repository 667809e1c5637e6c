"""What a served policy is told of a session under way against what the simulator shows policies in the very session."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.purify.view import Catalogue
from dsrm_jax.serving.export import session_context
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.fatigue import make_fatigue
from dsrm_jax.simulator.satisfaction import make_satisfaction
from tests.simulator.worlds import NUM_ITEMS, remembering_world

USERS, STEPS = 12, 5


@pytest.mark.parametrize(("history_length", "exact"), [(40, True), (14, False)])
def test_a_session_is_told_as_the_simulator_tells_it(history_length, exact):
    """From the history alone; where it does not hold all slates, of those that it holds."""
    mechanisms = [make_satisfaction(slope=5.0), make_fatigue()]
    environment = make_environment(
        slate_size=4, max_len=9, history_length=history_length, arrival_length=6, ad_penalty=0, mechanisms=mechanisms
    )
    categories = jnp.asarray(np.arange(NUM_ITEMS)[:, None] % 5 == np.arange(5))
    world = remembering_world(mechanisms, categories=categories)
    position = jnp.full(1000, -1, jnp.int32).at[world.item].set(jnp.arange(NUM_ITEMS))
    nothing = jnp.zeros(NUM_ITEMS)
    catalogue = Catalogue(jnp.zeros((NUM_ITEMS, 2)), nothing, nothing, world.is_popular, position=position)

    @jax.jit
    def play(key):
        def one(key):
            start_key, *keys = jax.random.split(key, STEPS + 1)
            observation, state = environment.reset(start_key, world)
            seen = [observation]
            for step_key in keys:
                slate_key, step_key = jax.random.split(step_key)
                slate = jax.random.permutation(slate_key, NUM_ITEMS)[:4].astype(jnp.int32)
                observation, state, *_ = environment.step(step_key, state, slate, world)
                seen.append(observation)
            seen = jax.tree.map(lambda *x: jnp.stack(x), *seen)
            told = jax.vmap(lambda o: session_context(environment, world, catalogue, o.history, o.time))
            return seen.context, told(seen)

        return jax.vmap(one)(jax.random.split(key, USERS))

    expected, found = map(np.asarray, play(jax.random.key(0)))
    assert len(np.unique(expected[:, 0, 0])) > 2  # they arrive with different shares
    until = STEPS + 1 if exact else 1 + 14 // 4
    np.testing.assert_allclose(found[:, :1], expected[:, :1], atol=1e-6)
    if exact:
        np.testing.assert_allclose(found, expected, atol=1e-6)
    else:  # the share that they arrived with has left the history
        np.testing.assert_allclose(found[:, :until, 1:4], expected[:, :until, 1:4], atol=1e-6)
