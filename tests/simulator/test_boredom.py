"""Boredom and influence against the traces of naver/sardine and a literal transcription of its rule."""

import os
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.errors import InputError
from dsrm_jax.simulator.boredom import bore, influence, make_boredom, make_influence, make_sardine, start_boredom
from dsrm_jax.simulator.mechanism import felt, trait_of, with_mechanisms
from dsrm_jax.simulator.presets import PRESETS, make
from dsrm_jax.simulator.response import FactorResponse, TableResponse
from tests.simulator.literal_sardine import Literal
from tests.simulator.worlds import NUM_ITEMS, NUM_USERS, make_world

TRACES = Path(os.environ.get("DSRM_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "traces"
RULE = {"threshold": 5, "window": 5, "timeout": 5}


def run(item, user, slates, clicks, *, omega):
    """Return, of sessions (S, T, K), the memory after each step as arrays (S, T, ...)."""
    item = jnp.asarray(item)
    topics = jax.nn.one_hot(jnp.argmax(item, axis=1), item.shape[1], dtype=bool)

    def session(vector, slates, clicks):
        def step(carry, seen):
            boredom, vector = carry
            slate, clicks = seen
            boredom = bore(boredom, slate, clicks, topics, **RULE)
            vector = influence(vector, item[slate], clicks, omega=omega, scalar_mean=True)
            return (boredom, vector), (boredom, vector)

        start = start_boredom(num_topics=item.shape[1], kept=10, window=5, timeout=5)
        return jax.lax.scan(step, (start, vector), (slates, clicks))[1]

    return jax.jit(jax.vmap(session))(jnp.asarray(user), jnp.asarray(slates), jnp.asarray(clicks))


def test_ten_thousand_random_sessions_are_those_of_the_literal_rule():
    rng = np.random.default_rng(0)
    sessions, steps, slots = 10_000, 12, 6
    item = rng.random((30, 5)) * (rng.random((30, 5)) < 0.5)
    item = (item / np.maximum(np.linalg.norm(item, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    user = rng.random((sessions, 5)).astype(np.float32)
    user /= np.linalg.norm(user, axis=1, keepdims=True)
    slates = rng.integers(0, 30, (sessions, steps, slots)).astype(np.int32)
    clicks = rng.random((sessions, steps, slots)) < rng.random((sessions, 1, 1))
    boredom, vector = jax.tree.map(np.asarray, run(item, user, slates, clicks, omega=0.95))
    topic = item.argmax(1)
    want = {name: np.zeros((sessions, steps, 5)) for name in ("bored", "timeout", "count", "user")}
    for s in range(sessions):
        literal = Literal(user[s].astype(float), topic, item.astype(float), 0.95)
        for t in range(steps):
            literal.step(slates[s, t], clicks[s, t])
            for name, kept in want.items():
                kept[s, t] = getattr(literal, name)
    assert want["bored"].any(axis=(1, 2)).mean() > 0.2
    assert not want["bored"].all()
    for name in ("bored", "timeout", "count"):
        np.testing.assert_array_equal(getattr(boredom, name), want[name])
    np.testing.assert_allclose(vector, want["user"], atol=2e-6)


def world_of(response, categories, *mechanisms):
    """Return the test world of `tests/simulator/worlds.py` with these responses and categories of its items."""
    world = replace(make_world(response), categories=jnp.asarray(categories, bool))
    return with_mechanisms(jax.random.key(0), world, mechanisms)


def sardine_world(trace, slope, *mechanisms):
    """Return a world of the trace's items whose users are those of its sessions after `reset`."""
    item, user = trace["item"], trace["long_user"][:, 0]
    response = FactorResponse(
        jnp.asarray(slope * user), jnp.asarray(item), jnp.zeros(len(user)), jnp.full(len(item), -0.65 * slope)
    )
    world = make_world(response, num_items=len(item), rows=(1,) * len(user))
    world = replace(world, categories=jax.nn.one_hot(item.argmax(1), 10, dtype=bool))
    return with_mechanisms(jax.random.key(0), world, mechanisms)


@pytest.mark.parametrize(("name", "slope"), [("bored", 100.0), ("boredinf", 100.0), ("uncertain", 10.0)])
def test_sessions_of_the_public_simulator_are_replayed_to_equality(name, slope):
    path = TRACES / f"sardine_slatetopk_{name}.npz"
    if not path.is_file():
        pytest.skip(f"no traces of public simulators at {path}; set DSRM_SHARED_DATA to the folder that holds traces/")
    trace = np.load(path)
    (mechanism,) = make(f"sardine-topk-{name}").mechanisms
    world = sardine_world(trace, slope, mechanism)
    key = jax.random.key(0)

    def session(user, first_slate, first_clicks, slates, clicks):
        trait = trait_of(mechanism, user, world)

        def step(interest, seen):
            slate, clicks = seen
            logit = world.response.click_logit(user, slate, None)
            relevance = felt(jax.nn.sigmoid(logit), [mechanism], {"sardine": interest}, user, slate, world, logit=logit)
            present = jnp.where(jnp.any(interest.boredom.bored), 0.0, interest.vector)
            after = mechanism.step(key, interest, trait, slate, clicks, world)
            return after, (interest, present, relevance, mechanism.observe(after))

        start = mechanism.step(key, mechanism.start(key, trait, world), trait, first_slate, first_clicks, world)
        return jax.lax.scan(step, replace(start, vector=trait), (slates, clicks))[1]

    slates, clicks = jnp.asarray(trace["slate"], jnp.int32), jnp.asarray(trace["clicks"], bool)
    first = jnp.asarray(trace["first_slate"], jnp.int32), jnp.asarray(trace["first_clicks"], bool)
    found = jax.jit(jax.vmap(session))(jnp.arange(len(slates)), *first, slates, clicks)
    interest, present, relevance, counts = jax.tree.map(np.asarray, found)

    np.testing.assert_array_equal(interest.boredom.bored, trace["bored"])
    np.testing.assert_array_equal(interest.boredom.timeout, trace["timeout"])
    np.testing.assert_array_equal(counts, trace["counts"])
    np.testing.assert_allclose(interest.vector / slope, trace["long_user"], atol=1e-6)
    np.testing.assert_allclose(present / slope, trace["current_user"], atol=1e-6)
    np.testing.assert_allclose(relevance, trace["relevance"], atol=2e-7 * slope)
    chance = relevance * PRESETS[f"sardine-topk-{name}"]["position_bias"] ** np.arange(10)
    np.testing.assert_allclose(chance, trace["click_probability"], atol=2e-7 * slope)


def test_influence_moves_towards_the_clicked_items_and_keeps_the_users_norm():
    rng = np.random.default_rng(5)
    vector, items = rng.normal(size=4), rng.normal(size=(3, 4))
    clicks = np.array([True, False, True])
    got = influence(jnp.float32(vector), jnp.float32(items), jnp.asarray(clicks), omega=0.7)
    drawn = 0.7 * vector / np.linalg.norm(vector) + 0.3 * items[clicks].mean(0)
    np.testing.assert_allclose(got, drawn * np.linalg.norm(vector) / np.linalg.norm(drawn), rtol=1e-5)
    still = influence(jnp.float32(vector), jnp.float32(items), jnp.zeros(3, bool), omega=0.7)
    np.testing.assert_array_equal(still, jnp.float32(vector))


@pytest.mark.parametrize("kind", ["churn", "topic"])
def test_what_bores_loses_its_appeal_in_any_world(kind):
    """Two clicks on category 0 among the last steps bore for three steps: exactly those logits fall by the loss."""
    rng = np.random.default_rng(6)
    categories = rng.random((NUM_ITEMS, 3)) < 0.5
    mechanism = make_boredom(kind=kind, threshold=2, window=2, kept=9, timeout=3, loss=1.5)
    world = world_of(TableResponse(jnp.full((NUM_USERS, NUM_ITEMS), 0.5)), categories, mechanism)
    key, everything = jax.random.key(0), jnp.arange(NUM_ITEMS)
    trait = trait_of(mechanism, jnp.int32(0), world)
    memory = mechanism.start(key, trait, world)
    only = int(np.flatnonzero(categories[:, 0] & ~categories[:, 1] & ~categories[:, 2])[0])
    none = int(np.flatnonzero(~categories.any(1))[0])
    lost = np.where(categories[:, 0] | (kind == "churn"), -1.5, 0.0)
    bored = []
    for clicked in (True, True, False, False, False, False):
        slate = jnp.asarray([only, none], jnp.int32)
        memory = mechanism.step(key, memory, trait, slate, jnp.asarray([clicked, True]), world)
        felt_by = np.asarray(mechanism.feel(memory, trait, everything, world))
        bored.append(bool(memory.bored[0]))
        np.testing.assert_allclose(felt_by, lost if bored[-1] else np.zeros(NUM_ITEMS))
    assert bored == [False, True, True, True, False, False]
    np.testing.assert_allclose(mechanism.observe(memory), 0)


def test_influence_alone_shifts_logits_as_the_moved_vector_does():
    rng = np.random.default_rng(7)
    user, item = rng.normal(size=(NUM_USERS, 4)), rng.normal(size=(NUM_ITEMS, 4))
    response = FactorResponse(jnp.float32(user), jnp.float32(item), jnp.zeros(NUM_USERS), jnp.zeros(NUM_ITEMS))
    mechanism = make_influence(omega=0.6)
    world = world_of(response, np.zeros((NUM_ITEMS, 0)), mechanism)
    trait = trait_of(mechanism, jnp.int32(1), world)
    slate, clicks = jnp.asarray([2, 5, 7], jnp.int32), jnp.asarray([True, False, True])
    memory = mechanism.step(
        jax.random.key(0), mechanism.start(jax.random.key(0), trait, world), trait, slate, clicks, world
    )
    norm = np.linalg.norm(user[1])
    drawn = 0.6 * user[1] / norm + 0.4 * item[[2, 7]].mean(0) / np.linalg.norm(item, axis=1).max()
    want = item @ (drawn * norm / np.linalg.norm(drawn) - user[1])
    np.testing.assert_allclose(mechanism.feel(memory, trait, jnp.arange(NUM_ITEMS), world), want, atol=1e-5)


def test_worlds_that_cannot_bore_say_what_they_lack():
    table = TableResponse(jnp.full((NUM_USERS, NUM_ITEMS), 0.5))
    with pytest.raises(InputError, match="no categories"):
        make_boredom().start(jax.random.key(0), (), world_of(table, np.zeros((NUM_ITEMS, 0))))
    with pytest.raises(InputError, match="TableResponse, which has no vector"):
        world_of(table, np.ones((NUM_ITEMS, 2)), make_sardine())
    factors = FactorResponse(*(jnp.zeros(s) for s in ((NUM_USERS, 3), (NUM_ITEMS, 3), NUM_USERS, NUM_ITEMS)))
    with pytest.raises(InputError, match="3 factors and items 2 categories"):
        world_of(factors, np.ones((NUM_ITEMS, 2)), make_sardine(kind="topic"))
    with pytest.raises(InputError, match="omega"):
        make_influence(omega=1.5)
