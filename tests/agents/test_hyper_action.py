"""Hyper-actions: what they rank first, their geometry, what an untrained actor does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.agents.agent import Rollout, transitions
from dsrm_jax.agents.hyper_action import Critics, HyperActor, explore, hyper_slate, item_features, unit
from dsrm_jax.agents.replay import experience, hyper_row
from dsrm_jax.purify.view import Catalogue, View

ITEMS, DIM = 30, 5


@pytest.fixture(scope="module")
def catalogue():
    rng = np.random.default_rng(0)
    return Catalogue(
        vectors=jnp.asarray(rng.normal(size=(ITEMS, DIM)), jnp.float32),
        bias=jnp.asarray(rng.normal(size=ITEMS), jnp.float32),
        log_popularity=jnp.asarray(rng.normal(size=ITEMS), jnp.float32),
        is_popular=jnp.arange(ITEMS) < 6,
    )


def test_an_untrained_actor_ranks_by_the_encoders_click_logit(catalogue):
    state = jnp.asarray(np.random.default_rng(1).normal(size=(7, DIM)), jnp.float32)
    actor = HyperActor(8)
    action = actor.apply(actor.init(jax.random.key(0), state), state)
    np.testing.assert_allclose(jnp.linalg.norm(action, axis=1), 1.0, rtol=1e-5)
    logit = np.asarray(state @ catalogue.vectors.T + catalogue.bias, np.float64)
    slate = hyper_slate(action, catalogue, slate_size=4)
    np.testing.assert_array_equal(slate, np.argsort(-logit, axis=1)[:, :4])


@pytest.mark.parametrize("sign", [1, -1])
def test_the_last_coordinate_favours_or_shuns_the_popular(catalogue, sign):
    action = jnp.zeros((1, DIM + 3)).at[0, -1].set(sign)
    slate = np.asarray(hyper_slate(action, catalogue, slate_size=3))[0]
    np.testing.assert_array_equal(slate, np.argsort(-sign * np.asarray(catalogue.log_popularity))[:3])


@settings(max_examples=30, deadline=None)
@given(vector=st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), factor=st.floats(0.5, 8, width=32))
def test_directions_have_length_one_and_no_scale(vector, factor):
    vector = np.asarray(vector, np.float32)
    if np.linalg.norm(vector) < 0.2:
        return
    direction = np.asarray(unit(jnp.asarray(vector)))
    np.testing.assert_allclose(direction, vector / np.linalg.norm(vector), atol=2e-5)
    np.testing.assert_allclose(unit(jnp.asarray(factor * vector)), direction, atol=4e-5)


def test_the_direction_of_nothing_has_a_finite_gradient():
    gradient = jax.grad(lambda x: jnp.sum(unit(x) * jnp.arange(3.0)))(jnp.zeros(3))
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(unit(jnp.zeros(3)), np.zeros(3))


def test_exploration_has_the_scale_asked_for_and_stays_on_the_sphere():
    action = jnp.tile(unit(jnp.array([3.0, 4.0, 0.0])), (20000, 1))
    noisy = explore(jax.random.key(0), action, 0.05)
    np.testing.assert_allclose(jnp.linalg.norm(noisy, axis=1), 1.0, rtol=1e-4)
    across = np.asarray(noisy[:, 2])
    assert abs(across.mean()) < 4 * 0.05 / 20000**0.5
    assert across.std() == pytest.approx(0.05, rel=0.03)
    np.testing.assert_allclose(explore(jax.random.key(0), action, 0.0), action, rtol=1e-5)


def test_the_condition_reaches_actor_and_critics_and_the_clock_the_critics_alone():
    rng = np.random.default_rng(2)
    seen, action, condition = (jnp.asarray(rng.normal(size=(4, n)), jnp.float32) for n in (6, 8, 2))
    actor, critics = HyperActor(8), Critics(8, num_critics=3)
    actor_params = actor.init(jax.random.key(0), seen[:, :-1], condition)
    critic_params = critics.init(jax.random.key(1), seen, action, condition)
    randomise = partial_random(jax.random.key(2))
    actor_params, critic_params = randomise(actor_params), randomise(critic_params)
    out = critics.apply(critic_params, seen, action, condition)
    assert out.shape == (4, 3)
    assert np.abs(np.diff(np.asarray(out), axis=1)).min() > 1e-6  # independent critics
    assert not np.allclose(out, critics.apply(critic_params, seen.at[:, -1].add(1.0), action, condition))
    assert not np.allclose(out, critics.apply(critic_params, seen, action, condition + 1.0))
    moved = actor.apply(actor_params, seen[:, :-1], condition + 1.0)
    assert not np.allclose(actor.apply(actor_params, seen[:, :-1], condition), moved)


def partial_random(key):
    def randomise(params):
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        return tree.unflatten([x + jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])

    return randomise


def test_experience_keeps_the_leavers_own_next_view_and_the_clock(catalogue):
    """Two steps of two users: user 0 is cut after the first and user 1 leaves; others take their places."""

    def view(states, times):
        state = jnp.asarray(states, jnp.float32)[..., None] * jnp.ones(DIM)
        return View(state, state, jnp.asarray(times, jnp.int32))

    slate = jnp.zeros((2, 2, 3), jnp.int32)
    rollout = Rollout(
        view=view([[1, 2], [3, 4]], [[5, 7], [0, 0]]),
        slate=slate,
        record=jnp.arange(2 * 2 * (DIM + 3), dtype=jnp.float32).reshape(2, 2, -1),
        clicks=slate > 0,
        reward=jnp.array([[0.1, 0.2], [0.3, 0.4]]),
        popular_share=jnp.zeros((2, 2)),
        terminated=jnp.array([[False, True], [False, False]]),
        truncated=jnp.array([[True, False], [False, False]]),
        final_view=view([[10, 20], [30, 40]], [[6, 8], [1, 1]]),
        last_view=view([5, 6], [1, 1]),
    )
    found = transitions(rollout)
    kept = experience(found, found.record, found.reward)
    np.testing.assert_allclose(kept.features[:, 0], [1, 2, 3, 4])
    np.testing.assert_allclose(kept.features[:, -1], np.array([5, 7, 0, 0]) / 30)
    np.testing.assert_allclose(kept.next_features[[0, 2, 3], 0], [10, 5, 6])
    np.testing.assert_allclose(kept.next_features[0, -1], 6 / 30)
    np.testing.assert_array_equal(kept.terminated, [False, True, False, False])
    np.testing.assert_array_equal(kept.action, rollout.record.reshape(4, -1))
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), hyper_row(catalogue))
    assert shapes == jax.tree.map(lambda x: (x.shape[1:], x.dtype), kept)
    assert item_features(catalogue).shape == (ITEMS, kept.action.shape[1])
