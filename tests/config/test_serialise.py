"""Configurations survive JSON and TOML; a wrong name, type or value is one sentence that says where."""

import dataclasses
import functools
import json
import math
import os
from typing import Literal, get_args, get_origin, get_type_hints

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax import files
from dsrm_jax.config import Config, serialise
from dsrm_jax.errors import InputError
from dsrm_jax.settings import Range, is_settings


def ranges(config, prefix=""):
    """Return the range of every number of a configuration by its dotted name."""
    found = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if is_settings(value):
            found |= ranges(value, f"{prefix}{f.name}.")
        elif "range" in f.metadata:
            found[f"{prefix}{f.name}"] = f.metadata["range"]
    return found


RANGES = ranges(Config())


def strategy(hint) -> st.SearchStrategy:
    """Any value of a field's type, of any range."""
    if dataclasses.is_dataclass(hint):
        return st.builds(hint, **{name: strategy(h) for name, h in get_type_hints(hint).items()})
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        return st.lists(strategy(get_args(hint)[0]), max_size=4).map(tuple)
    return {
        bool: st.booleans(),
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: st.text(),
    }[hint]


configs = strategy(Config)


@settings(max_examples=30, deadline=None)
@given(configs)
def test_any_configuration_survives_json(config):
    other = serialise.from_json(json.loads(json.dumps(serialise.to_json(config))), "test")
    assert repr(other) == repr(config)  # repr tells 0.0 from -0.0 and 1 from 1.0


@settings(max_examples=15, deadline=None)
@given(configs, st.data())
def test_merging_changes_the_named_fields_and_no_other(config, data):
    names = [name for name, _ in serialise.fields(config)]
    # a world's name stands for a preset's fields, and Hypothesis finds their names
    alone = [name for name in names if name != "world.name"]
    chosen = set(data.draw(st.lists(st.sampled_from(alone), max_size=6)))
    other = data.draw(configs)
    overrides: dict = {}
    for name, value in serialise.fields(other):
        if name in chosen:
            *sections, field = name.split(".")
            inner = overrides
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[field] = value
    merged = dict(serialise.fields(serialise.merge(config, overrides, "test")))
    before, after = dict(serialise.fields(config)), dict(serialise.fields(other))
    assert merged == {name: after[name] if name in chosen else before[name] for name in names}


def test_toml_file_overrides_only_what_it_names(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[agent]\nclip = 1\nslate_mode = "penalty"\n[training]\nseeds = [3, 4]\n')
    config = serialise.merge(Config(), files.load_toml(path), str(path))
    assert config.agent.clip == 1.0
    assert type(config.agent.clip) is float
    assert config.training.seeds == (3, 4)
    expected = dataclasses.replace(
        Config(),
        agent=dataclasses.replace(Config().agent, clip=1.0, slate_mode="penalty"),
        training=dataclasses.replace(Config().training, seeds=(3, 4)),
    )
    assert config == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"agent": {"clpi": 0.3}}, r"unknown field in run\.toml 'agent\.clpi': did you mean 'agent\.clip'\?"),
        ({"agnet": {"clip": 0.3}}, r"unknown field in run\.toml 'agnet': did you mean 'agent'\?"),
        ({"gae_lambda": 0.3}, r"unknown field in run\.toml 'gae_lambda': did you mean 'agent\.gae_lambda'\?"),
        ({"agent": 3}, r"run\.toml: agent is a whole number, expected a table"),
        ({"agent": {"clip": "high"}}, r"run\.toml: agent\.clip is 'high', a string, expected a number"),
        ({"agent": {"clip": True}}, r"agent\.clip is True, a truth value, expected a number"),
        ({"agent": {"clip": 10**400}}, r"agent\.clip is too large"),
        ({"agent": {"clip": None}}, r"agent\.clip is None, null, expected a number"),
        ({"agent": {"hidden": 3.0}}, r"agent\.hidden is 3\.0, a number, expected a whole number"),
        ({"agent": {"hidden": False}}, r"agent\.hidden is False, a truth value, expected a whole number"),
        ({"data": {"cache": 1}}, r"data\.cache is 1, a whole number, expected true or false"),
        ({"data": {"env": ["a"]}}, r"data\.env is \['a'\], a list, expected a string"),
        ({"training": {"seeds": 3}}, r"training\.seeds is 3, a whole number, expected a list, each a whole number"),
        ({"training": {"seeds": [1, 2.5]}}, r"training\.seeds\[1\] is 2\.5"),
        ({"encoder": {"kind": "clikced"}}, r"value of encoder\.kind in run\.toml 'clikced': did you mean 'clicked'\?"),
        ({"encoder": {"kind": 2}}, r"encoder\.kind is 2, a whole number, expected one of 'clicked'"),
    ],
)
def test_wrong_names_and_types_say_where_and_what(overrides, message):
    with pytest.raises(InputError, match=message):
        serialise.merge(Config(), overrides, "run.toml")


def test_unreadable_files_say_where(tmp_path):
    path = tmp_path / "run.toml"
    with pytest.raises(InputError, match=r"cannot read .*run\.toml: No such file"):
        files.load_toml(path)
    path.write_text("[agent]\nclip = = 3\n")
    with pytest.raises(InputError, match=r"run\.toml is not valid TOML: .*line 2"):
        files.load_toml(path)
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(InputError, match=r"run\.toml is not UTF-8"):
        files.load_toml(path)
    path.write_text('{"a": 1,\n')
    with pytest.raises(InputError, match=r"line 2 is not valid JSON"):
        files.load_json(path)
    path.write_text("[]")
    with pytest.raises(InputError, match=r"expected one JSON object, found a list"):
        files.load_json(path)


def replaced(name: str, value) -> Config:
    overrides = value
    for part in reversed(name.split(".")):
        overrides = {part: overrides}
    return replaced_within(Config(), overrides)


def replaced_within(config, overrides):
    """No check of types or ranges, unlike `merge`."""
    changes = {
        name: replaced_within(getattr(config, name), value) if isinstance(value, dict) else value
        for name, value in overrides.items()
    }
    return dataclasses.replace(config, **changes)


def test_defaults_are_valid_and_every_number_has_a_range():
    serialise.validate(Config())
    numbers = {
        name for name, value in serialise.fields(Config()) if type(value) in (int, float) or isinstance(value, tuple)
    }
    assert set(RANGES) == numbers - serialise.MAY_BE_EMPTY


@pytest.mark.parametrize("name", sorted(RANGES))
def test_every_range_is_enforced_at_both_ends(name):
    """Ends that belong to the range pass, the next number outside does not; the message has all parts."""
    value = dict(serialise.fields(Config()))[name]
    example = value[0] if isinstance(value, tuple) else value
    expected = RANGES[name]

    def step(number, towards):
        return number + (1 if towards > number else -1) if isinstance(example, int) else math.nextafter(number, towards)

    def check(number, good):
        number = type(example)(number)
        config = replaced(name, (number,) if isinstance(value, tuple) else number)
        if good:
            return serialise.validate(config)
        with pytest.raises(InputError, match=rf"here: {name} is .*{number}.*, expected "):
            serialise.validate(config, "here")

    if math.isfinite(expected.low):
        check(expected.low, not expected.low_open)
        check(step(expected.low, -math.inf), False)
        check(step(expected.low, math.inf), True)
    if math.isfinite(expected.high):
        check(expected.high, not expected.high_open)
        check(step(expected.high, math.inf), False)
    if isinstance(example, float):
        for number in (math.nan, math.inf, -math.inf):
            with pytest.raises(InputError, match=name):
                serialise.validate(replaced(name, number))


def test_validate_sees_types_choices_and_seeds():
    for config, message in [
        (replaced("encoder.kind", "other"), "'other'"),
        (replaced("agent.hidden", 2.0), "agent.hidden"),
        (replaced("training.seeds", ()), "training.seeds is empty"),
        (replaced("training.seeds", (1, 2, 1)), "values that differ"),
        (replaced("training.seeds", (1, -2)), "training.seeds is -2"),
        (replaced("agent.clip", jnp.float32(0.2)), "agent.clip"),
    ]:
        with pytest.raises(InputError, match=message):
            serialise.validate(config)


def test_range_reads_as_mathematics():
    assert [str(Range(0, 1)), str(Range(0, 1, high_open=True)), str(Range(1)), str(Range(0, low_open=True))] == [
        "in [0, 1]",
        "in [0, 1)",
        "at least 1",
        "more than 0",
    ]


def test_fingerprint_changes_with_each_field_that_decides_the_state_and_with_no_other():
    base = serialise.config_fingerprint(Config())
    free = set()
    for name, value in serialise.fields(Config()):
        *sections, field = name.split(".")
        owner = functools.reduce(getattr, sections, Config())
        kind = get_type_hints(type(owner))[field]
        if isinstance(value, tuple):
            other = (*value, 99)
        elif isinstance(value, str):
            other = next(c for c in (get_args(kind) or ("other",)) if c != value)
        else:
            other = not value if isinstance(value, bool) else value + 1
        if serialise.config_fingerprint(replaced(name, other)) == base:
            free.add(name)
    evaluation = {name for name, _ in serialise.fields(Config()) if name.startswith("evaluation.")}
    assert free == evaluation | {
        "data.cache",
        "data.path",
        "training.steps",
        "training.checkpoint_minutes",
        "training.keep_checkpoints",
        "training.tensorboard",
    }


@pytest.mark.parametrize("env", ["log", "my_lab.logs:load"])
def test_fingerprint_knows_which_log_and_which_data(env):
    one, two = (
        dataclasses.replace(Config(), data=dataclasses.replace(Config().data, env=env, path=path))
        for path in ("a.csv", "b.csv")
    )
    assert serialise.config_fingerprint(one) != serialise.config_fingerprint(two)
    assert serialise.config_fingerprint(one, data="x") != serialise.config_fingerprint(one, data="y")
    assert serialise.config_fingerprint(one, data="x") == serialise.config_fingerprint(one, data="x")


@settings(max_examples=20, deadline=None)
@given(configs)
def test_fingerprint_survives_the_disk(config):
    again = serialise.from_json(json.loads(json.dumps(serialise.to_json(config))), "test")
    assert serialise.config_fingerprint(again) == serialise.config_fingerprint(config)


def test_array_valued_and_non_finite_configurations_have_no_json():
    for value in (jnp.ones(3), math.nan):
        with pytest.raises(InputError, match=r"agent\.clip"):
            serialise.to_json(replaced("agent.clip", value))


@settings(max_examples=100, deadline=None)
@given(st.floats(width=32))
def test_float32_reads_back_to_the_same_float32(value):
    text = json.dumps(files.json_value(np.float32(value)), allow_nan=False)
    again = np.float32(files.from_json_value(json.loads(text)))
    assert again.tobytes() == np.float32(value).tobytes() or (np.isnan(again) and np.isnan(value))


def test_json_value_of_arrays_and_containers():
    value = {
        "seeds": jnp.array([0.1, jnp.nan, -jnp.inf], jnp.float32),
        "count": np.int64(2**60),
        "flags": np.array([[True], [False]]),
        "half": jnp.bfloat16(0.5),
        "double": np.float64(0.1),
        "none": None,
        "nested": ({"a": math.inf}, "text"),
    }
    expected = {
        "seeds": [0.1, "NaN", "-Infinity"],
        "count": 2**60,
        "flags": [[True], [False]],
        "half": 0.5,
        "double": 0.1,
        "none": None,
        "nested": [{"a": "Infinity"}, "text"],
    }
    assert json.loads(json.dumps(files.json_value(value), allow_nan=False)) == expected
    with pytest.raises(TypeError, match="object"):
        files.json_value(object())


def test_write_text_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    files.write_text(path, "old é")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*file\.txt: No space left on device"):
        files.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old é"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    with pytest.raises(InputError, match="cannot write"):
        files.write_text(tmp_path / "absent" / "file.txt", "new")
