"""Presets against the settings of the public simulators that they are named after."""

import inspect

import jax.numpy as jnp
import pytest

import dsrm_jax as dj
from dsrm_jax.errors import InputError
from dsrm_jax.simulator.environment import make_environment


def test_presets_are_the_published_settings():
    default = {name: p.default for name, p in inspect.signature(make_environment).parameters.items()}
    fields = ("slate_size", "max_len", "ad_bound", "ad_penalty", "double_sigmoid", "slate_correlation")
    settings = {name: tuple((default | dict(preset))[field] for field in fields) for name, preset in dj.PRESETS.items()}
    assert settings == {
        "paper": (6, 30, 0.3, 1, False, 0.0),
        "kuaisim": (6, 20, 0.3, 0, True, 0.2),
        "her4if": (10, 20, 0.3, 1, False, 0.2),
    }


@pytest.mark.parametrize("name", dj.PRESETS)
def test_make_gives_the_preset_and_overrides_win(name):
    environment = dj.make(name)
    assert not environment.can_truncate
    assert environment.slate_size == {"her4if": 10}.get(name, 6)
    assert environment.max_steps == {"paper": 30}.get(name, 20)
    changed = dj.make(name, slate_size=4, max_len=9, reward=lambda clicks, slate, world: jnp.float32(0))
    assert (changed.slate_size, changed.max_steps) == (4, 9)


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'kuaisim'"):
        dj.make("kuaisin")
    with pytest.raises(InputError, match=r"environment\.max_len is 0"):
        dj.make("paper", max_len=0)
