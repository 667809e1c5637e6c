"""JSON, TOML and whole files: strict reading, one canonical text of a document, writing that is whole or not at all."""

import contextlib
import hashlib
import json
import math
import os
import re
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsrm_jax.errors import InputError
from dsrm_jax.types import Json

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def load_toml(path: str | os.PathLike[str]) -> Json:
    """Read a TOML file, such as one of overrides ready for `merge`.

    Raises:
        InputError: the file is missing, unreadable, not UTF-8 or not TOML; names the line.
    """
    try:
        return tomllib.loads(_read(path, "is not UTF-8 text ({where}): save it as UTF-8"))
    except (ValueError, RecursionError) as error:  # thousands of digits are the former, deep nesting the latter
        raise InputError(f"{path} is not valid TOML: {error}") from error


def load_json(path: str | os.PathLike[str]) -> Json:
    """Read a JSON file that holds one object; the strings that `json_value` writes for NaN and infinities stay strings.

    Raises:
        InputError: the file is missing, unreadable, not UTF-8, not JSON (which has no NaN and no infinity) or not an object;
            names the line.
    """
    return read_json_object(_read(path, "is damaged: {where} is not UTF-8 text"), path)


def read_json_object(text: str, path: str | os.PathLike[str]) -> Json:
    """Return the object that a text of a file holds; raises as `load_json` does of the text."""
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged: line {error.lineno} is not valid JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is damaged: expected one JSON object, found {kind_of(document)}")
    return document


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(document: Json) -> Json:
    """Return a document with the digest of all else in it under ``sha256``, last: `load_sealed` then sees any change."""
    return document | {"sha256": digest(document)}


def load_sealed(path: str | os.PathLike[str]) -> Json:
    """Read a JSON file of `sealed`, without its digest; one from before there were digests is read as it is.

    Raises:
        InputError: as `load_json`, or the file was changed since it was written.
    """
    return unseal(load_json(path), path)


def unseal(document: Json, path: str | os.PathLike[str], *, required: bool = False) -> Json:
    """Return what `sealed` was given; raises as `load_sealed`, where `required` for a document without a digest, too."""
    found = document.pop("sha256", None)
    last = list(document.values())[-1:]  # where a digest stands, whatever it is called
    bare = found is None and not required and not (last and re.fullmatch(r"[0-9a-f]{64}", str(last[0])))
    try:
        intact = bare or found == digest(document)
    except ValueError:  # 1e999 is an infinity, which has no digest
        intact = False
    if not intact:
        raise InputError(
            f"{path} was changed since it was written (its SHA-256 says so), and is not used: put it back as it was, or delete "
            "it and run the command that wrote it again"
        )
    return document


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of an `.npz` file by name; every byte of them is checked by its CRC, which `numpy.load` does not see to.

    A header that says less than there is would be believed: NumPy stops reading there, before the end where zip checks.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error: it cannot be read, or is damaged.
    """
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as stream:
                found[name.removesuffix(".npy")] = np.lib.format.read_array(stream, allow_pickle=False)
                if stream.read(1):
                    raise ValueError(f"{name} is longer than it says")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON has no number {name}")


def _read(path: str | os.PathLike[str], undecodable: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # some editors begin with a byte order mark
    except UnicodeDecodeError as error:
        raise InputError(f"{path} {undecodable.format(where=f'byte {error.start}')}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def canonical(document: object) -> str:
    """Return the one JSON text of a document: sorted keys, no blanks, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(document: object) -> str:
    """Return the SHA-256 of a document's canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def json_value(value: object) -> Any:
    """Return scalars, arrays and nested containers as JSON values.

    A float32 becomes its shortest decimal form, which reads back to the same float32. NaN and infinities become the strings
    ``NaN``, ``Infinity`` and ``-Infinity``: the text stays valid JSON and nothing is lost. What is not None, a bool, number,
    string, NumPy or JAX array, path, or a mapping or sequence of those, is a `TypeError`.
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


def from_json_value(value: object) -> Any:
    """Return a JSON value with the strings for NaN and infinities turned back into floats."""
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, list):
        return [from_json_value(v) for v in value]
    if isinstance(value, dict):
        return {name: from_json_value(v) for name, v in value.items()}
    return value


def or_null(value: object) -> Any:
    """Return what `json_value` gave with None for NaN and infinities: for readers who are not this program."""
    if isinstance(value, list):
        return [or_null(v) for v in value]
    if isinstance(value, dict):
        return {name: or_null(v) for name, v in value.items()}
    return None if isinstance(value, str) and value in _NON_FINITE else value


def _name_non_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that, whatever happens, either the old or the whole new content is there; its folder must exist.

    A link stays, and what it points to is written; what is no plain file, such as a pipe or a device, is written to as it is.

    Raises:
        InputError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    path = temporary = Path(path)
    try:
        path = Path(os.path.realpath(path))
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        clear_orphans(path.parent, path.name)
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
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def clear_orphans(folder: str | os.PathLike[str], name: str = "") -> None:
    """Remove what killed writes left in a folder, of one file or of all: `.NAME.PID.tmp` of processes that are no more.

    Processes of other machines are not seen: a lock must keep them apart, as `runs.lock` does. Off POSIX nothing is removed.
    """
    if os.name != "posix":  # there, signal 0 would end the process
        return
    for path in Path(folder).glob(".*.tmp"):
        found = re.fullmatch(r"\.(.+)\.([1-9]\d*)\.tmp", path.name)
        if found is None or found[1] != (name or found[1]):
            continue
        with contextlib.suppress(OSError, OverflowError):  # no process has such a number, or it is another user's
            try:
                os.kill(int(found[2]), 0)
            except ProcessLookupError:
                path.unlink()


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Flush a folder's list of names to the disk, so that a rename inside it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def kind_of(value: object) -> str:
    """Return what a value is, in words for an error."""
    names = {bool: "a truth value", int: "a whole number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}" if value is not None else "null")
