"""No kill, full disk or Ctrl-C loses an earlier step of a checkpoint, and saving says nothing."""

import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dsrm_jax.errors import InputError
from dsrm_jax.runs import checkpoint
from tests.runs.states import PRINT, assert_same, bits, small

NAMES = """
import os, resource, signal, sys
import numpy as np
from dsrm_jax.errors import InputError
from dsrm_jax.runs import checkpoint
from tests.runs.states import *
"""


def run_child(code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter."""
    path = os.pathsep.join([str(Path(checkpoint.__file__).parents[2]), str(Path(__file__).parents[2])])
    return subprocess.run(
        [sys.executable, "-c", NAMES + textwrap.dedent(code), *arguments],
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=100,
    )


def make_train():
    """A chunk of a small noisy descent, jitted, and a counter of its traces."""
    optimiser = optax.adam(1e-2)
    traces = []

    def step(state, _):
        params, moments, key = state
        key, noise_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, params.shape)
        loss, gradient = jax.value_and_grad(lambda p: jnp.mean((p - noise) ** 2))(params)
        updates, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments, key), loss

    @jax.jit
    def chunk(state):
        traces.append(1)
        return jax.lax.scan(step, state, length=5)

    def init(seed):
        params = jax.random.normal(jax.random.key(seed), (40,))
        return params, optimiser.init(params), jax.random.key(seed + 1)

    return init, chunk, traces


def test_an_interrupted_run_ends_in_the_same_bits_without_compiling_again(tmp_path):
    init, chunk, traces = make_train()
    state, losses = init(0), []
    for number in range(1, 7):
        state, loss = chunk(state)
        losses.append(loss)
        if number == 3:
            checkpoint.save(tmp_path, number, state, PRINT)
    number, resumed = checkpoint.restore(tmp_path, init(99), PRINT)
    for later in range(number, 6):
        resumed, loss = chunk(resumed)
        assert bits(loss) == bits(losses[later])
    assert_same(resumed, state)
    assert len(traces) == 1


class Killed(BaseException):
    """Ends a save as `kill -9` does: nothing in the program sees it, so nothing is tidied up."""


@pytest.mark.parametrize(
    ("stage", "newest"),
    [("_write_arrays", 2), ("_write_manifest", 2), ("_commit", 3), ("_retain", 3), ("_set_aside", 3)],
)
@pytest.mark.parametrize("after", [False, True])
def test_a_save_cut_short_anywhere_loses_no_finished_step(copy, monkeypatch, stage, newest, after):
    original = getattr(checkpoint, stage)

    def killed(*args):
        if after:
            original(*args)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, stage, killed)
        with pytest.raises(Killed):
            checkpoint.save(copy, 3, small(3), PRINT, keep=2)
    newest = 2 if stage == "_commit" and not after else newest
    step, state = checkpoint.restore(copy, small(0), PRINT)
    assert step == newest
    assert_same(state, small(newest))
    checkpoint.save(copy, 4, small(4), PRINT, keep=9)
    assert_same(checkpoint.restore(copy, small(0), PRINT)[1], small(4))
    assert not [p for p in copy.iterdir() if p.name.startswith(".")]


def test_kill_9_in_the_middle_of_a_save_loses_no_finished_step(copy):
    code = """
        original = checkpoint._write_arrays
        def killed(*args):
            original(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoint._write_arrays = killed
        checkpoint.save(sys.argv[1], 3, small(3), PRINT)
    """
    child = run_child(code, str(copy))
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert (copy / ".saving-step_00000003").exists()
    step, state = checkpoint.restore(copy, small(0), PRINT)
    assert step == 2
    assert_same(state, small(2))
    checkpoint.save(copy, 3, small(3), PRINT)
    assert_same(checkpoint.restore(copy, small(0), PRINT)[1], small(3))
    assert not [p for p in copy.iterdir() if p.name.startswith(".")]


def test_a_file_size_limit_in_a_real_save_is_one_sentence(copy):
    """What a full disk does: the kernel refuses to extend a file in the middle of Orbax's own writing."""
    limit = 200_000
    code = f"""
        state = small(3).replace(pair=(np.random.default_rng(0).normal(size={limit}), None))
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            checkpoint.save(sys.argv[1], 3, state, PRINT)
        except InputError as error:
            print(error)
        assert sys.unraisablehook is sys.__unraisablehook__  # what the program set, nobody else sets
    """
    child = run_child(code, str(copy))
    assert child.returncode == 0, child.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert child.stdout.startswith("cannot save step 3 in "), child.stderr
    assert len(child.stdout.splitlines()) == 1
    # TensorStore's threads may finish after asyncio's loop has closed, and then say so themselves (seen on Python 3.13)
    late = r"Traceback \(most recent call last\):\n(?: .*\n)+RuntimeError: Event loop is closed\n"
    assert "Traceback" not in re.sub(late, "", child.stderr)
    assert checkpoint.steps(copy) == [1, 2]
    assert_same(checkpoint.restore(copy, small(0), PRINT)[1], small(2))


def test_saving_and_restoring_say_nothing(tmp_path):
    code = """
        checkpoint.save(sys.argv[1], 1, odd(), PRINT)
        assert checkpoint.restore(sys.argv[1], odd(), PRINT)[0] == 1
    """
    child = run_child(code, str(tmp_path))
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")


def test_a_path_that_the_locale_cannot_say_is_no_damage(tmp_path):
    """As Python reads the bytes of a name in a locale without UTF-8."""
    folder = tmp_path / "caf\udcc3\udca9"
    for use in (
        lambda: checkpoint.save(folder, 0, {"a": np.zeros(2)}, "run"),
        lambda: checkpoint.restore(folder, {}, "run"),
    ):
        with pytest.raises(InputError, match=r"caf.*LC_ALL=C\.UTF-8"):
            use()
    assert not folder.exists()


def test_a_step_that_is_removed_while_it_is_read_is_not_damaged_and_the_next_is_read(tmp_path, monkeypatch, caplog):
    """As `export` meets it of a run that goes on training."""
    checkpoint.save(tmp_path, 8, small(8), PRINT, keep=1)
    real = checkpoint._read_arrays

    def late(path, manifest):
        monkeypatch.setattr(checkpoint, "_read_arrays", real)
        checkpoint.save(tmp_path, 16, small(16), PRINT, keep=1)
        return real(path, manifest)

    monkeypatch.setattr(checkpoint, "_read_arrays", late)
    step, state = checkpoint.restore(tmp_path, small(0), PRINT)
    assert step == 16
    assert_same(state, small(16))
    assert not caplog.records


def test_going_back_to_a_step_leaves_it_the_newest(tmp_path):
    for step in (8, 16, 24):
        checkpoint.save(tmp_path, step, small(step), PRINT)
    with pytest.raises(InputError, match=r"cannot go back to step 12 .*there are steps \[8, 16, 24\]"):
        checkpoint.go_back(tmp_path, 12)
    data = max(
        (tmp_path / "step_00000008" / "arrays").rglob("*"),
        key=lambda path: path.stat().st_size if path.is_file() else -1,
    )
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="another checksum"):
        checkpoint.go_back(tmp_path, 8)
    assert checkpoint.steps(tmp_path) == [8, 16, 24]
    data.write_bytes(whole)
    checkpoint.go_back(tmp_path, 8)
    assert checkpoint.steps(tmp_path) == [8]
    step, state = checkpoint.restore(tmp_path, small(0), PRINT)
    assert step == 8
    assert np.array_equal(state.inner.weights, small(8).inner.weights)


def test_ctrl_c_in_a_save_is_heard_when_it_is_done(tmp_path, monkeypatch):
    real = checkpoint.save_arrays

    def interrupted(path, arrays):
        signal.raise_signal(signal.SIGINT)
        real(path, arrays)

    monkeypatch.setattr(checkpoint, "save_arrays", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # parallel test processes ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 8, small(8), PRINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert checkpoint.restore(tmp_path, small(0), PRINT)[0] == 8
