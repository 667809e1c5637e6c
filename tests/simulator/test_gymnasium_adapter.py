"""The simulator under Gymnasium: its checker, its vector API, and the simulator's own steps beneath."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dsrm_jax as dj
from dsrm_jax.errors import InputError
from dsrm_jax.simulator.mechanism import with_mechanisms
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra: pip install 'dsrm-jax[gymnasium]'")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from dsrm_jax.simulator import gymnasium_adapter  # noqa: E402

USERS, ROWS, ITEMS, K, B = 3, 4, 12, 3, 4
SMALL = {"slate_size": K, "max_len": 6, "history_length": 5}
gymnasium.register_envs(gymnasium_adapter)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    return World(
        response=TableResponse(jnp.asarray(rng.random((USERS, ITEMS)), jnp.float32)),
        starts=SessionStarts(
            jnp.asarray(np.repeat(np.arange(USERS), ROWS), jnp.int32),
            jnp.asarray(rng.integers(0, 30, USERS * ROWS), jnp.int32),
            jnp.asarray(rng.random(USERS * ROWS) < 0.5),
            jnp.arange(0, USERS * ROWS + 1, ROWS, dtype=jnp.int32),
        ),
        item=jnp.arange(ITEMS, dtype=jnp.int32),
        is_popular=jnp.arange(ITEMS) % 2 == 0,
        log_popularity=jnp.zeros(ITEMS),
    )


@pytest.fixture(scope="module")
def env(world):
    return gymnasium.make("dsrm_jax/paper-v0", world=world, **SMALL)


@pytest.mark.filterwarnings("error")
def test_gymnasiums_checker_finds_nothing(env):
    check_env(env.unwrapped)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["mood", "platform"])
def test_worlds_with_memory_pass_the_checker_and_show_what_is_counted(world, name):
    simulator = dj.make(name, **SMALL)
    world = with_mechanisms(jax.random.key(0), world, simulator.mechanisms)
    one = gymnasium.make(f"dsrm_jax/{name}-v0", world=world, **SMALL)
    check_env(one.unwrapped)
    many = gymnasium.make_vec(f"dsrm_jax/{name}-v0", num_envs=B, world=world, **SMALL)
    shown, _ = many.reset(seed=0)
    price = 0.0
    for _ in range(12):
        slates = np.tile([0, 2, 4], (B, 1))  # popular items alone
        shown, *_ = many.step(slates)
        assert shown in many.observation_space
        price += 0.05 * 0.5
        if name == "platform":
            np.testing.assert_allclose(shown["context"][:, -2:], np.tile([1.0, price], (B, 1)), rtol=1e-5)


def test_lists_go_in_numpy_comes_out_and_the_steps_are_the_simulators(env, world):
    simulator = dj.make("paper", **SMALL)
    first, _ = env.reset(seed=3)
    step = jax.jit(simulator.step)
    state, key = env.unwrapped._state, env.unwrapped._key
    total = 0.0
    for t in range(20):
        slate = [t % ITEMS, (t + 1) % ITEMS, (t + 5) % ITEMS]
        observation, reward, terminated, truncated, info = env.step(slate)
        key, step_key = jax.random.split(key)
        _, state, expected, left, _, _ = step(step_key, state, jnp.asarray(slate), world)
        assert (reward, terminated, truncated) == (float(expected), bool(left), False)
        assert all(isinstance(x, np.ndarray) for x in observation.values())
        assert env.observation_space.contains(observation)
        np.testing.assert_array_equal(observation["item"][-K:], slate)
        np.testing.assert_array_equal(observation["click"][-K:], info["clicks"])
        total += reward
        if terminated:
            break
    assert terminated
    assert info["session_return"] == pytest.approx(total)
    again, _ = env.reset(seed=3)
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize("slate", [[0, 1], [0, 1, 1], [0, 1, ITEMS], [-1, 0, 1], [0.0, 1.0, 2.0]])
def test_what_is_no_slate_is_refused_in_one_sentence(env, slate):
    env.reset(seed=0)
    assert not env.action_space.contains(slate)
    with pytest.raises(InputError, match="is not 3 distinct positions of the catalogue"):
        env.step(slate)


def test_sampled_slates_are_distinct_and_uniform(env):
    env.action_space.seed(0)
    slates = np.stack([env.action_space.sample() for _ in range(3000)])
    assert all(env.action_space.contains(slate) for slate in slates[:100])
    assert np.all(np.diff(np.sort(slates, axis=1), axis=1) > 0)
    np.testing.assert_allclose(np.bincount(slates.ravel(), minlength=ITEMS) / 3000, K / ITEMS, atol=0.04)


def test_a_vector_environment_resets_leavers_in_the_same_step_and_keeps_their_last_observation(world):
    envs = gymnasium.make_vec("dsrm_jax/paper-v0", num_envs=B, world=world, **SMALL)
    assert isinstance(envs.unwrapped, gymnasium_adapter.SessionVectorEnv)
    assert envs.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.SAME_STEP
    observation, _ = envs.reset(seed=1)
    envs.action_space.seed(2)
    ended = 0
    for t in range(15):
        assert envs.observation_space.contains(observation)
        assert observation["item"].shape == (B, 5)
        before, slates = observation, envs.action_space.sample()
        observation, reward, terminated, truncated, info = envs.step(slates if t % 2 else np.asarray(slates))
        assert reward.shape == terminated.shape == truncated.shape == (B,)
        assert (reward.dtype, terminated.dtype) == (np.float32, bool)
        assert ("final_obs" in info) == terminated.any()
        for i in np.flatnonzero(terminated):
            final = info["final_obs"][i]
            assert envs.single_observation_space.contains(final)
            np.testing.assert_array_equal(final["item"][-K:], slates[i])
            assert final["time"] == before["time"][i] + 1 == info["final_info"]["session_length"][i]
            assert observation["time"][i] == 0
            ended += 1
        assert all(info["final_obs"][i] is None for i in np.flatnonzero(~terminated) if "final_obs" in info)
        np.testing.assert_array_equal(observation["time"][~terminated], before["time"][~terminated] + 1)
    assert ended >= B
    with pytest.raises(InputError, match="2 slates for 4 environments"):
        envs.step(slates[:2])
    envs.close()


def test_gymnasiums_own_vectoriser_and_wrappers_take_it(world):
    envs = gymnasium.make_vec(
        "dsrm_jax/her4if-v0", num_envs=2, vectorization_mode="sync", world=world, max_len=3, slate_size=K
    )
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    envs.reset(seed=0)
    for _ in range(4):
        envs.step(envs.action_space.sample())
    assert envs.length_queue
    assert max(envs.length_queue) <= 3


def test_a_world_comes_of_a_log_or_is_asked_for(world):
    for settings in ({}, {"world": world, "log": "kuairec"}):
        with pytest.raises(InputError, match="give either world="):
            gymnasium.make("dsrm_jax/paper-v0", **settings)
    with pytest.raises(InputError, match="split is 'validation'"):
        gymnasium.make("dsrm_jax/paper-v0", log="kuairec", split="validation")


def test_one_line_finds_it_in_a_new_process():
    script = """
import gymnasium
try:
    gymnasium.make("dsrm_jax.simulator.gymnasium_adapter:dsrm_jax/kuaisim-v0")
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "give either world=" in done.stdout
