"""Checkpoints that restore the same bits or say why not.

Orbax reads and writes the arrays; this file adds what it does not do: a manifest of checksums in every step's folder, one atomic
rename that makes a step exist, and a walk back to the newest good step. A step's folder holds

    step_00001234/manifest.json   checksums of every leaf and file, key paths, versions, fingerprint; its own checksum
    step_00001234/arrays/         an Orbax checkpoint of {"00000": leaf, "00001": leaf, ...}

A folder without a valid manifest does not exist as a step.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dsrm_jax.errors import InputError, first_line
from dsrm_jax.files import digest, sha256_of, sync_folder, write_text
from dsrm_jax.parallel.processes import load_arrays, save_arrays
from dsrm_jax.runs.logging import undisturbed
from dsrm_jax.types import Json, PyTree

State = TypeVar("State")

FORMAT = 1
MANIFEST = "manifest.json"

_ARRAYS = "arrays"
_STEP = re.compile(r"step_(\d{8,})")
_UNFINISHED = ".saving-"
_REMOVED = ".removed-"

_log = logging.getLogger("dsrm_jax")


class DamagedError(Exception):
    """A step's folder cannot be used; the message says what is wrong with it."""


class Leaf(NamedTuple):
    """One array of a state as it lies on the disk."""

    path: str  # where it stands in the tree, such as ``.params['dense']['kernel']``
    dtype: str  # in memory, such as ``float32`` or, for typed PRNG keys, ``key<fry>``
    shape: list[int]  # in memory
    key: str  # the PRNG's name for typed keys, else an empty string
    stored_dtype: str  # uint32 for keys
    stored_shape: list[int]  # keys have one more axis
    sha256: str  # of the stored array's bytes in C order


def save(folder: str | os.PathLike[str], step: int, state: PyTree, fingerprint: str, *, keep: int = 3) -> None:
    """Write one step; when this returns, the step is on the disk and has been read back.

    Args:
        folder: the checkpoints' folder; made where absent. One process at a time may save into it.
        step: non-negative count that names the step; a step of that number is replaced.
        state: pytree of whole arrays (any dtype, typed PRNG keys too; `sharding.fetch`), or Python scalars.
        fingerprint: what `config_fingerprint` said of the run; `restore` demands the same.
        keep: steps kept, at least 1; older ones are removed once the new one is safe.

    Raises:
        InputError: it cannot be written (disk full, no permission); every earlier step is untouched.
        TypeError: a leaf is not numeric.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step is {step} and keep is {keep}, expected at least 0 and 1")
    folder = _nameable(folder)
    stored, leaves = _encode(state)
    temporary = folder / f"{_UNFINISHED}{_name(step)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        _clean(folder)
        if not _is_saved(folder / _name(step), step, leaves, fingerprint):
            with undisturbed():
                temporary.mkdir()
                _write_arrays(temporary / _ARRAYS, stored)
                _write_manifest(temporary, step, leaves, fingerprint)
                _read_arrays(temporary, _read_manifest(temporary, step))
                _commit(temporary, folder / _name(step))
    except Exception as error:  # Orbax and TensorStore raise bare Exceptions
        shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(
            f"cannot save step {step} in {folder}: {first_line(error)}; "
            "check the disk's free space and permissions (earlier checkpoints are untouched)"
        ) from error
    _retain(folder, step, keep)


def restore(folder: str | os.PathLike[str], like: State, fingerprint: str) -> tuple[int, State] | None:
    """Return the newest good step, bit for bit as it was saved.

    A damaged step is reported as a warning of the logger ``dsrm_jax`` and the one before it is tried.

    Args:
        folder: the checkpoints' folder; it is only read.
        like: pytree of the saved structure, of arrays or `jax.ShapeDtypeStruct`s: gives containers, dtypes, shapes and placement.
            NumPy leaves come back as NumPy, Python scalars as Python scalars, all others as JAX arrays.
        fingerprint: of the configuration that wants to continue.

    Returns:
        `(step, state)`, or None where nothing was ever saved.

    Raises:
        InputError: the checkpoint belongs to another configuration or program; or there are steps and all are damaged.
    """
    folder = _nameable(folder)
    found = _folders(folder)
    problems = []
    for step in sorted(found, reverse=True):
        try:
            manifest = _read_manifest(found[step], step)
            leaves = _check_meaning(found[step], manifest, like, fingerprint)
            stored = _read_arrays(found[step], manifest)
        except DamagedError as error:
            if not found[step].exists():  # the process that trains has saved others and removed it
                continue
            problems.append(f"{found[step].name}: {error}")
            _log.warning("checkpoint %s is damaged (%s); trying the one before it", found[step], error)
            continue
        if problems:
            _log.warning("continuing from step %d, the newest good checkpoint in %s", step, folder)
        return step, _decode(like, leaves, stored)
    if set(_folders(folder)) - set(found):  # saved meanwhile
        return restore(folder, like, fingerprint)
    if problems:
        raise InputError(f"no checkpoint in {folder} is usable ({'; '.join(problems)}): start again in another folder")
    return None


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """Return the steps saved in a folder, ascending; a step without a valid manifest does not count."""
    good = []
    for step, path in sorted(_folders(Path(folder).absolute()).items()):
        with contextlib.suppress(DamagedError):
            _read_manifest(path, step)
            good.append(step)
    return good


def go_back(folder: str | os.PathLike[str], step: int) -> None:
    """Remove the steps beyond one, so that `restore` continues from it; nothing is removed where that one is not good.

    Raises:
        InputError: there is no such step, or it is damaged; names those that are there.
    """
    folder = _nameable(folder)
    found = _folders(folder)
    try:
        if step not in found:
            raise DamagedError("it is not there")
        _read_arrays(found[step], _read_manifest(found[step], step))
    except DamagedError as error:
        raise InputError(
            f"cannot go back to step {step} of {folder} ({error}): there are steps {steps(folder)}"
        ) from error
    for beyond in (path for other, path in found.items() if other > step):
        shutil.rmtree(_set_aside(beyond))


def _nameable(folder: str | os.PathLike[str]) -> Path:
    """Return a folder's whole path; raises `InputError` where it has no name that the array library could be told."""
    path = Path(folder).absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise InputError(
            f"the path {shown} holds characters that this locale does not know, and checkpoints cannot be read or written there: "
            "set LC_ALL=C.UTF-8 (or PYTHONUTF8=1), or choose another folder"
        ) from error
    return path


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _folders(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    try:
        matches = [(path, _STEP.fullmatch(path.name)) for path in folder.iterdir()]
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}") from error
    return {int(match[1]): path for path, match in matches if match and path.is_dir()}


def _is_saved(path: Path, step: int, leaves: list[Leaf], fingerprint: str) -> bool:
    """Return whether exactly this is there already; writing it again could only lose it."""
    try:
        manifest = _read_manifest(path, step)
        _read_arrays(path, manifest)
    except DamagedError:
        return False
    return manifest["fingerprint"] == fingerprint and manifest["leaves"] == [leaf._asdict() for leaf in leaves]


def _encode(state: PyTree) -> tuple[list[np.ndarray], list[Leaf]]:
    """Copy a state to the host and describe each leaf."""
    stored, leaves = [], []
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        dtype, shape = _type(leaf)
        is_key = dtype.startswith("key<")
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf, order="C")
        if array.dtype.hasobject or array.dtype.kind in "USMm":
            name = jax.tree_util.keystr(path)
            raise TypeError(f"leaf {name} is a {type(leaf).__name__}, expected an array of numbers")
        key = str(jax.random.key_impl(leaf)) if is_key else ""
        kept = str(array.dtype), list(array.shape), _sha256(array)
        stored.append(array)
        leaves.append(Leaf(jax.tree_util.keystr(path), dtype, list(shape), key, *kept))
    return stored, leaves


def _type(leaf: PyTree) -> tuple[str, tuple[int, ...]]:
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return str(leaf.dtype), tuple(leaf.shape)


def _decode(like: State, leaves: list[Leaf], stored: list[np.ndarray]) -> State:
    """Put verified arrays into the containers, types and placement of `like`."""
    targets, structure = jax.tree_util.tree_flatten(like)
    placed = [_place(*each) for each in zip(targets, leaves, stored, strict=True)]
    return jax.tree_util.tree_unflatten(structure, placed)


def _place(target: PyTree, leaf: Leaf, array: np.ndarray) -> PyTree:
    if isinstance(target, (np.ndarray, np.generic)):
        return array if isinstance(target, np.ndarray) else array[()]
    if not hasattr(target, "dtype"):
        return array.item()
    # A copy: the CPU backend may otherwise alias NumPy's memory, which donation would then refuse.
    value = jnp.array(array, copy=True)
    value = jax.random.wrap_key_data(value, impl=leaf.key) if leaf.key else value
    placed = getattr(target, "committed", getattr(target, "sharding", None) is not None)
    return jax.device_put(value, target.sharding) if placed else value


def _check_meaning(path: Path, manifest: Json, like: PyTree, fingerprint: str) -> list[Leaf]:
    """Refuse a healthy checkpoint that belongs to something else."""
    if manifest["fingerprint"] != fingerprint:
        raise InputError(
            f"checkpoint {path} belongs to another configuration (fingerprint {manifest['fingerprint'][:8]}, "
            f"this one is {fingerprint[:8]}) or was saved by another version of this program: resume with what it was saved "
            "under, or choose another output folder"
        )
    leaves = [Leaf(**leaf) for leaf in manifest["leaves"]]
    saved = {leaf.path: (leaf.dtype, tuple(leaf.shape)) for leaf in leaves}
    wanted = {jax.tree_util.keystr(p): _type(leaf) for p, leaf in jax.tree_util.tree_flatten_with_path(like)[0]}
    wrong = [name for name in [*wanted, *saved] if saved.get(name) != wanted.get(name)]
    if wrong or list(saved) != list(wanted):
        name = wrong[0] if wrong else next(iter(wanted))
        here, there = (" ".join(map(str, x[name])) if name in x else "nothing" for x in (wanted, saved))
        raise InputError(
            f"checkpoint {path} was saved by another version of this program or from other data: "
            f"it holds {there} at {name or 'the root'}, this run needs {here}; choose another output folder"
        )
    return leaves


def _write_arrays(path: Path, stored: list[np.ndarray]) -> None:
    if arrays := _named(stored):
        with _quiet():
            save_arrays(path, arrays)


def _read_arrays(path: Path, manifest: Json) -> list[np.ndarray]:
    """Read and verify every leaf; files first: TensorStore answers damage with noise or nothing."""
    for name, expected in manifest["files"].items():
        try:
            if sha256_of(path / name) != expected:
                raise DamagedError(f"{name} has another checksum than when it was saved")
        except OSError as error:
            raise DamagedError(f"{name} cannot be read: {error.strerror}") from error
    leaves = [Leaf(**leaf) for leaf in manifest["leaves"]]
    stored = [np.empty(leaf.stored_shape, np.dtype(leaf.stored_dtype)) for leaf in leaves]
    arrays = _named(stored)
    if arrays:
        try:
            with _quiet():
                arrays = load_arrays(path / _ARRAYS, arrays)
        except Exception as error:  # TensorStore raises bare Exceptions
            raise DamagedError(f"Orbax cannot read it: {first_line(error)}") from error
    stored = [np.asarray(arrays.get(f"{i:05d}", empty)) for i, empty in enumerate(stored)]
    for leaf, array in zip(leaves, stored, strict=True):
        same_type = (str(array.dtype), list(array.shape)) == (leaf.stored_dtype, leaf.stored_shape)
        if not same_type or _sha256(array) != leaf.sha256:
            raise DamagedError(f"the values of {leaf.path or 'the root'} differ from those saved")
    return stored


def _named(stored: list[np.ndarray]) -> Mapping[str, np.ndarray]:
    # Orbax refuses arrays without elements; the manifest alone describes those.
    return {f"{i:05d}": array for i, array in enumerate(stored) if array.size}


def _write_manifest(path: Path, step: int, leaves: list[Leaf], fingerprint: str) -> None:
    """Describe what lies in a folder, and flush all of it to the disk."""
    files = {str(p.relative_to(path)): sha256_of(p) for p in sorted(path.rglob("*")) if p.is_file()}
    for name in files:
        with open(path / name, "rb") as file:
            os.fsync(file.fileno())
    for inner in [p for p in path.rglob("*") if p.is_dir()]:
        sync_folder(inner)
    body = {
        "format": FORMAT,
        "step": step,
        "fingerprint": fingerprint,
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")},
        "leaves": [leaf._asdict() for leaf in leaves],
        "files": files,
    }
    write_text(path / MANIFEST, json.dumps({"sha256": digest(body), "body": body}, indent=1) + "\n")


def _read_manifest(path: Path, step: int) -> Json:
    try:
        document = json.loads((path / MANIFEST).read_bytes())
        body, intact = document["body"], digest(document["body"]) == document["sha256"]
    except FileNotFoundError as error:
        raise DamagedError(f"{MANIFEST} is missing") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedError(f"{MANIFEST} cannot be read: {first_line(error)}") from error
    if not intact:
        raise DamagedError(f"{MANIFEST} has another checksum than when it was saved")
    if body["format"] != FORMAT:
        raise DamagedError(f"its format is {body['format']}, this program reads format {FORMAT}")
    if body["step"] != step:
        raise DamagedError(f"{MANIFEST} is of step {body['step']}")
    return body


def _commit(temporary: Path, final: Path) -> None:
    """Make a finished folder exist under its name."""
    replaced = _set_aside(final) if final.exists() else None
    os.rename(temporary, final)
    sync_folder(final.parent)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)


def _set_aside(path: Path) -> Path:
    """Rename a step away, so that it is never seen half deleted; the next save deletes what a kill leaves."""
    aside = path.with_name(f"{_REMOVED}{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(path, aside)
    return aside


def _retain(folder: Path, step: int, keep: int) -> None:
    # Steps beyond the one just saved are damaged ones that a resumed run has yet to overwrite.
    kept = [s for s in steps(folder) if s <= step][-keep:]
    for old, path in _folders(folder).items():
        if old <= step and old not in kept:
            with contextlib.suppress(OSError):
                shutil.rmtree(_set_aside(path))


def _clean(folder: Path) -> None:
    """Delete what a killed process left."""
    for path in folder.iterdir():
        if path.name.startswith((_UNFINISHED, _REMOVED)):
            shutil.rmtree(path, ignore_errors=True)


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Orbax's informational logging for the length of one call."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
