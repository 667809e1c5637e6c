"""The one step that everything scans: whose keys are whose, what is carried, who has left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World
from dsrm_jax.training.rollout import make_step, play, until_left

USERS, ITEMS = 4, 6
ENVIRONMENT = make_environment(slate_size=2, max_len=5, history_length=2, ad_penalty=0)


def make_world():
    rows = jnp.arange(USERS, dtype=jnp.int32)
    keen = (rows % 2 == 0)[:, None].astype(jnp.float32)  # click everything, or nothing
    return World(
        response=TableResponse(jnp.broadcast_to(keen, (USERS, ITEMS))),
        starts=SessionStarts(rows, rows, rows > 0, jnp.arange(USERS + 1, dtype=jnp.int32)),
        item=jnp.arange(ITEMS, dtype=jnp.int32),
        is_popular=jnp.arange(ITEMS) < 3,
        log_popularity=jnp.zeros(ITEMS),
    )


def data(key):
    return np.asarray(jax.random.key_data(key)).tolist()


@pytest.mark.parametrize("draws", [1, 2])
def test_a_steps_keys_are_used_in_order_whatever_their_number(draws):
    """The first sub-keys are the same for every number of them: what draws one key or two is reproducible either way."""
    seen = {}

    def respond(key, env, slate, world):
        seen["respond"] = key
        return slate + env, env + 1, slate.sum(), False, False, {}

    def act(*inputs):
        *keys, env, observation = inputs
        seen.update({f"act {i}": key for i, key in enumerate(keys)}, env=env, observation=observation)
        return jnp.arange(2)[None], "record"

    def keep(key, step):
        seen["keep"] = key
        return step

    def look(key, observation):
        seen["look"] = key
        return observation

    step = make_step(respond, act, None, look=look, keep=keep, draws=draws)
    (env, following), kept = step((jnp.full(1, 10), "before"), jax.random.key(3))
    names = [*(f"act {i}" for i in range(draws)), "respond", "look", "keep"]
    keys = jax.random.split(jax.random.key(3), len(names))
    assert np.array_equal(jax.random.key_data(keys)[:3], jax.random.key_data(jax.random.split(jax.random.key(3), 3)))
    for name, key in zip(names, keys, strict=True):
        if name != "respond":  # mapped over users
            assert data(seen[name]) == data(key)
    assert seen["observation"] == kept.seen == "before"
    assert kept.record == "record"
    assert kept.env.tolist() == [10]  # the sessions before the step
    assert env.tolist() == [11]
    assert following.tolist() == [[10, 11]]


def show(key, env, observation):
    return jnp.broadcast_to(jnp.array([0, 5]), (*observation.time.shape, 2)), ()


def test_slots_take_the_next_user_and_complete_sessions_stay_as_they_ended():
    world, key = make_world(), jax.random.key(1)
    size = {"num_users": 8, "num_steps": 12}

    def run(environment, keep):
        return jax.jit(lambda key, world: play(key, show, environment, world, keep, **size))(key, world)

    _, times = run(ENVIRONMENT, lambda _, s: s.env.time)
    assert times.shape == (12, 8)
    assert np.all((np.diff(times, axis=0) == 1) | (times[1:] == 0))
    assert np.any(times[1:] == 0)
    (env, there), (present, user) = run(until_left(ENVIRONMENT), lambda _, s: (s.env[1], s.env[0].user))
    length = np.where(np.asarray(env.user) % 2 == 0, 5, 3)  # 2 - reward each step, below 1 it is over
    np.testing.assert_array_equal(env.time, length)
    np.testing.assert_array_equal(present.sum(0), env.time)
    assert not np.any(there)
    assert np.all(np.asarray(user) == env.user)
