"""Named worlds in configurations: what a name sets, what wins over it, and that files, flags and Python mean the same."""

import dataclasses
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dsrm_jax as dj
from dsrm_jax.cli.options import parse
from dsrm_jax.config import Config, EnvironmentConfig, WorldConfig
from dsrm_jax.config.serialise import from_json, merge, to_json, validate
from dsrm_jax.config.worlds import TUNED, with_world
from dsrm_jax.errors import InputError
from dsrm_jax.runs.pieces import environment_of, mechanisms_of
from dsrm_jax.simulator.presets import MECHANISMS, PRESETS
from dsrm_jax.sweep.plan import Plan, expand
from tests.simulator.worlds import remembering_world


@pytest.mark.parametrize("name", PRESETS)
def test_a_name_means_in_a_configuration_what_it_means_in_python(name):
    config = with_world(Config(), name)
    validate(config)
    assert from_json(to_json(config), "a run") == config
    named, configured = dj.make(name), environment_of(config)
    for field in ("slate_size", "max_steps", "can_truncate", "history_length", "arrival_length"):
        assert getattr(named, field) == getattr(configured, field)
    assert [m.name for m in named.mechanisms] == [m.name for m in configured.mechanisms]


def test_the_same_sessions_come_of_both():
    world = remembering_world(dj.make("mood").mechanisms)

    def path(environment):
        _, state = environment.reset(jax.random.key(0), world)
        for t in range(4):
            state = environment.step(jax.random.key(t), state, jnp.arange(6), world)[1]
        return state

    found = [
        jax.jit(path, static_argnums=0)(e) for e in (dj.make("mood"), environment_of(with_world(Config(), "mood")))
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_what_is_said_beside_a_name_wins_and_another_name_leaves_nothing_of_the_former():
    config = merge(Config(), {"world": {"satisfaction": {"slope": 3.0}, "name": "mood"}}, "here")
    assert (config.world.satisfaction.slope, config.world.appeal.offset, config.environment.ad_penalty) == (
        3.0,
        -1.0,
        0,
    )
    assert merge(config, {"world": {"name": "mood"}}, "here") == config
    other = merge(config, {"world": {"name": "her4if"}}, "here")
    assert other == with_world(Config(), "her4if")
    assert merge(other, {"world": {"name": ""}}, "here") == Config()


@pytest.mark.parametrize("name", TUNED)
def test_what_is_tuned_for_a_mechanism_is_set_by_its_world_and_leaves_with_it(name):
    """Where a goal pays late, managers look further than by default; other worlds keep the defaults."""
    tuned = TUNED[name]
    config = with_world(Config(), name)
    assert name in config.world.mechanisms
    assert {key: getattr(config.agent, key) for key in tuned} == dict(tuned)
    assert config.agent.manager_discount > Config().agent.manager_discount
    for other in ("mood", ""):
        left = with_world(config, other).agent
        assert all(getattr(left, key) == getattr(Config().agent, key) for key in tuned)
    said = merge(Config(), {"world": {"name": name}, "agent": {"manager_discount": 0.5}}, "here").agent
    assert said == dataclasses.replace(config.agent, manager_discount=0.5), "what is said beside a name wins"


def test_a_flags_world_goes_before_the_files_fields(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[world]\nname = "mood"\n[world.satisfaction]\nslope = 7.0\n')
    _, config = parse(["--config", str(path)], "train", "x")
    assert config.world == dataclasses.replace(
        with_world(Config(), "mood").world, satisfaction=dataclasses.replace(WorldConfig().satisfaction, slope=7.0)
    )
    _, config = parse(["--config", str(path), "--world", "satisfaction", "--environment.max-len", "9"], "train", "x")
    assert (config.world.name, config.world.satisfaction.slope) == ("satisfaction", 7.0)
    assert config.world.appeal == WorldConfig().appeal
    assert (config.environment.max_len, config.environment.ad_penalty) == (9, 0)
    _, config = parse(["--world=tolerance", "--environment.ad-penalty", "1"], "train", "x")
    assert config.environment.ad_penalty == EnvironmentConfig.ad_penalty


def test_points_of_a_sweep_may_differ_in_their_world():
    points = expand(Plan(Config(), {"world.name": ("mood", "tolerance"), "world.appeal.mean": (0.5,)}))
    assert [p.config.world.mechanisms for p in points] == [("appeal", "mood", "satisfaction"), ("appeal", "tolerance")]
    assert {p.config.world.appeal.mean for p in points} == {0.5}


def test_a_mechanism_of_ones_own_goes_by_module_and_function():
    config = dataclasses.replace(Config(), world=WorldConfig(mechanisms=("dsrm_jax:MECHANISMS", "mood")))
    with pytest.raises(InputError, match="MECHANISMS is a mappingproxy, expected a function"):
        mechanisms_of(config)
    own = WorldConfig(mechanisms=("dsrm_jax.simulator.appetite:make_mood", "appeal"))
    assert [m.name for m in mechanisms_of(dataclasses.replace(Config(), world=own))] == ["mood", "appeal"]
    with pytest.raises(InputError, match="did you mean 'mood'"):
        mechanisms_of(dataclasses.replace(Config(), world=WorldConfig(mechanisms=("mod",))))


def test_every_mechanism_has_its_section():
    assert {""} | set(PRESETS) == set(get_args(get_type_hints(WorldConfig)["name"]))
    assert set(MECHANISMS) | {"name", "mechanisms"} == {f.name for f in dataclasses.fields(WorldConfig)}
