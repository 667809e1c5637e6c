"""A purifier of one's own, made of functions outside the package: all that ours can, it can."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.config import Config, EncoderConfig, EnvironmentConfig, PurifierConfig, TrainingConfig
from dsrm_jax.config.serialise import merge
from dsrm_jax.data.log import Interactions
from dsrm_jax.errors import InputError
from dsrm_jax.purify.encoder import make_encoder
from dsrm_jax.purify.kinds import make_purifier
from dsrm_jax.purify.perception import make_perceive, share_process
from dsrm_jax.purify.purifier import Learning, Purifier
from dsrm_jax.purify.stage_one import fit_perception
from dsrm_jax.runs.pieces import check_names, encoder_of, perceive_of, purifier_of, without_process
from dsrm_jax.runs.prepare import perception_like, stage_one_name
from dsrm_jax.simulator.environment import Observation
from dsrm_jax.simulator.world import History

USERS, ITEMS, ROWS, H, DIM = 8, 12, 30, 6, 2
D = DIM + 1
CONFIG = Config(
    environment=EnvironmentConfig(history_length=H, arrival_length=H),
    encoder=EncoderConfig(dim=DIM),
    purifier=PurifierConfig(kind=f"{__name__}:make_shrinking", iterations=40, batch_size=64, hidden=7),
    training=TrainingConfig(seeds=(1, 2)),
)


def make_shrinking(*, iterations, batch_size, target="mode"):
    """States times one learnt number, which square error makes less than 1 where histories are short and targets whole."""

    def purify(params, key, state, evidence):
        return params["scale"] * state

    def loss(params, key, batch):
        return jnp.mean((purify(params, None, batch.state, batch.condition) - batch.target) ** 2)

    return Purifier(
        init=lambda key, batch: {"scale": jnp.float32(0.0), "told": jnp.zeros(batch.state.shape[-1])},
        loss=loss,
        purify=purify,
        learning=Learning("mode", False, iterations, batch_size, learning_rate=0.05, ema=0.0),
        inform=lambda params, exposure: params | {"told": exposure.centre},
    )


def make_nothing():
    return "a purifier"


def make_labelled(*, batch_size):
    """The mean click of what follows each history, whoever asks."""
    return Purifier(
        init=lambda key, batch: jnp.zeros(batch.click.shape[-1:]),
        loss=lambda params, key, batch: jnp.mean((jnp.mean(params) - batch.click) ** 2),
        purify=lambda params, key, state, evidence: state + jnp.mean(params),
        learning=Learning(labelled=True, iterations=200, batch_size=batch_size, learning_rate=0.05),
    )


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(USERS), ROWS).astype(np.int32)
    item = rng.integers(0, ITEMS, len(user)).astype(np.int32)
    click = rng.random(len(user)) < 0.7
    rows = Interactions(user, item, click, np.arange(len(user)), np.ones(len(user)))
    return SimpleNamespace(train=rows, num_users=USERS, num_items=ITEMS, digest="toy")


@pytest.fixture(scope="module")
def observation():
    rng = np.random.default_rng(1)
    history = History(
        jnp.asarray(rng.integers(0, ITEMS, (5, H)), jnp.int32),
        jnp.asarray(rng.random((5, H)) < 0.5),
        jnp.full(5, H, jnp.int32),
    )
    return Observation(history, jnp.zeros(5, jnp.int32), jnp.zeros(5, jnp.int32))


def fitted(log, encoder, purifier, **options):
    return fit_perception(
        jax.random.key(0),
        log,
        encoder,
        purifier,
        history_length=H,
        arrival_length=H,
        embedding_epochs=1,
        iterations=20,
        batch_size=32,
        **options,
    )


def test_it_is_fitted_told_of_the_log_and_perceives(log, observation):
    encoder, purifier = encoder_of(CONFIG), purifier_of(CONFIG)
    perception = fitted(log, encoder, purifier)
    scale = float(perception.purifier["scale"])
    assert scale != 0
    assert np.any(perception.purifier["told"] != 0)
    view = jax.jit(perceive_of(CONFIG))(perception, None, observation)
    np.testing.assert_allclose(view.state, scale * view.observed, rtol=1e-5)
    assert share_process(purifier, perception) is perception
    assert without_process(CONFIG) == CONFIG


def test_the_shapes_that_a_checkpoint_is_restored_into_are_its_own(log):
    like = perception_like(CONFIG, ITEMS)
    perception = fitted(log, encoder_of(CONFIG), purifier_of(CONFIG))
    assert jax.tree.structure(like) == jax.tree.structure(perception)
    shapes = jax.tree.map(lambda x: (2, *x.shape), perception.purifier)
    assert jax.tree.map(lambda x: x.shape, like.purifier) == shapes
    assert like.purifier["told"].shape == (2, D)


def test_one_that_learns_from_labels_is_given_them(log):
    config = merge(CONFIG, {"purifier": {"kind": f"{__name__}:make_labelled"}}, "test")
    perception = fitted(log, encoder_of(config), purifier_of(config))
    assert float(jnp.mean(perception.purifier)) == pytest.approx(log.train.click.mean(), abs=0.1)
    assert jax.tree.map(lambda x: x.shape, perception_like(config, ITEMS).purifier) == (2, 20)


def test_runs_share_it_only_where_all_settings_are_the_same(log):
    """What it reads of them nobody knows."""
    other = merge(CONFIG, {"purifier": {"diffusion_steps": 7}}, "test")
    assert stage_one_name(CONFIG, log) != stage_one_name(other, log)
    assert stage_one_name(CONFIG, log) == stage_one_name(merge(CONFIG, {}, "test"), log)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("guidde", r"unknown purifier 'guidde': did you mean 'guided'\?.*module:function"),
        (f"{__name__}:make_shrinkin", "did you mean 'make_shrinking'"),
        (f"{__name__}:make_nothing", r"returned str, expected a dsrm_jax\.Purifier"),
    ],
)
def test_a_kind_that_is_none_is_refused_in_one_sentence(kind, message):
    with pytest.raises(InputError, match=message):
        purifier_of(merge(CONFIG, {"purifier": {"kind": kind}}, "test"))


def test_a_misspelt_kind_is_refused_before_any_work():
    with pytest.raises(InputError, match="did you mean 'guided'"):
        check_names(merge(Config(), {"purifier": {"kind": "guidde"}}, "test"))


def test_ours_are_fitted_by_the_same_call(log, observation):
    encoder = make_encoder(dim=DIM)
    purifier = make_purifier(diffusion_steps=3, hidden=8, iterations=5, batch_size=16)
    perception = fitted(log, encoder, purifier)
    assert np.any(perception.purifier.told.exposure.precision != 0)
    view = jax.eval_shape(make_perceive(encoder, purifier), perception, None, observation)
    assert view.state.shape == (5, D)
