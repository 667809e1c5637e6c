"""The training program against itself (chunks, vmap, keys) and a NumPy recount of what it reports."""

import dataclasses
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.config import AgentConfig, Config, EncoderConfig, EnvironmentConfig, PurifierConfig, TrainingConfig
from dsrm_jax.purify.encoder import Embeddings, EncoderParams
from dsrm_jax.purify.perception import Perception
from dsrm_jax.runs.pieces import encoder_of, trainer_of
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World
from dsrm_jax.training.loop import rollout_metrics

USERS, ROWS, ITEMS = 8, 6, 12
CONFIG = Config(
    environment=EnvironmentConfig(slate_size=2, max_len=6, history_length=6, step_cap=3),
    encoder=EncoderConfig(dim=2),
    purifier=PurifierConfig(kind="identity"),
    agent=AgentConfig(hidden=8, learning_rate=1e-2),
    training=TrainingConfig(num_users=16, rollout_length=4),
)


# Compiling is what costs here, not running.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def perception():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(ITEMS, 2)), np.ones((ITEMS, 1))], axis=1)
    embeddings = Embeddings(jnp.asarray(vectors, jnp.float32), jnp.asarray(rng.normal(size=ITEMS), jnp.float32))
    shapes = jax.eval_shape(encoder_of(CONFIG).init, jax.random.key(0), embeddings).network
    network = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)
    return Perception(EncoderParams(embeddings, network), {})


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(1)
    return World(
        response=TableResponse(jnp.asarray(rng.random((USERS, ITEMS)), jnp.float32)),
        starts=SessionStarts(
            jnp.asarray(np.repeat(np.arange(USERS), ROWS), jnp.int32),
            jnp.asarray(rng.integers(0, ITEMS, USERS * ROWS), jnp.int32),
            jnp.asarray(rng.random(USERS * ROWS) < 0.5),
            jnp.arange(0, USERS * ROWS + 1, ROWS, dtype=jnp.int32),
        ),
        item=jnp.asarray(rng.permutation(ITEMS), jnp.int32),
        is_popular=jnp.arange(ITEMS) < 4,
        log_popularity=jnp.asarray(rng.normal(size=ITEMS), jnp.float32),
    )


@pytest.fixture(scope="module")
def programs():
    """`init`, two updates and four updates, compiled once, with the names of what was traced, in order."""
    traces = []

    def compiled(name, function, **static):
        def program(agent, *args):
            traces.append(name)
            trainer = trainer_of(dataclasses.replace(CONFIG, agent=agent))  # its floats are traced
            return getattr(trainer, function)(*args, **static)

        return quick_jit(program)

    return SimpleNamespace(
        init=compiled("init", "init"),
        two=compiled("two", "train", num_updates=2),
        four=compiled("four", "train", num_updates=4),
        traces=traces,
    )


@pytest.fixture(scope="module")
def started(programs, world, perception):
    return programs.init(CONFIG.agent, jax.random.key(11), world, perception)


def assert_same_bits(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_one_key_gives_the_same_bits_and_another_gives_others(programs, started, world, perception):
    again = programs.init(CONFIG.agent, jax.random.key(11), world, perception)
    assert_same_bits(started, again)
    first, metrics = programs.two(CONFIG.agent, started, world, perception)
    second, _ = programs.two(CONFIG.agent, again, world, perception)
    assert_same_bits(first, second)
    other = programs.init(CONFIG.agent, jax.random.key(12), world, perception)
    _, other_metrics = programs.two(CONFIG.agent, other, world, perception)
    assert np.any(metrics["worker_loss"] != other_metrics["worker_loss"])


def test_two_chunks_are_one_of_twice_the_length_bit_for_bit(programs, started, world, perception):
    middle, first = programs.two(CONFIG.agent, started, world, perception)
    end, second = programs.two(CONFIG.agent, middle, world, perception)
    whole, metrics = programs.four(CONFIG.agent, started, world, perception)
    assert_same_bits(end, whole)
    assert_same_bits(jax.tree.map(lambda *x: np.concatenate(x), first, second), metrics)
    assert int(end.step) == 4 * CONFIG.training.rollout_length


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_seeds_trained_together_learn_what_each_learns_alone(programs, world, perception):
    states = [programs.init(CONFIG.agent, jax.random.key(seed), world, perception) for seed in (3, 4)]
    alone = [programs.two(CONFIG.agent, state, world, perception) for state in states]
    train = jax.vmap(partial(trainer_of(CONFIG).train, num_updates=2), in_axes=(0, None, None))
    together = quick_jit(train)(jax.tree.map(lambda *x: jnp.stack(x), *states), world, perception)
    for seed, expected in enumerate(alone):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(expected), strict=True):
            if jnp.issubdtype(a.dtype, jnp.floating):
                np.testing.assert_allclose(a[seed], b, rtol=1e-3, atol=1e-4)


def test_a_shaped_reward_never_enters_the_metrics(programs, started, world, perception):
    """All items are clicked and none is popular: reward 1 and fairness -1, however much fairness weighs."""
    certain = TableResponse(jnp.ones((USERS, ITEMS)))
    certain = dataclasses.replace(world, response=certain, is_popular=jnp.zeros(ITEMS, bool))
    for weight in (0.0, 1000.0):
        agent = dataclasses.replace(CONFIG.agent, fairness_weight=weight)
        _, metrics = programs.two(agent, started, certain, perception)
        assert metrics["reward"].tolist() == [1.0, 1.0]
        assert metrics["fairness"].tolist() == [-1.0, -1.0]
        assert metrics["slate_ad"].tolist() == metrics["ad"].tolist() == [1.0, 1.0]
        ended = np.asarray(metrics["sessions"]) > 0
        assert ended.any()
        np.testing.assert_allclose(metrics["return"], metrics["length"])
        assert np.all(np.asarray(metrics["length"])[ended] <= CONFIG.environment.step_cap)


def test_metrics_of_a_rollout_equal_a_recount(world):
    rng = np.random.default_rng(2)
    steps, users = 5, 7
    reward, share = rng.integers(0, 3, (2, steps, users)) / 2
    broken, ended = rng.random((2, steps, users)) < 0.4
    length, total = rng.integers(1, 9, (steps, users)), rng.random((steps, users))
    rollout = SimpleNamespace(reward=jnp.asarray(reward, jnp.float32), popular_share=jnp.asarray(share, jnp.float32))
    info = {"ended": ended, "broken": broken, "session_length": length, "session_return": total}
    metrics = rollout_metrics(rollout, jax.tree.map(jnp.asarray, info))
    over = [(length[i], total[i]) for i in np.ndindex(steps, users) if ended[i]]
    expected = {
        "reward": sum(reward.flat) / reward.size,
        "ad": np.mean([abs(2 * sum(row) / users - 1) for row in share]),
        "slate_ad": np.mean([abs(2 * s - 1) for s in share.flat]),
        "broken": np.mean([float(b) for b in broken.flat]),
        "sessions": len(over),
        "length": np.mean([x for x, _ in over]),
        "return": np.mean([x for _, x in over]),
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5), name
    none = rollout_metrics(rollout, jax.tree.map(jnp.asarray, info | {"ended": np.zeros_like(ended)}))
    assert [float(none[name]) for name in ("sessions", "length", "return")] == [0, 0, 0]


def test_a_program_is_traced_once_whatever_state_world_and_weights_it_is_given(programs, started, world, perception):
    flipped = dataclasses.replace(world, is_popular=~world.is_popular)
    state = programs.init(CONFIG.agent, jax.random.key(1), flipped, perception)
    for agent in (CONFIG.agent, dataclasses.replace(CONFIG.agent, learning_rate=0.1, clip=0.3)):
        state, _ = programs.two(agent, state, flipped, perception)
    assert programs.traces.count("init") == programs.traces.count("two") == 1


def test_no_key_is_used_twice(world, perception):
    """JAX's own checker follows every key through the whole program; nothing is compiled."""
    checker = pytest.importorskip("jax.experimental.key_reuse._core", reason="this JAX has no key-reuse checker")
    trainer = trainer_of(CONFIG)
    checker.check_key_reuse(trainer.init, jax.random.key(0), world, perception)
    state = jax.eval_shape(trainer.init, jax.random.key(0), world, perception)
    checker.check_key_reuse(trainer.iterate, state, world, perception)

    def careless(state, world, perception):
        return trainer.iterate(state, world, perception), jax.random.normal(state.key)

    with pytest.raises(jax.errors.KeyReuseError):
        checker.check_key_reuse(careless, state, world, perception)


SCRIPT = """
import jax
from test_loop import CONFIG, perception, trainer_of, world
world, perception = (f._get_wrapped_function()() for f in (world, perception))
trainer = trainer_of(CONFIG)
train = jax.jit(jax.vmap(lambda k: trainer.train(trainer.init(k, world, perception), world, perception, 200)))
_, metrics = train(jax.random.split(jax.random.key(0), 2))
print("finished", metrics["reward"].shape)
"""


@pytest.mark.slow
def test_vmapped_training_does_not_hang():
    """XLA may deadlock in jit(vmap(train)) on few cores, without the flags that conftest and command line set."""
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert "finished (2, 200)" in result.stdout, result.stderr[-2000:]
