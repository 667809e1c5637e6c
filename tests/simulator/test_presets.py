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
    public = {name: dj.PRESETS[name] for name in ("paper", "kuaisim", "her4if")}
    settings = {name: tuple((default | dict(preset))[field] for field in fields) for name, preset in public.items()}
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
    visits = 30 if name == "retention" else 1
    assert environment.max_steps == visits * {"kuaisim": 20, "her4if": 20}.get(name, 30)
    changed = dj.make(name, slate_size=4, max_len=9, reward=lambda clicks, slate, world: jnp.float32(0))
    assert (changed.slate_size, changed.max_steps) == (4, 9 * visits)


def test_mechanisms_of_a_preset_are_changed_added_and_taken_away_by_name():
    changed = dj.make("mood", satisfaction={"slope": 0.0}, mood=None, platform={})
    assert [m.name for m in changed.mechanisms] == ["appeal", "satisfaction", "platform"]
    felt = changed.mechanisms[1].feel(jnp.float32(0.9), jnp.float32(0.1), jnp.arange(3), None)
    assert felt.tolist() == [0.0] * 3
    assert dj.make("mood", mechanisms=()).mechanisms == ()
    with pytest.raises(InputError, match=r"satisfaction\.slope is -1"):
        dj.make("satisfaction", satisfaction={"slope": -1.0})


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'kuaisim'"):
        dj.make("kuaisin")
    with pytest.raises(InputError, match=r"environment\.max_len is 0"):
        dj.make("paper", max_len=0)
