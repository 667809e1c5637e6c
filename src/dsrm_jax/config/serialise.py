"""Configurations from plain values and back: every name, type and range checked; fingerprints of what decides a run."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from dsrm_jax.config import Config, to_dict
from dsrm_jax.config.worlds import with_world
from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.files import digest, kind_of
from dsrm_jax.plugins import is_plugin
from dsrm_jax.settings import Settings, check, is_settings
from dsrm_jax.types import Json

C = TypeVar("C", bound=Settings)

# 2: the denoiser is told the time of the continuous process; 3: what the log showed is read; 4: its events correlate, and an
# environment counts those that the training log did not choose
FINGERPRINT_FORMAT = 4

# What a run may change when it is resumed: how long, how it is shown and kept, where the same files lie.
FREE_FIELDS = frozenset(
    {
        "data.cache",
        "data.path",
        *(f"training.{x}" for x in ("steps", "checkpoint_minutes", "keep_checkpoints", "tensorboard")),
    }
)
MAY_BE_EMPTY = frozenset({"world.mechanisms"})
FREE_SECTIONS = frozenset({"evaluation"})


def merge(config: C, overrides: Mapping[str, object], where: str) -> C:
    """Return a configuration, any tree of frozen dataclasses, with some fields replaced, checking every name and type.

    A name of a world among them (`world.name`) comes first with all that it sets (`with_world`); the others win over it.

    `overrides` is a nested mapping of field names to plain values, as TOML or JSON give them: an int is accepted for a float and
    a list for a tuple; a bool is never a number. `where` names the source in errors, such as a file. Ranges are not checked here;
    `validate` does.

    Raises:
        InputError: an unknown name (with the nearest valid one), a wrong type or choice; names `where` and the dotted field.
    """
    world = overrides.get("world") if isinstance(overrides, Mapping) else None
    if isinstance(config, Config) and isinstance(world, Mapping) and isinstance(name := world.get("name"), str):
        config = cast(C, with_world(config, name))
    return _merge(config, overrides, where, "")


def _merge(config: C, overrides: object, where: str, prefix: str) -> C:
    if not isinstance(overrides, Mapping):
        raise InputError(
            f"{where}: {prefix.rstrip('.') or 'the whole'} is {kind_of(overrides)}, expected a table of fields"
        )
    hints = get_type_hints(type(config))
    names = [f.name for f in dataclasses.fields(config)]
    changes: dict[str, object] = {}
    for name, value in overrides.items():
        if name not in names:
            near = [d for d, _ in fields(config) if "." in d and d.rsplit(".", 1)[-1] == name]
            raise unknown_name(f"field in {where}", f"{prefix}{name}", [f"{prefix}{n}" for n in names + near])
        current = getattr(config, name)
        if is_settings(current):
            changes[name] = _merge(current, value, where, f"{prefix}{name}.")
        else:
            changes[name] = _coerce(value, hints[name], where, f"{prefix}{name}")
    return dataclasses.replace(config, **changes)


def _coerce(value: object, hint: object, where: str, name: str) -> object:
    if get_origin(hint) is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
        if isinstance(value, str):
            raise unknown_name(f"value of {name} in {where}", value, get_args(hint))
    elif get_origin(hint) is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_coerce(v, get_args(hint)[0], where, f"{name}[{i}]") for i, v in enumerate(value))
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError as error:
                raise InputError(f"{where}: {name} is too large for a number") from error
    elif type(value) is hint:
        return value
    raise InputError(f"{where}: {name} is {value!r}, {kind_of(value)}, expected {_expected(hint)}")


def _expected(hint: object) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list, each {_expected(get_args(hint)[0])}"
    names: dict[object, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
    return names.get(hint, str(hint))


def fields(config: Settings, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield `(dotted name, value)` of every field that is not itself a configuration, in order."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if is_settings(value):
            yield from fields(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", value


def validate(config: Config, where: str = "configuration") -> None:
    """Check the type of every field, a plain Python value, not an array, and the range of every number; `where` as `merge`.

    Raises:
        InputError: one sentence with the dotted field, its value and the expected range.
    """
    merge(config, to_dict(config), where)
    for name, value in fields(config):
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and "\0" in text:
                raise InputError(f"{where}: {name} holds a null character, which no name can")
        if isinstance(value, tuple) and not value and name not in MAY_BE_EMPTY:
            raise InputError(f"{where}: {name} is empty, expected at least one value")
        if isinstance(value, tuple) and len(set(value)) < len(value):
            raise InputError(f"{where}: {name} is {list(value)}, expected values that differ")
    _check_ranges(config, where, ": ")


def _check_ranges(config: Settings, where: str, separator: str) -> None:
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    sections = {name: value for name, value in values.items() if is_settings(value)}
    check(type(config), where, **{name: value for name, value in values.items() if name not in sections})
    for name, section in sections.items():
        _check_ranges(section, f"{where}{separator}{name}", ".")


def to_json(config: Settings) -> Json:
    """Return a configuration as nested dictionaries of JSON values (tuples as lists).

    Raises:
        InputError: a field is not a plain finite value; names it.
    """
    for name, value in fields(config):
        for v in value if isinstance(value, tuple) else (value,):
            if not isinstance(v, (bool, int, float, str)) or (isinstance(v, float) and not math.isfinite(v)):
                raise InputError(f"configuration: {name} is {v!r}, expected a plain finite value")
    return json.loads(json.dumps(to_dict(config)))


def from_json(document: Mapping[str, object], where: str) -> Config:
    """Return the configuration of what `to_json` or `load_toml` gave; absent fields keep their defaults; raises as `merge`."""
    return merge(Config(), document, where)


def config_fingerprint(config: Config, *, data: str = "") -> str:
    """Return a digest of what decides a checkpoint's meaning.

    Two configurations share it exactly when a state saved under one continues under the other. Free to differ are the evaluation,
    the number of steps, checkpointing and display, and the folder of a named data set's files. `data` is the identity of the data
    that was loaded (its source and a checksum), where the caller knows it; the digest is 64 hexadecimal digits.
    """
    own = config.data.env == "log" or is_plugin(config.data.env)
    free = FREE_FIELDS - ({"data.path"} if own else set())
    document = to_json(config)
    kept = {
        f"{section}.{name}": value
        for section, values in document.items()
        if section not in FREE_SECTIONS
        for name, value in values.items()
        if f"{section}.{name}" not in free
    }
    return digest({"format": FINGERPRINT_FORMAT, "data": data, "config": kept})


def differences(old: Config, new: Config) -> list[str]:
    """Return a phrase per field in which two configurations differ: ``agent.clip 0.2 there, 0.3 here``."""
    new_values = dict(fields(new))
    return [
        f"{name} {value!r} there, {new_values[name]!r} here" for name, value in fields(old) if value != new_values[name]
    ]
