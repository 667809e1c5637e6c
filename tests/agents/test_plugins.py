"""An agent, a manager and a worker from outside the package, by argument and by `module:function`, learn in a tiny world."""

import dataclasses
import sys
from functools import partial
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import dsrm_jax as dj
from dsrm_jax.agents.methods import make_agent, method_of
from dsrm_jax.config import AgentConfig, Config, EncoderConfig, EnvironmentConfig, PurifierConfig
from dsrm_jax.errors import InputError
from dsrm_jax.purify.encoder import Embeddings
from dsrm_jax.runs.pieces import agent_of, encoder_of, environment_of, perceive_of, purifier_of, purifier_settings
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World
from dsrm_jax.training.loop import make_trainer

USERS, ROWS, ITEMS, SLATE = 5, 4, 10, 3
CONFIG = Config(
    environment=EnvironmentConfig(slate_size=SLATE, max_len=6, history_length=5),
    encoder=EncoderConfig(dim=2),
    purifier=PurifierConfig(kind="identity"),
    agent=AgentConfig(hidden=4, learning_rate=1e-2),
)
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make_counter(*, slate_size, learning_rate):
    """Show the items whose clicks were counted most; each update adds `learning_rate` a click."""

    def init(key, catalogue, logged=None):
        return jnp.zeros(catalogue.bias.shape[0])

    def act(score, key, view, catalogue, greedy=False):
        noise = 0.0 if greedy else jax.random.uniform(key, (view.state.shape[0], score.shape[0]))
        ranked = jax.lax.top_k(jnp.broadcast_to(score, (view.state.shape[0], score.shape[0])) + noise, slate_size)
        return ranked[1], ()

    def update(score, key, rollout, catalogue):
        return score.at[rollout.slate].add(learning_rate * rollout.clicks), {"counted": jnp.sum(rollout.clicks)}

    return dj.Agent(init, act, update)


make_counter.state = "guided"


class Steady(nn.Module):
    """A manager that wants half and half whatever it sees, with a bias to learn."""

    hidden: int

    @nn.compact
    def __call__(self, state, time):
        wish = self.param("wish", nn.initializers.zeros, (2,))
        mean = jnp.broadcast_to(wish, (*state.shape[:-1], 2))
        return mean, jnp.full(2, -1.0), nn.Dense(1)(nn.tanh(nn.Dense(self.hidden)(state)))[..., 0]


class Linear(nn.Module):
    """A worker whose query is linear in the state."""

    hidden: int

    @nn.compact
    def __call__(self, state, goal, time, sharpness):
        return nn.Dense(state.shape[-1] + 2)(state), sharpness, nn.Dense(1)(state)[..., 0]


@pytest.fixture(autouse=True)
def my_lab(monkeypatch):
    module = ModuleType("my_lab")
    module.make_counter = make_counter
    module.make_manager = lambda *, hidden: Steady(hidden)
    module.make_worker = lambda *, hidden, learning_rate: Linear(hidden)
    module.make_nothing = lambda *, slate_size: "an agent"
    module.make_demanding = lambda *, slate_size, colour: None
    module.number = 3
    monkeypatch.setitem(sys.modules, "my_lab", module)


def make_world():
    rng = np.random.default_rng(1)
    return World(
        response=TableResponse(jnp.broadcast_to(jnp.arange(ITEMS) / ITEMS, (USERS, ITEMS))),
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


def program(agent, updates=3):
    """From a key to the agent's state before and after some updates, and their metrics; lowered, not compiled."""
    world, encoder = make_world(), encoder_of(CONFIG)
    embeddings = Embeddings(
        jnp.asarray(np.random.default_rng(0).normal(size=(ITEMS, 3)), jnp.float32), jnp.zeros(ITEMS)
    )
    perception = dj.Perception(encoder.init(jax.random.key(0), embeddings), {})
    trainer = make_trainer(environment_of(CONFIG), agent, encoder, purifier_of(CONFIG), num_users=4, rollout_length=6)

    @quick_jit
    def run(key):
        start = trainer.init(key, world, perception)
        return start.agent, *trainer.train(start, world, perception, updates)

    return run.lower(jax.random.key(1))


def train(lowered):
    before, state, metrics = lowered.compile()(jax.random.key(1))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((state.agent, metrics)))
    return before, state.agent, metrics


def with_agent(**settings):
    return dataclasses.replace(CONFIG, agent=dataclasses.replace(CONFIG.agent, **settings))


def test_an_own_agent_by_name_counts_its_clicks_and_learns():
    config = with_agent(method="my_lab:make_counter")
    before, after, metrics = train(program(agent_of(config)))
    assert float(jnp.sum(before)) == 0
    np.testing.assert_allclose(jnp.sum(after), 0.01 * np.sum(metrics["counted"]), rtol=1e-5)
    assert float(jnp.sum(after)) > 0


def test_its_record_says_its_name_and_the_state_it_wants():
    record = method_of("my_lab:make_counter")
    assert (record.label, record.state, record.learns) == ("my_lab:make_counter", "guided", True)
    assert method_of("my_lab:make_nothing").state == "conditional"
    config = dataclasses.replace(with_agent(method="my_lab:make_counter"), purifier=PurifierConfig())
    assert purifier_settings(config).kind == "guided"
    assert callable(perceive_of(config))


def levels(params):
    return {level: jax.tree.structure(params[level]) for level in ("manager", "worker")}


def test_own_networks_of_both_levels_learn_by_argument_and_by_name():
    own = dj.make_dsrm_hrl(slate_size=SLATE, learning_rate=1e-2, hidden=4, manager=Steady(4), worker=Linear(4))
    lowered = program(own)
    before, after, _ = train(lowered)
    assert "wish" in before.params["manager"]["params"]
    assert float(jnp.max(jnp.abs(after.params["manager"]["params"]["wish"]))) > 0
    moved = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), before.params["worker"], after.params["worker"])
    assert max(map(float, jax.tree.leaves(moved))) > 0
    config = with_agent(manager="my_lab:make_manager", worker="my_lab:make_worker")
    assert program(agent_of(config)).as_text() == lowered.as_text()


def test_one_own_network_leaves_the_other_level_as_it_is():
    _, after, _ = train(program(agent_of(with_agent(worker="my_lab:make_worker")), updates=1))
    _, plain, _ = program(agent_of(CONFIG), updates=1).out_info
    plain = plain.agent
    assert levels(after.params)["manager"] == levels(plain.params)["manager"]
    assert levels(after.params)["worker"] != levels(plain.params)["worker"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "my_lab:make_nothing"}, "method my_lab:make_nothing returned a str, expected a dsrm_jax.Agent"),
        ({"method": "my_lab:make_demanding"}, "needs 'colour', which is not offered"),
        ({"method": "my_lab:make_contour"}, "module my_lab has no 'make_contour'; did you mean 'make_counter'"),
        ({"method": "my_lab:number"}, "number is a int, expected a function"),
        ({"method": "their_lab:make"}, "there is no module their_lab"),
        ({"manager": "my_lab:make_nothing"}, "needs 'slate_size', which is not offered"),
        ({"manager": "make_manager"}, "unknown agent.manager 'make_manager'"),
        ({"worker": "my_lab:make_worke"}, "did you mean 'make_worker'"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(settings, sentence):
    with pytest.raises(InputError) as error:
        make_agent(with_agent(**settings).agent, slate_size=SLATE)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_network_that_is_none_is_refused_by_argument_and_by_name():
    with pytest.raises(InputError, match=r"worker is a int, expected a flax\.linen\.Module"):
        dj.make_dsrm_hrl(worker=3)
    sys.modules["my_lab"].make_manager = lambda: "a network"
    with pytest.raises(InputError, match=r"returned a str, expected a flax\.linen\.Module"):
        make_agent(with_agent(manager="my_lab:make_manager").agent, slate_size=SLATE)
