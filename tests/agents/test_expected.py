"""What a policy expects of each group against a search over all items, in training and where it serves."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.expected import BEST, expected_clicks, informed
from dsrm_jax.purify.encoder import Embeddings, EncoderParams
from dsrm_jax.purify.perception import Perception
from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.serving.export import recommender, session_context
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.satisfaction import make_satisfaction
from tests.simulator.worlds import NUM_ITEMS, remembering_world

B, J, D = 5, 30, 3
RNG = np.random.default_rng(0)
STATE, VECTORS, BIAS = (RNG.normal(size=shape).astype(np.float32) for shape in ((B, D), (J, D), (J,)))
POPULAR = RNG.random(J) < 0.4
CATALOGUE = Catalogue(VECTORS, BIAS, np.zeros(J, np.float32), POPULAR)


@jax.jit
def both(view, catalogue):
    return expected_clicks(view, catalogue), informed(view, catalogue).context


def best_of(state, vectors, bias, allowed):
    chance = np.sort(1 / (1 + np.exp(-(vectors @ state + bias)))[allowed])[::-1]
    return chance[:BEST].mean() if len(chance) else 0.0


@pytest.mark.parametrize("barred", ["nothing", "some", "almost all popular"])
def test_the_best_of_each_group_that_may_be_shown(barred):
    excluded = RNG.random((B, J)) < 0.5
    if barred == "almost all popular":
        excluded = np.tile(POPULAR, (B, 1))
        excluded[0, np.flatnonzero(POPULAR)[0]] = False
    mask = None if barred == "nothing" else excluded
    view = View(STATE, STATE, np.zeros(B, np.int32), context=np.ones((B, 2), np.float32), excluded=mask)
    found, context = jax.device_get(both(view, CATALOGUE))
    allowed = np.ones((B, J), bool) if mask is None else ~mask
    expected = [
        [best_of(STATE[u], VECTORS, BIAS, allowed[u] & (group == POPULAR)) for group in (False, True)] for u in range(B)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(context, np.concatenate([np.ones((B, 2)), found], axis=1), atol=1e-6)


def test_without_mechanisms_nothing_is_added():
    view = View(STATE, STATE, np.zeros(B, np.int32))
    assert informed(view, CATALOGUE) is view


def test_a_served_policy_is_told_what_one_in_training_is():
    """The context that `act` gets: what mechanisms count, then what is expected of what may be shown."""
    environment = make_environment(slate_size=4, max_len=9, history_length=12, mechanisms=[make_satisfaction()])
    world = remembering_world(environment.mechanisms)
    vectors, bias = RNG.normal(size=(1000, D)).astype(np.float32), np.zeros(1000, np.float32)
    told = []

    def act(agent, key, view, catalogue, greedy):
        jax.debug.callback(told.append, view.context)
        return jnp.broadcast_to(jnp.arange(4), (view.state.shape[0], 4)), view.context

    def perceive(perception, key, observation):
        state = jnp.ones((observation.time.shape[0], D))
        return View(state, state, observation.time, context=observation.context)

    observation = jax.device_get(jax.jit(environment.reset)(jax.random.key(0), world)[0])
    excluded = RNG.random(NUM_ITEMS) < 0.5
    agent = Agent(init=lambda *_: (), act=act, update=lambda *_: ((), {}))
    perception = Perception(EncoderParams(Embeddings(*jax.device_put((vectors, bias))), {}), {})
    serve = jax.jit(recommender(agent, (), world, perception, perceive, environment))
    history = observation.history
    one = history.item, history.click, history.length, observation.time, observation.unlogged, excluded
    serve(*(x[None] for x in one))
    jax.effects_barrier()
    item, popular = np.asarray(world.item), np.asarray(world.is_popular)
    vectors, bias, position = vectors[item], bias[item], np.full(1000, -1, np.int32)
    position[item] = np.arange(NUM_ITEMS)
    (context,) = told
    expected = [best_of(np.ones(D), vectors, bias, ~excluded & (popular == group)) for group in (False, True)]
    catalogue = Catalogue(vectors, bias, np.asarray(world.log_popularity), popular, position=position)
    count = jax.jit(partial(session_context, environment))
    counted = count(world, catalogue, history, observation.time)
    np.testing.assert_allclose(counted, observation.context, atol=1e-6)
    np.testing.assert_allclose(context[0, -2:], expected, atol=1e-6)
    np.testing.assert_allclose(context[0, :-2], counted, atol=1e-6)
