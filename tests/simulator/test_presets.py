"""Presets against the settings of the public simulators that they are named after."""

from dsrm_jax.config import Config
from dsrm_jax.runs.pieces import environment_of
from dsrm_jax.simulator.presets import PRESETS


def test_presets_are_the_published_settings():
    fields = ("slate_size", "max_len", "ad_bound", "ad_penalty", "double_sigmoid", "slate_correlation")
    settings = {name: tuple(getattr(config, field) for field in fields) for name, config in PRESETS.items()}
    assert settings == {
        "paper": (6, 30, 0.3, 1, False, 0.0),
        "kuaisim": (6, 20, 0.3, 0, True, 0.2),
        "her4if": (10, 20, 0.3, 1, False, 0.2),
    }
    for config in PRESETS.values():
        assert not environment_of(Config(environment=config)).can_truncate
