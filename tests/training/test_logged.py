"""The log read as sessions, against a Python loop over its rows and the leave rule written out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.config import Config, EncoderConfig, EnvironmentConfig, PurifierConfig
from dsrm_jax.purify.encoder import Embeddings, make_catalogue
from dsrm_jax.purify.perception import Perception
from dsrm_jax.runs.pieces import encoder_of, environment_of, perceive_of
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.mechanism import with_mechanisms
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.satisfaction import make_satisfaction
from dsrm_jax.simulator.tolerance import make_tolerance
from dsrm_jax.simulator.world import SessionStarts, World
from dsrm_jax.training.logged import SEARCH, logged_data, next_slate

VOCABULARY, ITEMS, K, MAX_LEN = 16, 10, 2, 4
CONFIG = Config(
    environment=EnvironmentConfig(slate_size=K, max_len=MAX_LEN, history_length=6),
    encoder=EncoderConfig(dim=2),
    purifier=PurifierConfig(kind="identity"),
)


@pytest.fixture(scope="module")
def world():
    """Three users; every third item of the log is outside the catalogue, and items come twice."""
    rng = np.random.default_rng(0)
    counts = np.array([40, 3, 60])
    return World(
        response=TableResponse(jnp.full((3, ITEMS), jnp.nan)),  # whoever asks for a response will see
        starts=SessionStarts(
            jnp.asarray(np.repeat(np.arange(3), counts), jnp.int32),
            jnp.asarray(rng.integers(0, VOCABULARY, counts.sum()), jnp.int32),
            jnp.asarray(rng.random(counts.sum()) < 0.5),
            jnp.asarray(np.concatenate([[0], np.cumsum(counts)]), jnp.int32),
        ),
        item=jnp.asarray(rng.permutation(VOCABULARY)[:ITEMS], jnp.int32),
        is_popular=jnp.arange(ITEMS) < 4,
        log_popularity=jnp.zeros(ITEMS),
        exposure=jnp.ones(ITEMS),
        clicked=jnp.ones(ITEMS),
    )


@pytest.fixture(scope="module")
def catalogue(world):
    return make_catalogue(Embeddings(jnp.zeros((VOCABULARY, 3)), jnp.zeros(VOCABULARY)), world)


def read(world, row):
    """The next K distinct catalogue items of the row's user, by hand."""
    users, items, clicks = (np.asarray(getattr(world.starts, name)) for name in ("user", "item", "click"))
    position = {int(v): j for j, v in enumerate(np.asarray(world.item))}
    slate, answers = [], []
    for i in range(row, min(row + SEARCH * K, len(users))):
        item = position.get(int(items[i]))
        if users[i] != users[row] or len(slate) == K:
            break
        if item is not None and item not in slate:
            slate.append(item)
            answers.append(bool(clicks[i]))
            following = i + 1
    return (slate, answers, following) if len(slate) == K else None


def test_the_next_slate_is_the_users_next_catalogue_items_in_order(world, catalogue):
    step = jax.jit(jax.vmap(lambda row: next_slate(world, catalogue.position, row, slate_size=K)))
    num_rows = world.starts.user.shape[0]
    slate, click, following, found = step(jnp.arange(num_rows))
    expected = [read(world, row) for row in range(num_rows)]
    assert np.asarray(found).tolist() == [e is not None for e in expected]
    assert 0 < np.sum(found) < num_rows
    for row, wanted in enumerate(expected):
        if wanted is not None:
            assert (slate[row].tolist(), click[row].tolist(), int(following[row])) == wanted


@pytest.fixture(scope="module")
def logged(world, catalogue):
    encoder = encoder_of(CONFIG).init(jax.random.key(0), Embeddings(jnp.zeros((VOCABULARY, 3)), jnp.zeros(VOCABULARY)))
    run = jax.jit(
        lambda key: logged_data(
            key, environment_of(CONFIG), world, Perception(encoder, {}), perceive_of(CONFIG), catalogue
        )
    )
    return jax.device_get(run(jax.random.key(1)))


def test_every_transition_is_a_slate_of_the_log_with_its_logged_clicks(world, logged):
    every = [read(world, row) for row in range(world.starts.user.shape[0])]
    slates = {(tuple(e[0]), tuple(e[1])) for e in every if e is not None}
    step = logged.transitions
    found = {(tuple(s), tuple(c)) for s, c in zip(step.slate.tolist(), step.clicks.tolist(), strict=True)}
    assert found == slates
    np.testing.assert_allclose(step.reward, step.clicks.mean(1))
    np.testing.assert_allclose(step.popular_share, (step.slate < 4).mean(1))


def test_sessions_end_by_the_leave_rule(logged):
    """A first step of a session costs 2 - reward, and 1 more off balance; T0 = 4 lets no session end in it."""
    step = logged.transitions
    time = step.view.time
    assert not np.any(step.terminated[time == 0])
    # at least one step's worth of temper goes at each step, at most three
    assert np.max(time) <= MAX_LEN - 1
    cost = 2 - step.reward + (np.abs(2 * step.popular_share - 1) >= 0.3)
    second = time == 1
    # the cheapest first step leaves 3 of 4: a second step that costs more than 2 always ends the session
    assert np.all(step.terminated[second & (cost > MAX_LEN - 1 - 1)])
    np.testing.assert_array_equal(step.next_view.time, time + 1)


def test_items_are_catalogue_positions_in_the_logs_order(world, logged):
    position = np.full(VOCABULARY, -1)
    position[np.asarray(world.item)] = np.arange(ITEMS)
    np.testing.assert_array_equal(logged.item, position[np.asarray(world.starts.item)])
    np.testing.assert_array_equal(logged.user, world.starts.user)


def test_a_world_without_a_whole_slate_in_its_log_still_gives_finite_numbers(world, catalogue):
    rows = jax.device_get(world.starts)
    short = dataclasses.replace(rows, first=np.array([0, 1, 2, 3], np.int32))
    one_each = dataclasses.replace(
        world,
        starts=dataclasses.replace(short, user=short.user[[0, 40, 43]], item=short.item[:3], click=short.click[:3]),
    )
    one_each = jax.tree.map(jnp.asarray, one_each)
    step = jax.jit(jax.vmap(lambda r: next_slate(one_each, catalogue.position, r, slate_size=K)))
    _, _, _, found = step(np.arange(3))
    assert not np.any(found)


def test_mechanisms_remember_what_the_log_shows_and_make_its_users_leave(world, catalogue):
    """Net exposure follows the logged slates, and a tolerance nobody meets costs two steps each time."""
    mechanisms = make_satisfaction(), make_tolerance(bound=0.0, penalty=2)
    environment = make_environment(slate_size=K, max_len=MAX_LEN, history_length=6, ad_penalty=0, mechanisms=mechanisms)
    remembering = with_mechanisms(jax.random.key(0), world, mechanisms)
    encoder = encoder_of(CONFIG).init(jax.random.key(0), Embeddings(jnp.zeros((VOCABULARY, 3)), jnp.zeros(VOCABULARY)))
    arguments = environment, remembering, Perception(encoder, {}), perceive_of(CONFIG), catalogue
    step = jax.device_get(jax.jit(lambda key: logged_data(key, *arguments))(jax.random.key(1))).transitions
    before, after = step.view.context[:, -2], step.next_view.context[:, -2]  # the last is what tolerance shows
    np.testing.assert_allclose(after, 0.8 * before + 0.2 * step.popular_share, rtol=1e-5)
    np.testing.assert_allclose(before[step.view.time == 0], 0.4, rtol=1e-6)
    cost = 2 * K - step.clicks.sum(axis=1) + 2 * K  # of a step, in units of 1/K
    last = step.view.time == 0
    np.testing.assert_array_equal(step.terminated[last], K * MAX_LEN - cost[last] < K)
    assert step.terminated[last].any()
