"""Configurations and metrics as JSON and TOML: strict reading, canonical fingerprints, whole files."""

import dataclasses
import hashlib
import json
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from dsrm_jax.config import Config, to_dict
from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.training.ranges import ANY, RANGES

C = TypeVar("C")

# 2: the denoiser is told the time of the continuous process; 3: what the log showed is read; 4: its events correlate, and an
# environment counts those that the training log did not choose
FINGERPRINT_FORMAT = 4

# What a run may change when it is resumed: how long, how it is shown and kept, where the same files lie.
FREE_FIELDS = frozenset(
    {
        "data.cache",
        "data.path",
        "training.steps",
        "training.checkpoint_minutes",
        "training.keep_checkpoints",
        "training.tensorboard",
    }
)
FREE_SECTIONS = frozenset({"evaluation"})

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def load_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file of overrides.

    Args:
        path: the file; UTF-8, tables named as the sections of `Config`.

    Returns:
        Nested dictionaries, ready for `merge`.

    Raises:
        InputError: the file is missing, unreadable or not TOML; names the line.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def load_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        path: the file, UTF-8.

    Returns:
        The object; the strings that `json_value` writes for NaN and infinities come back as strings.

    Raises:
        InputError: the file is missing, unreadable, not JSON or not an object; names the line.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged: line {error.lineno} is not valid JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged: byte {error.start} is not UTF-8 text") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is damaged: expected one JSON object, found {_kind(document)}")
    return document


def merge(config: C, overrides: Mapping[str, Any], where: str) -> C:
    """Return a configuration with some fields replaced, checking every name and type.

    Args:
        config: `Config` or any tree of frozen dataclasses.
        overrides: nested mapping of field names to plain values, as TOML or JSON give them. An int is
            accepted for a float and a list for a tuple; a bool is never a number.
        where: what to call the source in errors, such as a file name.

    Returns:
        A new configuration of the same type. Ranges are not checked here; `validate` does.

    Raises:
        InputError: an unknown name (with the nearest valid one), a wrong type or choice; names `where` and
            the dotted field.
    """
    return _merge(config, overrides, where, "")


def _merge(config: Any, overrides: Any, where: str, prefix: str) -> Any:
    if not isinstance(overrides, Mapping):
        raise InputError(
            f"{where}: {prefix.rstrip('.') or 'the whole'} is {_kind(overrides)}, expected a table of fields"
        )
    hints = get_type_hints(type(config))
    names = [f.name for f in dataclasses.fields(config)]
    changes = {}
    for name, value in overrides.items():
        if name not in names:
            near = [d for d, _ in fields(config) if "." in d and d.rsplit(".", 1)[-1] == name]
            raise unknown_name(f"field in {where}", f"{prefix}{name}", [f"{prefix}{n}" for n in names + near])
        current = getattr(config, name)
        if dataclasses.is_dataclass(current):
            changes[name] = _merge(current, value, where, f"{prefix}{name}.")
        else:
            changes[name] = _coerce(value, hints[name], where, f"{prefix}{name}")
    return dataclasses.replace(config, **changes)


def _coerce(value: Any, hint: Any, where: str, name: str) -> Any:
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
    raise InputError(f"{where}: {name} is {value!r}, {_kind(value)}, expected {_expected(hint)}")


def _kind(value: Any) -> str:
    names = {bool: "a truth value", int: "a whole number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}" if value is not None else "null")


def _expected(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list, each {_expected(get_args(hint)[0])}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
    return names.get(hint, str(hint))


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `(dotted name, value)` of every field that is not itself a configuration, in order."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", value


def validate(config: Config, where: str = "configuration") -> None:
    """Check the type of every field and the range of every number.

    Args:
        config: the configuration; every field a plain Python value, not an array.
        where: what to call its source in errors.

    Raises:
        InputError: one sentence with the dotted field, its value and the expected range.
    """
    merge(config, to_dict(config), where)
    for name, value in fields(config):
        values = value if isinstance(value, tuple) else (value,)
        if isinstance(value, tuple) and not value:
            raise InputError(f"{where}: {name} is empty, expected at least one value")
        if len(set(values)) < len(values):
            raise InputError(f"{where}: {name} is {list(values)}, expected values that differ")
        for number in values:
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                expected = RANGES.get(name, ANY)
                if not expected.holds(number):
                    raise InputError(f"{where}: {name} is {number}, expected {expected}")


def to_json(config: Any) -> dict[str, Any]:
    """Return a configuration as nested dictionaries of JSON values (tuples as lists).

    Raises:
        InputError: a field is not a plain finite value; names it.
    """
    for name, value in fields(config):
        for v in value if isinstance(value, tuple) else (value,):
            if not isinstance(v, (bool, int, float, str)) or (isinstance(v, float) and not math.isfinite(v)):
                raise InputError(f"configuration: {name} is {v!r}, expected a plain finite value")
    return json.loads(json.dumps(to_dict(config)))


def from_json(document: Mapping[str, Any], where: str) -> Config:
    """Return the configuration of nested dictionaries; absent fields keep their defaults.

    Args:
        document: what `to_json` or `load_toml` returned.
        where: what to call the source in errors.

    Raises:
        InputError: as `merge`.
    """
    return merge(Config(), document, where)


def config_fingerprint(config: Config, *, data: str = "") -> str:
    """Return a digest of what decides a checkpoint's meaning.

    Two configurations share it exactly when a state saved under one continues under the other. Free to
    differ are the evaluation, the number of steps, checkpointing and display, and the folder of a named data
    set's files.

    Args:
        config: a validated configuration.
        data: identity of the data that was loaded (its source and a checksum), where the caller knows it.

    Returns:
        64 hexadecimal digits, SHA-256 of canonical JSON.
    """
    free = FREE_FIELDS - ({"data.path"} if config.data.env == "log" else set())
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
        f"{name} {value!r} there, {new_values[name]!r} here"
        for name, value in fields(old)
        if value != new_values[name]
    ]


def canonical(document: Any) -> str:
    """Return the one JSON text of a document: sorted keys, no blanks, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(document: Any) -> str:
    """Return the SHA-256 of a document's canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def json_value(value: Any) -> Any:
    """Return scalars, arrays and nested containers as JSON values.

    A float32 becomes its shortest decimal form, which reads back to the same float32. NaN and infinities
    become the strings ``NaN``, ``Infinity`` and ``-Infinity``: the text stays valid JSON and nothing is lost.

    Args:
        value: None, bool, number, string, NumPy or JAX array, path, or a mapping or sequence of those.

    Raises:
        TypeError: anything else.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and not isinstance(value, np.floating):
        return value if math.isfinite(value) else _name_non_finite(value)
    if isinstance(value, Mapping):
        return {str(name): json_value(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not hasattr(value, "dtype"):
        raise TypeError(f"{type(value).__name__} has no JSON form")
    array = np.asarray(value)
    if array.ndim:
        return [json_value(row) for row in array]
    if array.dtype.kind in "biu":
        return array.item()
    number = float(str(array[()])) if array.dtype == np.float32 else float(array)
    return number if math.isfinite(number) else _name_non_finite(number)


def _name_non_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def from_json_value(value: Any) -> Any:
    """Return a JSON value with the strings for NaN and infinities turned back into floats."""
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, list):
        return [from_json_value(v) for v in value]
    if isinstance(value, dict):
        return {name: from_json_value(v) for name, v in value.items()}
    return value


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that, whatever happens, either the old or the whole new content is there.

    Args:
        path: the file; its folder must exist.
        content: flushed to the disk, then renamed into place.

    Raises:
        InputError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; what was there is untouched: "
            "free some space or choose another file"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Flush a folder's list of names to the disk, so that a rename inside it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
