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
UNIT, SLATE = jax.jit(unit), jax.jit(hyper_slate, static_argnames="slate_size")


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
    action = jax.jit(lambda state: actor.apply(actor.init(jax.random.key(0), state), state))(state)
    np.testing.assert_allclose(np.linalg.norm(action, axis=1), 1.0, rtol=1e-5)
    logit = np.float64(state) @ np.float64(catalogue.vectors).T + np.float64(catalogue.bias)
    slate = SLATE(action, catalogue, slate_size=4)
    np.testing.assert_array_equal(slate, np.argsort(-logit, axis=1)[:, :4])


@pytest.mark.parametrize("sign", [1, -1])
def test_the_last_coordinate_favours_or_shuns_the_popular(catalogue, sign):
    action = np.zeros((1, DIM + 3), np.float32)
    action[0, -1] = sign
    slate = np.asarray(SLATE(action, catalogue, slate_size=3))[0]
    np.testing.assert_array_equal(slate, np.argsort(-sign * np.asarray(catalogue.log_popularity))[:3])


@settings(max_examples=30, deadline=None)
@given(vector=st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), factor=st.floats(0.5, 8, width=32))
def test_directions_have_length_one_and_no_scale(vector, factor):
    vector = np.asarray(vector, np.float32)
    if np.linalg.norm(vector) < 0.2:
        return
    direction = np.asarray(UNIT(vector))
    np.testing.assert_allclose(direction, vector / np.linalg.norm(vector), atol=2e-5)
    np.testing.assert_allclose(UNIT(np.float32(factor * vector)), direction, atol=4e-5)


def test_the_direction_of_nothing_has_a_finite_gradient():
    nothing = np.zeros(3, np.float32)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(unit(x) * jnp.arange(3.0))))(nothing)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(UNIT(nothing), np.zeros(3))


def test_exploration_has_the_scale_asked_for_and_stays_on_the_sphere():
    action = np.tile(np.float32([0.6, 0.8, 0.0]), (20000, 1))
    program = jax.jit(explore)
    noisy = np.asarray(program(jax.random.key(0), action, 0.05))
    np.testing.assert_allclose(np.linalg.norm(noisy, axis=1), 1.0, rtol=1e-4)
    across = noisy[:, 2]
    assert abs(across.mean()) < 4 * 0.05 / 20000**0.5
    assert across.std() == pytest.approx(0.05, rel=0.03)
    np.testing.assert_allclose(program(jax.random.key(0), action, 0.0), action, rtol=1e-5)


def test_the_condition_reaches_actor_and_critics_and_the_clock_the_critics_alone():
    rng = np.random.default_rng(2)
    seen, action, condition = (np.float32(rng.normal(size=(4, n))) for n in (6, 8, 2))
    actor, critics = HyperActor(8), Critics(8, num_critics=3)
    fresh = jax.eval_shape(actor.init, jax.random.key(0), seen[:, :-1], condition)
    fresh = fresh, jax.eval_shape(critics.init, jax.random.key(1), seen, action, condition)
    actor_params, critic_params = jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape)), fresh)
    judge, choose = jax.jit(critics.apply), jax.jit(actor.apply)
    out = judge(critic_params, seen, action, condition)
    assert out.shape == (4, 3)
    assert np.abs(np.diff(np.asarray(out), axis=1)).min() > 1e-6  # independent critics
    later = seen + np.float32([0, 0, 0, 0, 0, 1])
    assert not np.allclose(out, judge(critic_params, later, action, condition))
    assert not np.allclose(out, judge(critic_params, seen, action, condition + 1))
    moved = choose(actor_params, seen[:, :-1], condition + 1)
    assert not np.allclose(choose(actor_params, seen[:, :-1], condition), moved)


def test_experience_keeps_the_leavers_own_next_view_and_the_clock(catalogue):
    """Two steps of two users: user 0 is cut after the first and user 1 leaves; others take their places."""

    def view(states, times):
        state = jnp.asarray(np.asarray(states)[..., None] * np.ones(DIM), jnp.float32)
        return View(state, state, jnp.asarray(times, jnp.int32))

    slate = np.zeros((2, 2, 3), np.int32)
    rollout = Rollout(
        view=view([[1, 2], [3, 4]], [[5, 7], [0, 0]]),
        slate=slate,
        record=np.arange(2 * 2 * (DIM + 3), dtype=np.float32).reshape(2, 2, -1),
        clicks=slate > 0,
        reward=jnp.array([[0.1, 0.2], [0.3, 0.4]]),
        popular_share=np.zeros((2, 2), np.float32),
        terminated=jnp.array([[False, True], [False, False]]),
        truncated=jnp.array([[True, False], [False, False]]),
        final_view=view([[10, 20], [30, 40]], [[6, 8], [1, 1]]),
        last_view=view([5, 6], [1, 1]),
    )

    @jax.jit
    def rows(rollout):
        found = transitions(rollout)
        return experience(found, found.record, found.reward)

    kept = jax.device_get(rows(rollout))
    np.testing.assert_allclose(kept.features[:, 0], [1, 2, 3, 4])
    np.testing.assert_allclose(kept.features[:, -1], np.array([5, 7, 0, 0]) / 30)
    np.testing.assert_allclose(kept.next_features[[0, 2, 3], 0], [10, 5, 6])
    np.testing.assert_allclose(kept.next_features[0, -1], 6 / 30)
    np.testing.assert_array_equal(kept.terminated, [False, True, False, False])
    np.testing.assert_array_equal(kept.action, rollout.record.reshape(4, -1))
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), hyper_row(catalogue))
    assert shapes == jax.tree.map(lambda x: (x.shape[1:], x.dtype), kept)
    assert item_features(catalogue).shape == (ITEMS, kept.action.shape[1])
