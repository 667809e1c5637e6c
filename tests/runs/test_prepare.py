"""What a checkpoint is restored into, and the keys of seeds and stages."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.config import Config, EncoderConfig, EnvironmentConfig, PurifierConfig, TrainingConfig
from dsrm_jax.config.serialise import merge
from dsrm_jax.data.log import InteractionLog, Interactions, ObservedMatrix
from dsrm_jax.errors import InputError
from dsrm_jax.purify.encoder import Embeddings
from dsrm_jax.purify.perception import Perception
from dsrm_jax.purify.posterior import fit_posterior
from dsrm_jax.purify.stage_one import fit_purifiers
from dsrm_jax.purify.windows import Windows
from dsrm_jax.runs import log_models
from dsrm_jax.runs import prepare as stage_one
from dsrm_jax.runs.pieces import encoder_of, purifier_of
from dsrm_jax.runs.prepare import check_usable, perception_like, prepare, seed_keys, stage_one_like, stage_one_name
from dsrm_jax.simulator.world import SessionStarts

USERS, ITEMS, DIM = 4, 9, 2
CONFIG = Config(
    environment=EnvironmentConfig(history_length=5),
    encoder=EncoderConfig(dim=DIM),
    purifier=PurifierConfig(diffusion_steps=3, hidden=8, iterations=2, batch_size=8),
    training=TrainingConfig(seeds=(11, 15, 19)),
)


def trained(config):
    """Shapes of the perception that training gives, without training."""
    starts = SessionStarts(*(jnp.zeros(n, t) for n, t in [(20, int), (20, int), (20, bool), (USERS + 1, int)]))

    def train():
        embeddings = Embeddings(jnp.zeros((ITEMS, DIM + 1)), jnp.zeros(ITEMS))
        params = encoder_of(config).init(jax.random.key(0), embeddings)
        posterior = fit_posterior(jax.random.key(1), embeddings, starts, jnp.zeros((USERS, DIM + 1)))
        modules = encoder_of(config), purifier_of(config)
        purifier, _ = fit_purifiers(seed_keys(config, 1), *modules, params, Windows(starts), posterior)
        return Perception(params, purifier)

    return jax.eval_shape(train)


@pytest.mark.parametrize("kind", ["identity", "paper", "guided", "gaussian", "conditional", "rce", "tce", "bod"])
@pytest.mark.parametrize("encoder", ["clicked", "exposure"])
def test_a_checkpoint_is_restored_into_the_shapes_that_training_gives(kind, encoder):
    config = dataclasses.replace(
        CONFIG,
        encoder=dataclasses.replace(CONFIG.encoder, kind=encoder, hidden=8),
        purifier=dataclasses.replace(CONFIG.purifier, kind=kind),
    )
    like, expected = perception_like(config, ITEMS), trained(config)
    assert jax.tree.structure(like) == jax.tree.structure(expected)
    described = ([(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (like, expected))
    assert next(described) == next(described)


def test_workers_expect_the_shapes_of_posteriors_that_a_log_gives():
    log = log_of([0, 1, 2, 2])
    rows, users = len(log.train.user), log.num_users
    starts = SessionStarts(
        jnp.asarray(log.train.user), jnp.asarray(log.train.item), jnp.asarray(log.train.click), jnp.array([0, rows])
    )
    embeddings = Embeddings(jnp.ones((log.num_items, DIM + 1)), jnp.zeros(log.num_items))
    made = jax.eval_shape(fit_posterior, jax.random.key(1), embeddings, starts, jnp.zeros((users, DIM + 1)))
    like = stage_one_like(CONFIG, log)
    assert jax.tree.structure(like.posterior) == jax.tree.structure(made)
    for shape, array in zip(jax.tree.leaves(like.posterior), jax.tree.leaves(made), strict=True):
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
    assert jax.tree.structure(like.perception) == jax.tree.structure(perception_like(CONFIG, log.num_items))


def test_every_seed_and_stage_has_its_own_key_whatever_seeds_stand_beside_it():
    keys = {stage: jax.random.key_data(seed_keys(CONFIG, stage)).tolist() for stage in range(3)}
    assert len({tuple(key) for stage in keys.values() for key in stage}) == 9
    alone = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, seeds=(15,)))
    for stage, expected in keys.items():
        assert jax.random.key_data(seed_keys(alone, stage)).tolist() == [expected[1]]


def log_of(items, *, matrix=None):
    count = len(items)
    rows = Interactions(
        np.zeros(count, np.int32), np.array(items, np.int32), np.ones(count, bool), np.arange(count), np.ones(count)
    )
    catalogue = np.arange(3, dtype=np.int32)
    return InteractionLog(
        "toy", "three items", np.arange(1), np.arange(3), rows, rows, catalogue, np.zeros((3, 0)), train_matrix=matrix
    )


MATRIX = ObservedMatrix(np.arange(1), np.ones((1, 3), np.float32))


@pytest.mark.parametrize(
    ("method", "log", "message"),
    [
        (
            "bcq",
            log_of([0, 0, 1, 2], matrix=MATRIX),
            "bcq learns from a log of what was shown.*three items.*choose one of",
        ),
        ("dorl", log_of([0, 0, 1, 2], matrix=MATRIX), "dorl learns from a log"),
        ("dnair", log_of([0, 1, 2]), "dnair rewards novelty, and in these data all items are equally popular"),
    ],
)
def test_a_method_whose_need_the_data_cannot_meet_is_refused(method, log, message):
    with pytest.raises(InputError, match=message) as caught:
        check_usable(method, log)
    assert f" {method}," not in str(caught.value).split("choose one of")[1]


def test_worlds_remembered_from_another_method_do_not_let_one_in(monkeypatch):
    """A sweep hands the worlds of its first method to the next."""
    monkeypatch.setattr(stage_one, "load_worlds", lambda config, say: (log_of([0, 0, 1, 2], matrix=MATRIX), None, {}))
    memory = {}
    config = merge(CONFIG, {"agent": {"method": "a2c"}}, "test")
    stage_one.remembered_worlds(config, print, memory)
    with pytest.raises(InputError, match="bcq learns from a log"):
        stage_one.remembered_worlds(merge(config, {"agent": {"method": "bcq"}}, "test"), print, memory)
    assert len(memory) == 1


def test_what_the_data_do_meet_is_not_refused():
    for method in ("bcq", "dorl", "dnair", "dsrm_hrl"):
        check_usable(method, log_of([0, 0, 1, 2]))
    for method in ("a2c", "fcpo", "random"):
        check_usable(method, log_of([0, 1, 2], matrix=MATRIX))


@pytest.mark.parametrize(
    ("purifier", "change", "fits"),
    [
        ({"kind": "rce"}, {"denoiser": {"iterations": 7}}, 2),
        ({"kind": "guided"}, {"environment": {"max_len": 9}}, 1),
        ({"kind": "guided"}, {"purifier": {"diffusion_steps": 7, "schedule": "linear", "sampler": "ddim"}}, 1),
        ({"kind": "guided"}, {"purifier": {"hidden": 9}}, 2),
        ({"kind": "guided"}, {"purifier": {"exposure_scale": 0.5}}, 1),
        ({"kind": "guided"}, {"encoder": {"embedding_epochs": 7}}, 2),
        ({"kind": "paper"}, {"purifier": {"diffusion_steps": 7}}, 2),
    ],
)
def test_two_runs_share_a_purifier_only_where_it_would_come_out_alike(monkeypatch, purifier, change, fits):
    class Reached(Exception):
        pass

    def fit(config, params, posterior, worlds, say):
        assert posterior == "modes of the training users"
        fitted.append(config)
        return Perception(None, None), {}

    def stop(config, perception, starts, posterior, memory):
        assert posterior == "modes of the held-out users"
        raise Reached

    users = {"train_users": "the training users", "test_users": "the held-out users"}
    users["test"] = users["train"] = SimpleNamespace(starts=None)
    fitted, posteriors = [], []
    monkeypatch.setattr(stage_one, "remembered_worlds", lambda *_: (None, SimpleNamespace(**users), {}))
    modes = SimpleNamespace(of=lambda users: f"modes of {users}")
    monkeypatch.setattr(log_models, "log_posterior", lambda *_: posteriors.append(0) or modes)
    monkeypatch.setattr(log_models, "_fit_factors", lambda *_: (None, 0.0))
    monkeypatch.setattr(log_models, "_fit_encoder", lambda *_: (None, {}))
    monkeypatch.setattr(stage_one, "_fit_purifiers", fit)
    monkeypatch.setattr(stage_one, "_probe", stop)  # what comes next
    config, memory = merge(CONFIG, {"purifier": purifier}, "test"), {}
    both = config, merge(config, change, "test")
    for settings in both:
        with pytest.raises(Reached):
            prepare(settings, print, memory)
    assert len(fitted) == fits
    log = log_of([0, 1, 2])
    assert len({stage_one_name(settings, log) for settings in both}) == fits  # and workers share as little
    assert stage_one_name(config, log_of([0, 2, 1])) != stage_one_name(config, log)
    assert len(posteriors) == (2 if "encoder" in change else 1)
