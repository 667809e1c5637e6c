"""What a checkpoint is restored into, and the keys of seeds and stages."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from dsrm_jax.config import Config, EncoderConfig, EnvironmentConfig, PurifierConfig, TrainingConfig
from dsrm_jax.simulator.world import SessionStarts
from dsrm_jax.state.encoder import Embeddings, make_encoder
from dsrm_jax.state.perception import Perception, fit_perception_purifier
from dsrm_jax.training.prepare import perception_like, seed_keys

USERS, ITEMS, DIM = 4, 9, 2
CONFIG = Config(
    environment=EnvironmentConfig(history_length=5),
    encoder=EncoderConfig(dim=DIM),
    purifier=PurifierConfig(diffusion_steps=3, hidden=8, iterations=2, batch_size=8),
    training=TrainingConfig(seeds=(11, 15, 19)),
)


def trained(config):
    """Shapes of the perception that training gives, without training."""
    starts = SessionStarts(
        *(jnp.zeros(n, t) for n, t in [(20, int), (20, int), (20, bool), (USERS + 1, int)])
    )

    def train():
        embeddings = Embeddings(jnp.zeros((ITEMS, DIM + 1)), jnp.zeros(ITEMS))
        params = make_encoder(config.encoder).init(jax.random.key(0), embeddings)
        target = jnp.zeros((USERS, DIM + 1))
        purifier, _ = fit_perception_purifier(seed_keys(config, 1), config, params, starts, target)
        return Perception(params, purifier)

    return jax.eval_shape(train)


@pytest.mark.parametrize("kind", ["identity", "paper", "masked"])
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


def test_every_seed_and_stage_has_its_own_key_whatever_seeds_stand_beside_it():
    keys = {stage: jax.random.key_data(seed_keys(CONFIG, stage)).tolist() for stage in range(3)}
    assert len({tuple(key) for stage in keys.values() for key in stage}) == 9
    alone = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, seeds=(15,)))
    for stage, expected in keys.items():
        assert jax.random.key_data(seed_keys(alone, stage)).tolist() == [expected[1]]
