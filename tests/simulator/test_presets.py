"""Presets against the settings of the public simulators that they are named after."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dsrm_jax as dj
from dsrm_jax.errors import InputError
from dsrm_jax.simulator.environment import make_environment
from tests.simulator.literal_sardine import Literal
from tests.simulator.test_quit import literal_length

PUBLISHED = {
    "paper": (6, 30, 0.3, 1, False, 0.0, 1.0),
    "kuaisim": (6, 20, 0.3, 0, True, 0.2, 1.0),
    "her4if": (10, 20, 0.3, 1, False, 0.2, 1.0),
    "easyrl4rec": (1, 100, 0.3, 0, False, 0.0, 1.0),
    "sardine-topk-bored": (10, 100, 0.3, 0, False, 0.0, 0.85),
    "sardine-topk-boredinf": (10, 100, 0.3, 0, False, 0.0, 0.85),
    "sardine-topk-uncertain": (10, 100, 0.3, 0, False, 0.0, 0.85),
}
STAYING = [name for name, published in PUBLISHED.items() if published[1] == 100]
FIELDS = ("slate_size", "max_len", "ad_bound", "ad_penalty", "double_sigmoid", "slate_correlation", "position_bias")


def test_presets_are_the_published_settings():
    default = {name: p.default for name, p in inspect.signature(make_environment).parameters.items()}
    settings = {name: tuple((default | dict(dj.PRESETS[name]))[field] for field in FIELDS) for name in PUBLISHED}
    assert settings == PUBLISHED


@pytest.mark.parametrize("name", dj.PRESETS)
def test_make_gives_the_preset_and_overrides_win(name):
    environment = dj.make(name)
    can_truncate, visits = name in STAYING, 30 if name == "retention" else 1
    size, length = PUBLISHED.get(name, PUBLISHED["paper"])[:2]
    assert environment.can_truncate == can_truncate
    assert (environment.slate_size, environment.max_steps) == (size, visits * length)
    changed = dj.make(name, slate_size=4, max_len=9, reward=lambda clicks, slate, world: jnp.float32(0))
    assert (changed.slate_size, changed.max_steps) == (4, 9 * visits)


def test_mechanisms_of_a_preset_are_changed_added_and_taken_away_by_name():
    changed = dj.make("mood", satisfaction={"slope": 0.0}, mood=None, platform={})
    assert [m.name for m in changed.mechanisms] == ["appeal", "satisfaction", "platform"]
    felt = changed.mechanisms[1].feel(jnp.float32(0.9), jnp.float32(0.1), jnp.arange(3), None)
    assert felt.tolist() == [0.0] * 3
    assert dj.make("mood", mechanisms=()).mechanisms == ()
    with pytest.raises(InputError, match=r"satisfaction\.slope is -1"):
        dj.make("satisfaction", satisfaction={"slope": -1.0})


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'kuaisim'"):
        dj.make("kuaisin")
    with pytest.raises(InputError, match=r"environment\.max_len is 0"):
        dj.make("paper", max_len=0)


def play(environment, world, slates):
    """Return what happens to B users in T steps of given slates (B, T, K): states before each step, clicks, ends."""

    def session(key, slates):
        reset_key, run_key = jax.random.split(key)

        def step(state, seen):
            key, slate = seen
            _, after, _, terminated, truncated, info = environment.step(key, state, slate, world)
            return after, (state, info["clicks"], terminated, truncated)

        start = environment.reset(reset_key, world)[1]
        return jax.lax.scan(step, start, (jax.random.split(run_key, len(slates)), slates))[1]

    return jax.device_get(jax.jit(jax.vmap(session))(jax.random.split(jax.random.key(0), len(slates)), slates))


def test_sardines_sessions_click_by_its_rule_and_end_after_100_steps():
    """Near-greedy slates of 200 users: memory is the transcription's at every step, and clicks have its chances."""
    environment = dj.make("sardine-topk-boredinf")
    log = dj.load_log("sardine-topk-boredinf")
    world = dj.make_worlds(jax.random.key(0), log, slate_size=10, mechanisms=environment.mechanisms).test
    item = log.synthetic.item_factors.astype(float)
    rng = np.random.default_rng(0)
    slates = np.stack([rng.choice(np.argsort(-item @ rng.random(10))[:60], (100, 10)) for _ in range(200)])
    state, clicks, terminated, truncated = play(environment, world, jnp.asarray(slates, jnp.int32))
    np.testing.assert_array_equal(np.flatnonzero(truncated[0]), [99])
    assert not terminated.any()
    memory, chance = state.memory["sardine"], np.zeros(clicks.shape)
    bored, vectors = np.zeros((200, 100, 10), bool), np.zeros((200, 100, 10))
    for u in range(200):
        user = Literal(np.asarray(world.response.user[state.user[u, 0]], float) / 100, item.argmax(1), item, 0.95)
        for t in range(100):
            bored[u, t], vectors[u, t] = user.bored, user.user
            vector = np.zeros(10) if user.bored.any() else user.user
            chance[u, t] = 0.85 ** np.arange(10) / (1 + np.exp(-100 * (item[slates[u, t]] @ vector - 0.65)))
            user.step(slates[u, t], clicks[u, t])
    np.testing.assert_array_equal(memory.boredom.bored, bored)
    np.testing.assert_allclose(memory.vector / 100, vectors, atol=3e-6)
    assert bored.any(axis=(1, 2)).mean() > 0.3
    spread = np.sqrt(np.sum(chance * (1 - chance), axis=(0, 1)))
    assert np.all(np.abs(np.sum(clicks - chance, axis=(0, 1))) < 4 * spread)


def test_easyrl4recs_sessions_end_by_the_public_rule():
    environment = dj.make("easyrl4rec")
    log = dj.load_log("kuairec", history_scale=0.05)
    world = dj.make_worlds(jax.random.key(0), log, slate_size=1, mechanisms=environment.mechanisms).test
    features = [np.flatnonzero(row) for row in log.categories[log.catalogue]]
    slates = np.random.default_rng(1).integers(0, len(log.catalogue), (300, 100, 1))
    _, _, terminated, truncated = play(environment, world, jnp.asarray(slates, jnp.int32))
    ended = terminated | truncated
    want = [literal_length(row[:, 0], features, 5, 1, slice_fault=True) for row in slates]
    np.testing.assert_array_equal(ended.argmax(axis=1) + 1, want)
    assert max(want) > 20
