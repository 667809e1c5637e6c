"""Runs on the host: chunks, rows, interruption and resumption bit for bit, and what happens to NaN."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.config import (
    AgentConfig,
    Config,
    EncoderConfig,
    EnvironmentConfig,
    EvaluationConfig,
    PurifierConfig,
    TrainingConfig,
)
from dsrm_jax.errors import InputError
from dsrm_jax.purify.encoder import Embeddings, EncoderParams
from dsrm_jax.purify.perception import Perception
from dsrm_jax.runs import checkpoint, run_directory
from dsrm_jax.runs import run as run_module
from dsrm_jax.runs.logging import append_metrics, read_metrics
from dsrm_jax.runs.pieces import encoder_of
from dsrm_jax.runs.run import NonFiniteError, Saved, chunk_size, metric_rows, num_updates, restore, start, train
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World

USERS, ROWS, ITEMS, DATA = 8, 6, 12, "digest"
CONFIG = Config(
    environment=EnvironmentConfig(slate_size=2, max_len=6, history_length=6),
    encoder=EncoderConfig(dim=2),
    purifier=PurifierConfig(kind="identity"),
    agent=AgentConfig(hidden=8, learning_rate=1e-2),
    training=TrainingConfig(
        steps=24,
        num_users=8,
        rollout_length=4,
        seeds=(11, 15),
        chunk_updates=2,
        checkpoint_minutes=0.0,
        keep_checkpoints=9,
        tensorboard=False,
    ),
    evaluation=EvaluationConfig(num_sessions=8),
)


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
        item=jnp.arange(ITEMS, dtype=jnp.int32),
        is_popular=jnp.arange(ITEMS) < 4,
        log_popularity=jnp.asarray(rng.normal(size=ITEMS), jnp.float32),
    )


@pytest.fixture(scope="module")
def quick_compilation():
    """Compiling is what costs here, not running."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0}))
        yield


@pytest.fixture(scope="module")
def begun(world, perception, quick_compilation):
    """Both seeds before their first step, on the host: a run gives its device arrays away."""
    return jax.device_get(start(CONFIG, world, perception))


@pytest.fixture(scope="module")
def chunk(begun, world, perception, quick_compilation):
    """Two updates of both seeds; compiled once for all tests."""
    return run_module.compile_chunk(CONFIG, on_device(begun), world, perception, length=2)


@pytest.fixture
def compiled(monkeypatch, chunk):
    """Lets `train` take the program of `chunk`, and tests wrap it."""

    def use(program=chunk):
        def compile_chunk(config, state, world, perception, *, length):
            assert length == 2
            return program

        monkeypatch.setattr(run_module, "compile_chunk", compile_chunk)

    use()
    return use


def on_device(tree):
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def new_run(folder, begun, perception):
    return run_directory.create(folder, CONFIG), Saved(on_device(begun), perception)


def assert_same_bits(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def without_time(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 12), st.integers(1, 20), st.data())
def test_chunks_end_at_the_last_update_and_a_resumed_run_has_those_of_a_whole_one(updates, limit, length, data):
    training = TrainingConfig(steps=updates * length - (length - 1), rollout_length=length, chunk_updates=limit)
    config = dataclasses.replace(CONFIG, training=training)
    assert num_updates(config) == updates
    size = chunk_size(config)
    assert size == max(c for c in range(1, limit + 1) if updates % c == 0)
    done = data.draw(st.integers(0, updates - 1))
    rest = chunk_size(config, done)
    assert 1 <= rest <= limit
    assert (updates - done) % rest == 0
    if done % size == 0:  # where this very run can have been stopped
        assert rest == size


def test_every_update_has_a_row_with_a_number_per_seed():
    metrics = {"reward": jnp.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]), "sessions": jnp.array([[1, 2, 3], [4, 5, 6]])}
    rows = metric_rows(metrics, 40, 8, 1.23456)
    assert [row["step"] for row in rows] == [48, 56, 64]
    assert [row["seconds"] for row in rows] == [1.235] * 3
    assert [row["sessions"] for row in rows] == [[1, 4], [2, 5], [3, 6]]
    np.testing.assert_allclose([row["reward"] for row in rows], metrics["reward"].T)


def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path, monkeypatch, begun, world, perception, compiled, caplog
):
    whole, saved = new_run(tmp_path / "whole", begun, perception)
    end, facts = train(whole, CONFIG, saved, world, DATA)
    assert set(facts) == {"compile_seconds", "train_seconds", "user_steps_per_second"}
    rows = read_metrics(whole.metrics)
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20, 24]

    parts, saved = new_run(tmp_path / "parts", begun, perception)
    with monkeypatch.context() as patch:  # Ctrl-C in the middle of the first chunk
        patch.setattr(run_module, "write_tensorboard", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(SystemExit) as stopped:
            train(parts, CONFIG, saved, world, DATA)
    assert stopped.value.code == 130
    assert checkpoint.steps(parts.checkpoints)[-1] == 8
    # a kill between the rows and the checkpoint of a chunk leaves rows too many
    append_metrics(parts.metrics, [{"step": 12, "reward": [0.0, 0.0]}])

    step, saved = restore(parts, CONFIG, world, ITEMS, DATA)
    assert step == 8
    with monkeypatch.context() as patch:  # and once more while the next chunk is being saved
        real_save = checkpoint.save

        def interrupted_save(*arguments, **options):
            real_save(*arguments, **options)
            os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(run_module.checkpoint, "save", interrupted_save)
        with pytest.raises(SystemExit) as stopped:
            train(parts, CONFIG, saved, world, DATA)
    assert stopped.value.code == 143
    step, saved = restore(parts, CONFIG, world, ITEMS, DATA)
    assert step == 16
    resumed, _ = train(parts, CONFIG, saved, world, DATA)
    assert_same_bits(resumed, end)
    assert without_time(read_metrics(parts.metrics)) == without_time(rows)
    last, last_of_parts = (restore(run, CONFIG, world, ITEMS, DATA) for run in (whole, parts))
    assert last[0] == last_of_parts[0] == 24
    assert_same_bits(last[1], last_of_parts[1])
    assert_same_bits(last[1].train, end)
    # and a finished run has nothing left to do
    again, facts = train(whole, CONFIG, last[1], world, DATA)
    assert again is last[1].train
    assert facts == {}
    with pytest.raises(InputError, match="another configuration"):
        restore(whole, CONFIG, world, ITEMS, "other data")
    assert "rows up to" not in caplog.text
    # rows that somebody lost are missed, and the checkpoint's truth stands
    lines = whole.metrics.read_bytes().splitlines(keepends=True)
    whole.metrics.write_bytes(b"".join(lines[:3]))
    assert train(whole, CONFIG, last[1], world, DATA)[1] == {}
    assert "holds 3 rows up to step 24, expected 6" in caplog.text


def poison_metrics(state, metrics):
    return state, metrics | {"worker_loss": metrics["worker_loss"].at[1, 0].set(jnp.nan)}


def poison_state(state, metrics):
    """The last update of a chunk ruins a parameter; no metric has seen it yet."""
    params = state.agent.params
    log_std = params["manager"]["params"]["log_std"].at[0, 1].set(jnp.inf)
    manager = {"params": params["manager"]["params"] | {"log_std": log_std}}
    agent = dataclasses.replace(state.agent, params=params | {"manager": manager})
    return dataclasses.replace(state, agent=agent), metrics


@pytest.mark.parametrize(
    ("poison", "step", "what"), [(poison_metrics, 12, r"worker_loss\[1\]"), (poison_state, 16, "log_std")]
)
def test_nan_stops_the_run_and_names_the_step_and_the_last_good_checkpoint_which_is_whole(
    tmp_path, begun, world, perception, chunk, compiled, poison, step, what
):
    ends = []

    def second_chunk_breaks(*args):
        state, metrics = chunk(*args)
        ends.append(jax.device_get(state))
        return poison(state, metrics) if len(ends) == 2 else (state, metrics)

    compiled(second_chunk_breaks)
    run, saved = new_run(tmp_path / "run", begun, perception)
    with pytest.raises(NonFiniteError, match=rf"at step {step}: .*{what}.*\[11, 15\].*checkpoint of step 8 is good"):
        train(run, CONFIG, saved, world, DATA)
    assert checkpoint.steps(run.checkpoints) == [0, 8]
    good, saved = restore(run, CONFIG, world, ITEMS, DATA)
    assert good == 8
    assert_same_bits(jax.device_get(saved.train), ends[0])
    assert [row["step"] for row in read_metrics(run.metrics)] == [4, 8]


COMMAND = """
import os, signal, sys
from dsrm_jax.cli import main as cli
from dsrm_jax.runs import run
if sys.argv[1] == "interrupt":
    run.write_tensorboard = lambda *_: os.kill(os.getpid(), signal.SIGINT)
cli.main(sys.argv[2:])
"""


def command(*words):
    return subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, timeout=400)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_line_resumes_bit_for_bit_in_another_process(tmp_path):
    tiny = ["--budget", "tiny", "--out"]
    assert command("run", "train", *tiny, str(tmp_path / "whole")).returncode == 0
    assert command("interrupt", "train", *tiny, str(tmp_path / "parts")).returncode == 130
    assert "results" not in json.loads((tmp_path / "parts" / "summary.json").read_text())
    resumed = command("run", "resume", str(tmp_path / "parts"))
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    whole, parts = (without_time(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("whole", "parts"))
    assert whole == parts
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "parts")]
    assert summaries[0]["results"] == summaries[1]["results"]
    for name, summary in zip(("whole", "parts"), summaries, strict=True):
        card = (tmp_path / name / "MODEL_CARD.md").read_text()
        assert all(sentence in card for sentence in [*summary["verdicts"], *summary["warnings"]])


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_learning_rate_out_of_all_bounds_exits_with_status_2_and_keeps_the_first_checkpoint(tmp_path):
    words = ["--budget", "tiny", "--agent.learning-rate", "1e30", "--out", str(tmp_path / "run")]
    result = command("run", "train", *words)
    assert result.returncode == 2
    assert "the checkpoint of step 0 is good" in result.stderr
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [0]
    assert "results" not in json.loads((tmp_path / "run" / "summary.json").read_text())
