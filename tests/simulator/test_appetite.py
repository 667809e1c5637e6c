"""Appeal and mood against closed forms: the logit, the distribution over users, an AR(1) process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dsrm_jax.errors import InputError
from dsrm_jax.simulator.appetite import make_appeal, make_mood
from dsrm_jax.simulator.mechanism import begin, felt
from tests.simulator.worlds import remembering_world


def test_popular_items_gain_appeal_and_mood_and_all_items_the_offset():
    mechanisms = [make_appeal(offset=-1.0, mean=0.7, spread=0.5), make_mood(spread=2.0)]
    world = remembering_world(mechanisms)
    memory = begin(jax.random.key(3), mechanisms, jnp.int32(4), jnp.float32(0.3), world)
    items = jnp.asarray([0, 1, 2, 3, 39, 38])
    chance = np.array([0.0, 0.1, 0.5, 0.9, 0.9, 1.0])
    found = felt(jnp.asarray(chance, jnp.float32), mechanisms, memory, jnp.int32(4), items, world)
    popular = np.asarray(world.traits["appeal"])[4].astype(float) + float(memory["mood"])
    moved = special.logit(np.clip(chance, 1e-6, 1 - 1e-6)) - 1 + popular * (np.asarray(items) % 2 == 0)
    np.testing.assert_allclose(found, special.expit(moved), rtol=2e-4)


def test_appeal_is_normal_over_the_users():
    world = remembering_world([make_appeal(mean=1.0, spread=1.5)], rows=(1,) * 20_000, chance=0.5, num_items=2)
    appeal = np.asarray(world.traits["appeal"])
    np.testing.assert_allclose([appeal.mean(), appeal.std()], [1.0, 1.5], atol=0.04)


def test_mood_is_stationary_and_fades_by_its_memory():
    mood = make_mood(spread=2.0, memory=0.8)

    def path(key):
        start, *keys = jax.random.split(key, 5)
        moods = [mood.start(start, (), None)]
        for step_key in keys:
            moods.append(mood.step(step_key, moods[-1], (), None, None, None))
        return jnp.stack(moods)

    paths = np.asarray(jax.jit(jax.vmap(path))(jax.random.split(jax.random.key(0), 40_000)))
    lags = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    np.testing.assert_allclose(np.cov(paths.T), 4 * 0.8**lags, atol=0.12)


def test_settings_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"mood\.memory is 1\.5"):
        make_mood(memory=1.5)
