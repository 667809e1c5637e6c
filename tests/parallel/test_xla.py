"""The flags that XLA needs are set where they must be, and do what they are for."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.parallel import xla
from dsrm_jax.parallel.xla import FLAGS, SHORT_PROGRAMS, set_flags, use_cores

CODE = """
import os
os.environ.pop("XLA_FLAGS", None)
from dsrm_jax.cli import main as cli
cli.prepare_process()
print(os.environ["XLA_FLAGS"])
"""


def test_flags_are_appended_and_a_users_own_choice_stays():
    environ = {"XLA_FLAGS": "--mine=1 " + FLAGS[0].replace("false", "true")}
    set_flags(environ)
    assert environ["XLA_FLAGS"] == "--mine=1 " + FLAGS[0].replace("false", "true") + " " + FLAGS[1]
    before = dict(environ)
    set_flags(environ)
    assert environ == before
    set_flags(environ, SHORT_PROGRAMS)
    assert environ["XLA_FLAGS"] == " ".join([before["XLA_FLAGS"], *SHORT_PROGRAMS])


def test_the_command_line_sets_them_before_jax_starts():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True
    )
    for flag in FLAGS:
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


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_vmap_of_size_one_computes_what_it_should(seeds: int):
    """jaxlib 0.10.2 without the flags is wrong by more than 30 for one seed, and right for two."""
    assert all(flag in os.environ["XLA_FLAGS"] for flag in FLAGS)
    rng = np.random.default_rng(0)
    user, item = (rng.normal(size=(n, 13)).astype(np.float32) for n in (1411, 3327))
    bias = rng.normal(size=3327).astype(np.float32)
    who = rng.integers(0, 1411, 64).astype(np.int32)

    def logits(who, user, item, bias):
        return jax.vmap(lambda u: jnp.sum(item * user[u], axis=-1) + bias)(who)

    mapped = jax.jit(jax.vmap(logits, in_axes=(0, None, None, None)))
    found = mapped(jnp.stack([who] * seeds), user, item, bias)
    np.testing.assert_allclose(
        found[0], user[who].astype(np.float64) @ item.T.astype(np.float64) + bias, atol=1e-4
    )
