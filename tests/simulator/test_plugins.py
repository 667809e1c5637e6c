"""An own reward, leave rule and response, all defined here and not in the package, in sessions and in training."""

import sys
from functools import partial
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import dsrm_jax as dj
from dsrm_jax.config import AgentConfig, Config, EncoderConfig, EnvironmentConfig, PurifierConfig
from dsrm_jax.data.log import InteractionLog, Interactions
from dsrm_jax.errors import InputError
from dsrm_jax.evaluation.sessions import run_sessions
from dsrm_jax.purify.encoder import Embeddings
from dsrm_jax.runs.pieces import agent_of, encoder_of, environment_of, purifier_of, response_of, worlds_of
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World
from dsrm_jax.training.loop import make_trainer

USERS, ROWS, ITEMS, SLATE = 5, 4, 10, 3
CONFIG = Config(
    environment=EnvironmentConfig(slate_size=SLATE, max_len=6, history_length=5),
    encoder=EncoderConfig(dim=2),
    purifier=PurifierConfig(kind="identity"),
    agent=AgentConfig(method="a2c", hidden=4),
)


def make_world(response):
    rng = np.random.default_rng(1)
    return World(
        response=response,
        starts=SessionStarts(
            jnp.asarray(np.repeat(np.arange(USERS), ROWS), jnp.int32),
            jnp.asarray(rng.integers(0, ITEMS, USERS * ROWS), jnp.int32),
            jnp.asarray(rng.random(USERS * ROWS) < 0.5),
            jnp.arange(0, USERS * ROWS + 1, ROWS, dtype=jnp.int32),
        ),
        item=jnp.arange(ITEMS, dtype=jnp.int32),
        is_popular=jnp.arange(ITEMS) < 4,
        log_popularity=jnp.asarray(rng.normal(size=ITEMS), jnp.float32),
    )


def table(probability):
    return TableResponse(jnp.broadcast_to(jnp.float32(probability), (USERS, ITEMS)))


def train(environment, world):
    """Two updates of a policy that sees the raw state; returns the metrics of each."""
    encoder, purifier = encoder_of(CONFIG), purifier_of(CONFIG)
    trainer = make_trainer(
        environment, agent_of(CONFIG), encoder, purifier, num_users=4, rollout_length=environment.max_steps
    )
    rng = np.random.default_rng(0)
    embeddings = Embeddings(jnp.asarray(rng.normal(size=(ITEMS + 2, 3)), jnp.float32), jnp.zeros(ITEMS + 2))
    perception = dj.Perception(encoder.init(jax.random.key(0), embeddings), {})

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(key):
        return trainer.train(trainer.init(key, world, perception), world, perception, 2)

    state, metrics = run(jax.random.key(1))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((state.agent, metrics)))
    return jax.device_get(metrics)


def tail_reward(clicks, slate, world):
    """Two for a slate, and one for each click outside the popular group."""
    return 2.0 + jnp.sum(clicks & ~world.is_popular[slate])


def bored(*, patience=2):
    """Leave after so many slates in a row without a click; a click count is remembered beside it."""

    def start():
        return {"dry": jnp.int32(0), "clicks": jnp.float32(0)}

    def step(memory, clicks, num_popular):
        dry = jnp.where(jnp.any(clicks), 0, memory["dry"] + 1)
        return {"dry": dry, "clicks": memory["clicks"] + jnp.sum(clicks)}, dry >= patience

    return dj.Leave(start, step)


def walk(environment, world, steps):
    """Steps of one user on random slates; the last state and everything that the steps returned."""
    step = jax.jit(environment.step)
    _, state = jax.jit(environment.reset)(jax.random.key(0), world)
    results, slates = [], []
    for t in range(steps):
        slates.append(environment.action_space(world).sample(jax.random.key(50 + t)))
        result = step(jax.random.key(t), state, slates[-1], world)
        state = result[1]
        results.append(jax.device_get(result))
    return results, np.asarray(slates)


def test_an_own_reward_is_paid_and_summed_while_temper_and_clicks_follow_the_clicks():
    world = make_world(table(0.5))
    own, _ = walk(dj.make_environment(slate_size=SLATE, history_length=5, reward=tail_reward), world, 4)
    plain, slates = walk(dj.make_environment(slate_size=SLATE, history_length=5), world, 4)
    total = 0.0
    for (_, state, reward, *_, info), (_, before, click_reward, *_, before_info), slate in zip(
        own, plain, slates, strict=True
    ):
        expected = 2.0 + np.sum(info["clicks"] & (slate >= 4))
        total += expected
        assert reward == expected
        assert info["session_return"] == total
        np.testing.assert_array_equal(info["clicks"], before_info["clicks"])
        assert click_reward == pytest.approx(info["clicks"].mean())
        assert (state.temper, state.clicks) == (before.temper, before.clicks)
        assert before.total is None, "the click reward needs no sum of its own"


def test_an_own_reward_trains():
    metrics = train(
        dj.make_environment(slate_size=SLATE, max_len=6, history_length=5, reward=tail_reward), make_world(table(0.5))
    )
    assert np.all(metrics["reward"] > 2)
    assert np.all(metrics["return"][metrics["sessions"] > 0] > 2)


def test_an_own_leave_rule_decides_and_sessions_that_it_never_ends_are_cut():
    environment = dj.make_environment(slate_size=SLATE, max_len=6, history_length=5, leave=bored())
    assert (environment.can_truncate, environment.max_steps) == (True, 6)
    capped = dj.make_environment(slate_size=SLATE, max_len=6, step_cap=40, leave=bored())
    assert capped.max_steps == 40
    never, _ = walk(environment, make_world(table(0.0)), 2)
    assert [(bool(r[3]), bool(r[4])) for r in never] == [(False, False), (True, False)]
    always, _ = walk(environment, make_world(table(1.0)), 6)
    assert [(bool(r[3]), bool(r[4])) for r in always] == [(False, False)] * 5 + [(False, True)]
    assert always[-1][1].temper == {"dry": 0, "clicks": 18.0}
    # the balance of a slate is still told by the bound
    assert [bool(r[5]["broken"]) for r in always] == [True] * 6


def test_an_own_leave_rule_trains_and_is_evaluated():
    environment = dj.make_environment(slate_size=SLATE, max_len=6, history_length=5, leave=bored())
    metrics = train(environment, make_world(table(0.2)))
    assert np.all(metrics["sessions"] > 0)

    def act(key, env, observation):
        return jnp.broadcast_to(jnp.arange(SLATE), (*env.user.shape, SLATE)), ()

    for probability, length in ((0.0, 2), (1.0, 6)):
        sessions = jax.jit(lambda key, world: run_sessions(key, act, environment, world, num_sessions=5, num_users=5))(
            jax.random.key(0), make_world(table(probability))
        )
        np.testing.assert_array_equal(sessions.length, length)


@struct.dataclass
class Habit:
    """Users click an item as often as its rows were clicked, and more often after a click."""

    rate: jax.Array
    users: jax.Array

    def click_probability(self, user, slate, history):
        return jnp.where(history.click[-1], 1.0, self.rate[slate])

    def item_vectors(self):
        return self.rate[:, None]


def make_habit(key, log, rows, users):
    shown = np.bincount(rows.item, minlength=log.num_items) + 1
    return Habit((np.bincount(rows.item, rows.click, log.num_items) / shown)[log.catalogue], users)


@pytest.fixture(scope="module")
def log():
    def rows(seed, count):
        rng = np.random.default_rng(seed)
        user, item = np.sort(rng.integers(0, USERS, count)), rng.integers(0, ITEMS + 2, count)
        click = rng.random(count) < 0.5
        return Interactions(
            user.astype(np.int32), item.astype(np.int32), click, np.arange(count), click.astype(np.float32)
        )

    return InteractionLog(
        name="own",
        source="an own log",
        user_ids=np.arange(USERS),
        item_ids=np.arange(ITEMS + 2),
        train=rows(0, 60),
        test=rows(1, 40),
        catalogue=np.arange(1, ITEMS + 1, dtype=np.int32),
        categories=np.zeros((ITEMS + 2, 0), bool),
    )


def test_an_own_response_is_made_of_each_splits_rows_and_trains(log):
    worlds = dj.make_worlds(jax.random.key(0), log, response=make_habit, slate_size=SLATE, history_length=5)
    for name, users in (("train", worlds.train_users), ("test", worlds.test_users)):
        world, rows = getattr(worlds, name), getattr(log, name)
        item = rows.item == 4
        expected = np.sum(rows.click[item]) / (np.sum(item) + 1)
        assert world.response.rate[3] == pytest.approx(expected)
        np.testing.assert_array_equal(world.response.users, users)
        assert worlds.report[name]["response"].endswith(":make_habit")
    metrics = train(environment_of(CONFIG), worlds.train)
    assert np.all(metrics["reward"] > 0)


def test_the_training_worlds_response_may_be_another(log):
    worlds = dj.make_worlds(
        jax.random.key(0), log, response=make_habit, train_response="fitted", slate_size=SLATE, response_dim=2
    )
    assert worlds.report["train"]["response"] == "fitted"
    assert isinstance(worlds.test.response, Habit)


class NoPytree:
    def click_probability(self, user, slate, history):
        return jnp.zeros(slate.shape)

    def item_vectors(self):
        return jnp.zeros((ITEMS, 1))


@struct.dataclass
class OneAnswer(Habit):
    def click_probability(self, user, slate, history):
        return self.rate[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda *a: {"rate": 0.5}, "returned dict without the method click_probability"),
        (lambda *a: NoPytree(), "returned NoPytree, which is no pytree"),
        (lambda *a: Habit(jnp.zeros(ITEMS + 1), a[3]), rf"\({ITEMS + 1}, 1\): expected one row for each of {ITEMS}"),
        (lambda *a: OneAnswer(jnp.zeros(ITEMS), a[3]), r"click_probability of 6 items is float32 of shape \(\)"),
    ],
)
def test_a_response_that_does_not_fit_is_refused_in_one_sentence(log, make, message):
    with pytest.raises(InputError, match=message):
        dj.make_worlds(jax.random.key(0), log, response=make)


@pytest.fixture
def my_lab(monkeypatch):
    lab = ModuleType("my_lab")
    lab.tail_reward = tail_reward
    lab.make_habit = make_habit
    lab.bored = lambda slate_size, max_len: bored(patience=max_len - slate_size)
    lab.vector = lambda clicks, slate, world: clicks.astype(jnp.float32)
    lab.no_rule = lambda: "leave"
    lab.needs_more = lambda mood: bored()
    lab.forgets = lambda: dj.Leave(lambda: jnp.int32(0), lambda memory, clicks, n: (clicks, clicks[0]))
    monkeypatch.setitem(sys.modules, "my_lab", lab)
    return lab


def named(**fields):
    return environment_of(Config(environment=EnvironmentConfig(slate_size=SLATE, max_len=6, **fields)))


def test_reward_and_leave_rule_are_named_in_a_configuration(my_lab):
    environment = named(reward="my_lab:tail_reward", leave="my_lab:bored")
    results, _ = walk(environment, make_world(table(0.0)), 3)
    assert [float(r[2]) for r in results] == [2.0] * 3
    assert [bool(r[3]) for r in results] == [False, False, True]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reward": "my_lab:tale_reward"}, "did you mean 'tail_reward'"),
        ({"reward": "my_lab:vector"}, r"the reward has the shape \(3,\): expected one number"),
        ({"reward": "my_lab:needs_more"}, "takes 1 positional arguments, expected 3"),
        ({"leave": "my_lab:no_rule"}, "returned str, expected a dsrm_jax.Leave"),
        ({"leave": "my_lab:needs_more"}, "needs 'mood', which is not offered"),
        ({"leave": "my_lab:forgets"}, "the leave rule's memory was"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_in_one_sentence(my_lab, fields, message):
    with pytest.raises(InputError, match=message):
        walk(named(**fields), make_world(table(0.5)), 1)


def test_a_response_is_named_in_a_configuration(my_lab, log):
    config = Config(environment=EnvironmentConfig(slate_size=SLATE, response="my_lab:make_habit"))
    worlds = worlds_of(jax.random.key(0), log, config)
    assert isinstance(worlds.test.response, Habit)
    assert worlds.report["test"]["response"].endswith(":make_habit")
    for text, message in (("fited", "did you mean 'fitted'"), ("my_lab:make_habits", "did you mean 'make_habit'")):
        with pytest.raises(InputError, match=message):
            response_of(text)
    with pytest.raises(InputError, match="did you mean 'fitted'"):
        dj.make_worlds(jax.random.key(0), log, response="fited")
