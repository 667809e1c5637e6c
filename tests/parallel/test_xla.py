"""The flags that XLA needs are set where they must be, and do what they are for."""

import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest

import dsrm_jax
from dsrm_jax.parallel import xla
from dsrm_jax.parallel.xla import FLAGS, LONG, SHORT_PROGRAMS, options, remove_oldest, set_flags, use_cores

CODE = """
import os

os.environ["XLA_FLAGS"] = ""
from dsrm_jax.cli import main as cli
cli.prepare_process()
print(os.environ["XLA_FLAGS"])
"""

LEVEL, EMITTERS = (f"--{flag}" for flag in SHORT_PROGRAMS)


@pytest.fixture
def jaxlib(monkeypatch):
    """Let another version of jaxlib seem installed."""
    return lambda number: monkeypatch.setattr(xla, "_version", lambda package: number if package == "jaxlib" else "")


def test_flags_are_appended_and_a_users_own_choice_stays(jaxlib):
    jaxlib("0.10.2")
    environ = {"XLA_FLAGS": "--mine=1 " + FLAGS[0].replace("false", "true")}
    set_flags(environ)
    assert environ["XLA_FLAGS"] == " ".join(["--mine=1", FLAGS[0].replace("false", "true"), FLAGS[1], LEVEL, EMITTERS])
    before = dict(environ)
    set_flags(environ)
    assert environ == before


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("0.9.2", (LEVEL, EMITTERS)),
        ("0.10.2", (*FLAGS, LEVEL, EMITTERS)),
        ("0.11.0", (*FLAGS, LEVEL)),
        ("0.12.0.1", (LEVEL,)),
        ("0.13.0", ()),  # XLA stops at a flag that it does not know
        ("", ()),
    ],
)
def test_each_version_gets_the_flags_that_it_knows_and_needs(jaxlib, number: str, expected: tuple[str, ...]):
    jaxlib(number)
    environ = {}
    set_flags(environ)
    assert environ.get("XLA_FLAGS", "").split() == list(expected)
    assert set(options(LONG)) == {flag[2:].split("=")[0] for flag in expected if flag not in FLAGS}


@pytest.mark.parametrize(
    ("number", "environ", "warned"),
    [
        ("0.10.2", {}, True),
        ("0.10.2", {"XLA_FLAGS": FLAGS[0]}, True),
        ("0.10.2", {"XLA_FLAGS": " ".join(FLAGS)}, False),
        ("0.10.2", {"JAX_PLATFORMS": "cuda"}, False),
        ("0.12.0.1", {}, False),
    ],
)
def test_the_front_door_warns_once_where_a_cpu_lacks_its_flags(monkeypatch, jaxlib, number, environ, warned):
    jaxlib(number)
    for name in ("XLA_FLAGS", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    xla.warn_of_faults.cache_clear()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(3):
            assert dsrm_jax.make_environment
    assert [str(w.message).split(": set")[0] for w in found] == [
        "on CPUs jaxlib 0.10 and 0.11 can hang in vmapped training, "
        "and 0.10.2 computes wrong numbers in a vmap over an axis of size one"
    ] * warned
    assert all(flag in str(w.message) for w in found for flag in FLAGS if flag not in environ.get("XLA_FLAGS", ""))
    assert [Path(w.filename) for w in found] == [Path(__file__)] * warned


def test_the_command_line_sets_them_before_jax_starts():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True)
    for flag in FLAGS if version("jaxlib").startswith(xla.AFFECTED) else ():
        assert flag in done.stdout


def test_each_core_is_a_device_unless_the_user_said_otherwise(monkeypatch):
    for cores, expected in ((1, {}), (2, {"JAX_NUM_CPU_DEVICES": "2"}), (64, {"JAX_NUM_CPU_DEVICES": "4"})):
        monkeypatch.setattr(xla.os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        environ = {}
        use_cores(environ)
        assert environ == expected
    for own in ({"JAX_NUM_CPU_DEVICES": "1"}, {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}):
        environ = dict(own)
        use_cores(environ)
        assert environ == own


MAPPED = """
import os

os.environ["XLA_FLAGS"] = ""
from dsrm_jax.parallel.xla import set_flags
set_flags(os.environ)
import jax
import jax.numpy as jnp
import numpy as np

rng = np.random.default_rng(0)
user, item = (rng.normal(size=(n, 13)).astype(np.float32) for n in (1411, 3327))
bias = rng.normal(size=3327).astype(np.float32)
who = rng.integers(0, 1411, 64).astype(np.int32)

def logits(who, user, item, bias):
    return jax.vmap(lambda u: jnp.sum(item * user[u], axis=-1) + bias)(who)

mapped = jax.jit(jax.vmap(logits, in_axes=(0, None, None, None)))
for seeds in (1, 2):
    found = mapped(jnp.stack([who] * seeds), user, item, bias)
    np.testing.assert_allclose(found[0], user[who].astype(np.float64) @ item.T.astype(np.float64) + bias, atol=1e-4)
"""


def test_a_vmap_of_size_one_computes_what_it_should():
    """jaxlib 0.10.2 without the flags is wrong by more than 30 for one seed, and right for two; compiled as users compile."""
    done = subprocess.run([sys.executable, "-c", MAPPED], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_the_oldest_programs_make_room(tmp_path):
    for age in range(5):
        path = tmp_path / f"{age}-cache"
        path.write_bytes(b"x" * 10)
        os.utime(path, (1_000 + age, 1_000 + age))
    (tmp_path / "stage-one").mkdir()
    remove_oldest(tmp_path, 25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3-cache", "4-cache", "stage-one"]
    remove_oldest(tmp_path / "nowhere", 25)
