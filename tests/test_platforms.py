"""Every program of training, evaluation and Stage I lowers for CPU, CUDA and TPU, without any of them being here."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from dsrm_jax.agents.methods import METHODS, method_of
from dsrm_jax.config import Config
from dsrm_jax.config.budgets import budget
from dsrm_jax.data.sources import load_log
from dsrm_jax.evaluation.sessions import any_of, run_sessions
from dsrm_jax.purify import stage_one
from dsrm_jax.purify.encoder import embeddings_from, fit_encoder
from dsrm_jax.purify.perception import SEED_AXES
from dsrm_jax.purify.posterior import UserPosterior
from dsrm_jax.runs.evaluate import rule_of
from dsrm_jax.runs.pieces import encoder_of, environment_of, purifier_of, trainer_of, windows_of
from dsrm_jax.runs.prepare import stage_one_like
from dsrm_jax.simulator.build import make_worlds
from dsrm_jax.simulator.response import FactorResponse

pytestmark = pytest.mark.slow
PLATFORMS = ("cpu", "cuda", "tpu")
KEYS = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
LEARNERS = tuple(name for name, method in METHODS.items() if method.learns)
DENOISED = ("hrl_rce", "hrl_tce", "hrl_bod")  # whose Stage I trains the encoder anew


def factors(key, log, rows, users):
    users, items = len(users), len(log.catalogue)
    return FactorResponse(jnp.ones((users, 3)), jnp.ones((items, 3)), jnp.ones(users), jnp.ones(items))


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(0)
    item = rng.permuted(np.tile(np.arange(20), (40, 1)), axis=1).ravel()
    return load_log({"user_id": np.repeat(np.arange(40), 20), "item_id": item, "click": rng.random(800) < 0.4})


@pytest.fixture(scope="module")
def worlds(log):
    return make_worlds(jax.random.key(0), log, response=factors)


def config_of(method: str) -> Config:
    base = budget("tiny")
    return replace(
        base,
        environment=replace(base.environment, history_length=16, arrival_length=8, max_len=5),
        agent=replace(base.agent, method=method),
        training=replace(base.training, num_users=8, rollout_length=4, seeds=(1, 2)),
    )


def shapes(tree):
    return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree))


def lowers(function, *arguments) -> None:
    """Lowering raises where an operation is one platform's alone."""
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS


@pytest.mark.parametrize("method", LEARNERS)
def test_training_lowers(method, log, worlds):
    config = config_of(method)
    trainer, perception = trainer_of(config), stage_one_like(config, log).perception
    if method_of(method).needs_log:
        pytest.skip("learns from a log on the host's say; its update is that of the replay methods")

    def program(key, world, perception):
        return trainer.train(trainer.init(key, world, perception), world, perception, 2)

    lowers(jax.vmap(program, in_axes=(0, None, SEED_AXES)), KEYS, shapes(worlds.train), perception)


def test_evaluation_lowers(log, worlds):
    config = config_of("dsrm_hrl")
    trainer, perception = trainer_of(config), stage_one_like(config, log).perception
    environment, methods = environment_of(config), ("dsrm_hrl", "quota_random", "quota_greedy_purified")
    axes = (0, None, SEED_AXES)
    agents = jax.eval_shape(jax.vmap(trainer.init, in_axes=axes), KEYS, shapes(worlds.train), perception).agent

    def program(key, agent, index, world, perception):
        rules = [rule_of(config, m, agent, world, perception) for m in methods]
        return run_sessions(key, any_of(index, rules), environment, world, num_sessions=12, num_users=8)

    index = jax.ShapeDtypeStruct((), jnp.int32)
    lowers(
        jax.vmap(program, in_axes=(0, 0, None, None, SEED_AXES)), KEYS, agents, index, shapes(worlds.test), perception
    )


@pytest.mark.parametrize("method", ["dsrm_hrl", *DENOISED])
def test_stage_one_lowers(method, log, worlds):
    config = config_of(method)
    encoder, purifier, frozen = encoder_of(config), purifier_of(config), stage_one_like(config, log)
    starts, dim = shapes(worlds.train.starts), config.encoder.dim

    def program(keys, starts, frozen):
        windows = windows_of(config, starts)
        items = FactorResponse(
            *(jnp.ones(s) for s in ((log.num_users, dim), (log.num_items, dim), log.num_users, log.num_items))
        )
        params, losses = fit_encoder(keys[0], encoder, embeddings_from(items), windows, iterations=2, batch_size=8)
        posterior = UserPosterior(**vars(frozen.posterior))
        fitted = stage_one.fit_purifiers(keys, encoder, purifier, params, windows, posterior)
        return params, losses, fitted

    lowers(program, KEYS, starts, frozen)
