"""What the devices of a mesh say to each other, and that users of one platform may be spread over them: one process for all."""

import json
import subprocess
import sys

import pytest

from tests.parallel.processes import environment

PROGRAM = """
import json, os

from dsrm_jax.parallel.xla import set_flags

set_flags(os.environ)
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P

from dsrm_jax.agents.minibatches import mean_gradient
from dsrm_jax.agents.slates import FactoredScores, sample_slate, slate_log_prob
from dsrm_jax.config import AgentConfig, Config, TrainingConfig
from dsrm_jax.parallel.mesh_axes import user_devices
from dsrm_jax.runs.run import run_mesh
from dsrm_jax.parallel.sharding import USERS, make_mesh
from dsrm_jax.training.rollout import reset_users
from tests.simulator.test_platform import B, ENVIRONMENT, K, PLATFORM, remembering_world

for method, shape in (("td3", {"seeds": 1, "users": 8}), ("bcq", {"seeds": 3, "users": 1})):
    config = Config(agent=AgentConfig(method=method), training=TrainingConfig(num_users=64, seeds=(1, 2, 3)))
    assert dict(run_mesh(config).shape) == shape  # a method that replays makes its whole update on every device

rng = np.random.default_rng(0)
scores = jnp.asarray(rng.normal(size=(16, 40)), jnp.float32)
popular, quota = jnp.arange(40) < 9, jnp.full(16, 2, jnp.int32)
query, vectors = (jnp.asarray(rng.normal(size=(n, 3)), jnp.float32) for n in (16, 40))
inputs, targets = (jnp.asarray(rng.normal(size=(512, n)), jnp.float32) for n in (3, 5))
params = {name: jnp.asarray(rng.normal(size=(3, 5)), jnp.float32) for name in ("a", "b")}


def slates(scores, quota):
    slate, _ = sample_slate(jax.random.key(0), scores, popular, quota, slate_size=4)
    return slate, jax.grad(lambda s: slate_log_prob(s, slate, popular, quota).sum())(scores)


def large(query, quota):
    scores = FactoredScores(query, vectors)
    arguments = jax.random.key(0), scores, popular, quota
    return sample_slate(*arguments, slate_size=4, block_size=8)


def loss(params, samples):
    inputs, targets = samples
    error = jnp.mean((jnp.tanh(inputs @ params["a"]) + inputs @ params["b"] - targets) ** 2)
    return error, {"error": error}


def gradient(params, samples):
    return mean_gradient(loss, params, samples)


alone = (jax.jit(slates)(scores, quota), jax.jit(large)(query, quota), jax.jit(gradient)(params, (inputs, targets)))
assert user_devices() == 1
mesh = make_mesh(1, 16)
split = [jax.device_put(x, NamedSharding(mesh, P(USERS))) for x in (scores, query, quota, inputs, targets)]
scores, query, quota, *samples = split
with jax.set_mesh(mesh):
    assert user_devices() == 8
    draw = jax.jit(slates).lower(scores, quota).compile()
    blocks = jax.jit(large).lower(query, quota).compile()
    step = jax.jit(gradient).lower(params, tuple(samples)).compile()
together = draw(scores, quota), blocks(query, quota), step(params, tuple(samples))
for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
kinds = ("all-reduce(", "all-gather(", "all-to-all(", "collective-permute(", "reduce-scatter(")
count = {name: sum(p.as_text().count(k) for k in kinds) for name, p in (("draw", draw), ("blocks", blocks), ("step", step))}


world = remembering_world([PLATFORM])


def sessions(env, keys):
    def step(env, key):
        slate = jax.vmap(lambda k: jax.random.permutation(k, 40)[:K])(jax.random.split(key, B))
        every = jax.vmap(ENVIRONMENT.step_auto_reset, in_axes=(0, 0, 0, None))
        seen, env, *_ = every(jax.random.split(key, B), env, slate, world)
        seen, env = ENVIRONMENT.couple(seen, env)
        return env, seen.context

    return jax.lax.scan(step, env, keys)[1]


_, env = reset_users(jax.random.key(0), ENVIRONMENT, world, num_users=B)
keys = jax.random.split(jax.random.key(1), 12)
spread = jax.device_put(env, NamedSharding(mesh, P(USERS)))
assert len(spread.user.devices()) == 8
equal = np.array_equal(jax.jit(sessions)(env, keys), jax.jit(sessions)(spread, keys))
print(json.dumps(count | {"platform": equal}))
"""


@pytest.fixture(scope="module")
def found():
    """What a process that sees eight devices finds."""
    run = [sys.executable, "-c", PROGRAM]
    talk = subprocess.run(run, env=environment(devices=8), capture_output=True, text=True, timeout=300)
    assert talk.returncode == 0, talk.stderr[-3000:]
    return json.loads(talk.stdout)


@pytest.mark.timeout(300)
def test_devices_draw_slates_without_a_word_and_meet_once_in_a_gradient_step(found):
    """What devices say to each other costs more than the sums: indexed by row, every slot of every slate was gathered first."""
    assert {name: found[name] for name in ("draw", "blocks", "step")} == {"draw": 0, "blocks": 0, "step": 1}


def test_a_platforms_counts_are_exact_however_the_users_are_spread_over_devices(found):
    """On eight devices of one process contexts and prices are those of one device bit for bit."""
    assert found["platform"]
