"""The simulator under Gymnax 1.0: its own wrappers, its spaces, and a PPO loop written for Gymnax's environments."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dsrm_jax as dj
from dsrm_jax.errors import InputError
from dsrm_jax.simulator.mechanism import with_mechanisms
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World

gymnax = pytest.importorskip("gymnax", reason="needs the extra gymnax: pip install 'dsrm-jax[gymnax]'")

from gymnax.environments import spaces  # noqa: E402
from gymnax.wrappers import FlattenObservationWrapper, LogWrapper  # noqa: E402

from dsrm_jax.simulator.gymnax_adapter import GymnaxEnvironment  # noqa: E402

USERS, ROWS, ITEMS, K, H = 3, 4, 8, 2, 5
LIKED = 3  # this item is always clicked, the others hardly ever
SIMULATOR = dj.make("paper", slate_size=K, max_len=6, history_length=H)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    table = np.where(np.arange(ITEMS) == LIKED, 1.0, 0.05)
    return World(
        response=TableResponse(jnp.broadcast_to(jnp.float32(table), (USERS, ITEMS))),
        starts=SessionStarts(
            jnp.asarray(np.repeat(np.arange(USERS), ROWS), jnp.int32),
            jnp.asarray(rng.integers(0, ITEMS, USERS * ROWS), jnp.int32),
            jnp.asarray(rng.random(USERS * ROWS) < 0.5),
            jnp.arange(0, USERS * ROWS + 1, ROWS, dtype=jnp.int32),
        ),
        item=jnp.arange(ITEMS, dtype=jnp.int32),
        is_popular=jnp.arange(ITEMS) % 2 == 0,
        log_popularity=jnp.zeros(ITEMS),
    )


def table_of_events(observation, world):
    """(H, 2): each event's item, and whether it was clicked."""
    return jnp.stack([observation.history.item / ITEMS, observation.history.click], axis=1).astype(jnp.float32)


def test_it_is_the_simulator_with_gymnaxs_six_values_and_auto_reset(world):
    env = GymnaxEnvironment(SIMULATOR, world)
    observation, state = env.reset(jax.random.key(0))
    own_step = jax.jit(SIMULATOR.step_auto_reset)
    sample = jax.jit(env.action_space(world).sample)
    is_slate = jax.jit(env.action_space(world).contains)
    is_observation = jax.jit(env.observation_space(world).contains)
    ended = 0
    for t in range(12):
        key, slate = jax.random.key(t), sample(jax.random.key(100 + t))
        assert is_slate(slate)
        assert is_observation(observation)
        expected = own_step(key, state, slate, world)
        observation, state, reward, terminated, truncated, info = env.step(key, state, slate, world)
        # Gymnax splits the step's key as `step_auto_reset` does
        jax.tree.map(np.testing.assert_array_equal, (observation, state, reward), expected[:3])
        assert (bool(terminated), bool(truncated)) == (bool(expected[3]), False)
        final = expected[5]["final_observation"]
        jax.tree.map(np.testing.assert_array_equal, info["final_observation"], final)
        ended += int(terminated)
    assert ended >= 2
    with pytest.raises(InputError, match="without a world"):
        GymnaxEnvironment(SIMULATOR).reset(jax.random.key(0))


def test_worlds_with_memory_show_what_is_counted(world):
    simulator = dj.make("platform", slate_size=K, max_len=6, history_length=H)
    world = with_mechanisms(jax.random.key(0), world, simulator.mechanisms)
    env = GymnaxEnvironment(simulator, world)
    observation, state = env.reset(jax.random.key(0))
    assert env.observation_space(world).contains(observation)
    observation, *_ = env.step(jax.random.key(1), state, 2 * jnp.arange(K), world)
    np.testing.assert_allclose(observation.context[-2:], [1.0, 0.05 * 0.5], rtol=1e-5)


def test_a_cap_truncates(world):
    env = GymnaxEnvironment(dj.make("paper", slate_size=K, step_cap=2), world)
    _, state = env.reset(jax.random.key(0))
    flags = []
    for t in range(2):
        _, state, _, terminated, truncated, _ = env.step(jax.random.key(t), state, jnp.arange(K))
        flags.append((bool(terminated), bool(truncated)))
    assert flags == [(False, False), (False, True)]
    assert int(state.time) == 0


def test_spaces_convert_to_gymnasiums(world):
    space = spaces.gymnax_space_to_gym_space(GymnaxEnvironment(SIMULATOR).action_space(world))
    assert space.shape == (K,)
    shown = GymnaxEnvironment(SIMULATOR, observe=table_of_events)
    assert shown.observation_space(world).shape == (H, 2)
    assert FlattenObservationWrapper(shown).observation_space(world).shape == (2 * H,)


def ppo(env, num_users, length, num_updates):
    """PPO in the manner of purejaxrl, one linear policy over Plackett-Luce slates and one linear value."""
    optimiser = optax.adam(0.05)

    def log_prob(params, observation, slate):
        logits = observation @ params["policy"] + params["bias"]
        left = jnp.ones_like(logits, bool)
        total = 0.0
        for k in range(K):
            chosen = jnp.take_along_axis(logits, slate[..., k : k + 1], -1)[..., 0]
            total += chosen - jax.nn.logsumexp(jnp.where(left, logits, -jnp.inf), axis=-1)
            left &= jnp.arange(ITEMS) != slate[..., k : k + 1]
        return total

    def act(params, key, observation):
        logits = observation @ params["policy"] + params["bias"]
        slate = jax.lax.top_k(logits + jax.random.gumbel(key, logits.shape), K)[1]
        return slate, log_prob(params, observation, slate)

    def loss(params, batch, advantage, target):
        observation, slate, old = batch
        ratio = jnp.exp(log_prob(params, observation, slate) - old)
        clipped = jnp.clip(ratio, 0.8, 1.2)
        value = observation @ params["value"]
        return jnp.mean((value - target) ** 2) - jnp.minimum(ratio * advantage, clipped * advantage).mean()

    def train(key, world):
        params = {"policy": jnp.zeros((2 * H, ITEMS)), "bias": jnp.zeros(ITEMS), "value": jnp.zeros(2 * H)}
        reset_key, key = jax.random.split(key)
        reset = jax.vmap(env.reset, in_axes=(0, None))
        observation, state = reset(jax.random.split(reset_key, num_users), world)

        def update(carry, key):
            params, optimiser_state, observation, state = carry

            def step(carry, key):
                observation, state = carry
                act_key, env_key = jax.random.split(key)
                slate, old = act(params, act_key, observation)
                following, state, reward, terminated, _, info = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
                    jax.random.split(env_key, num_users), state, slate, world
                )
                value = info["final_observation"] @ params["value"]
                return (following, state), ((observation, slate, old), reward, terminated, value, info)

            keys = jax.random.split(key, length)
            (observation, state), (batch, reward, terminated, value, info) = jax.lax.scan(
                step, (observation, state), keys
            )
            target = reward + 0.9 * value * (1 - terminated)
            advantage = target - batch[0] @ params["value"]
            for _ in range(3):
                gradient = jax.grad(loss)(params, batch, advantage, target)
                change, optimiser_state = optimiser.update(gradient, optimiser_state)
                params = optax.apply_updates(params, change)
            returned = {name: info[name] for name in info if name.startswith("returned_episode")}
            return (params, optimiser_state, observation, state), (reward.mean(), returned)

        start = params, optimiser.init(params), observation, state
        return jax.lax.scan(update, start, jax.random.split(key, num_updates))[1]

    return jax.jit(train)


def test_a_ppo_loop_for_gymnax_learns_through_its_wrappers(world):
    env = LogWrapper(FlattenObservationWrapper(GymnaxEnvironment(SIMULATOR, observe=table_of_events)))
    reward, info = jax.device_get(ppo(env, num_users=16, length=8, num_updates=25)(jax.random.key(0), world))
    # one of two shown items is the liked one at best; a random slate shows it every fourth time
    assert reward[0] < 0.35
    assert reward[-3:].mean() > 0.45
    ended = info["returned_episode"]
    assert ended.any()
    assert np.all(info["returned_episode_lengths"][ended] <= SIMULATOR.max_steps)
    assert np.all(info["returned_episode_lengths"][ended] >= 2)


def test_parameters_are_not_baked_in(world):
    """Another world of the same shapes is another environment to the same compiled step."""
    env = GymnaxEnvironment(SIMULATOR)
    nothing = world.replace(response=TableResponse(jnp.zeros((USERS, ITEMS))))
    _, state = env.reset(jax.random.key(0), world)
    slate = jnp.array([LIKED, 0])
    assert float(env.step(jax.random.key(1), state, slate, world)[2]) >= 0.5
    assert float(env.step(jax.random.key(1), state, slate, nothing)[2]) == 0
