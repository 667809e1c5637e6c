"""A parsed log on disk as plain columns: uncompressed `.npz`, checked by CRC on each read, no pickle."""

import contextlib
import glob
import hashlib
import json
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from dsrm_jax.data.log import InteractionLog, Interactions, ObservedMatrix
from dsrm_jax.files import digest, read_arrays
from dsrm_jax.types import Json

FORMAT = 2
A_DAY = 86_400.0  # seconds; a write that was silent for so long was killed
META = "meta"
ROW_COLUMNS: dict[str, type] = {
    "user": np.int32,
    "item": np.int32,
    "click": np.bool_,
    "time": np.int64,
    "feedback": np.float32,
}


def fingerprint(files: Iterable[Path], settings: Mapping[str, object], code: Iterable[Path] = ()) -> str:
    """Name, by 64 hexadecimal digits, everything that a parsed log depends on.

    That is path, size and modification time of the source files, whose bytes are not read, settings (plain values) that change
    what is parsed, and the bytes of the parser's own files.
    """
    states = []
    for path in sorted(files):
        state = path.stat()
        states.append([str(path.resolve()), state.st_size, state.st_mtime_ns])
    parsers = [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in sorted(code)]
    return digest([FORMAT, states, dict(settings), parsers])


def through_cache(
    path: Path,
    files: Iterable[Path],
    settings: Mapping[str, object],
    parse: Callable[[], InteractionLog],
    *,
    code: Iterable[Path] = (),
) -> InteractionLog:
    """Return the cached log where it is whole and current; else parse, and write the cache.

    A cache, an `.npz` file, that cannot be written (read-only or full disk) costs a warning, never the run. It is current where
    `fingerprint` of the files, settings and code is the one that it was written under; `parse` reads the sources.
    """
    key = fingerprint(files, settings, code)
    log = read_log(path, key)
    if log is None:
        log = parse()
        try:
            write_log(path, log, key)
        except OSError as error:
            warnings.warn(
                f"{path}: the cache cannot be written ({error}); set DSRM_CACHE to a folder that can, "
                "or the sources are parsed again next time",
                stacklevel=2,
            )
    return log


def write_log(path: Path, log: InteractionLog, key: str) -> None:
    """Write the columns of a log of real data under its fingerprint, whole or not at all, into a folder that is made.

    Raises:
        ValueError: the log is synthetic, whose truth cannot be stored, or a column is of Python objects.
        OSError: the file cannot be written.
    """
    if log.synthetic is not None:
        raise ValueError("a synthetic world is generated again from its seed, never cached")
    arrays = _columns(log)
    meta: Json = {"format": FORMAT, "key": key, "name": log.name, "source": log.source, "notes": log.notes}
    meta["columns"] = sorted(arrays)
    arrays[META] = np.array(json.dumps(meta))
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > A_DAY:
                left.unlink()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_log(path: Path, key: str) -> InteractionLog | None:
    """Return a file's log; None where there is no file, or, with a warning, where it is damaged or its fingerprint is another."""
    if not path.exists():
        return None
    try:
        arrays = read_arrays(path)
        meta = json.loads(str(arrays[META]))
        if meta["format"] == FORMAT and meta["key"] == key:
            return _log(meta, {name: arrays[name] for name in meta["columns"]})
    except Exception as error:  # a damaged file can raise anything, and none of it should stop the run
        warnings.warn(f"{path}: the cache is damaged ({error}); it is rebuilt", stacklevel=2)
        return None
    warnings.warn(f"{path}: the sources or the parser have changed; the cache is rebuilt", stacklevel=2)
    return None


def _columns(log: InteractionLog) -> dict[str, np.ndarray]:
    arrays = {
        "user_ids": _plain(log.user_ids),
        "item_ids": _plain(log.item_ids),
        "catalogue": log.catalogue,
        "categories": log.categories,
        "category_names": np.array(log.category_names, dtype=np.str_),
    }
    for split in ("train", "test"):
        rows, matrix = getattr(log, split), getattr(log, f"{split}_matrix")
        for column, kind in ROW_COLUMNS.items():
            arrays[f"{split}/{column}"] = getattr(rows, column).astype(kind, copy=False)
        if matrix is not None:
            arrays |= {f"{split}_matrix/user": matrix.user, f"{split}_matrix/value": matrix.value}
    for side in ("user_features", "item_features"):
        arrays |= {f"{side}/{name}": codes for name, codes in getattr(log, side).items()}
    for key, values in arrays.items():
        if values.dtype.hasobject:
            raise ValueError(f"column {key} holds Python objects; only numbers, booleans and text can be cached")
    return arrays


def _log(meta: Json, arrays: dict[str, np.ndarray]) -> InteractionLog:
    def under(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}

    def rows(split: str) -> Interactions:
        columns = {column: arrays[f"{split}/{column}"] for column in ROW_COLUMNS}
        if len({len(column) for column in columns.values()}) != 1:
            raise ValueError(f"columns of {split} differ in length")
        return Interactions(**columns)

    return InteractionLog(
        name=meta["name"],
        source=meta["source"],
        notes=tuple(meta["notes"]),
        train=rows("train"),
        test=rows("test"),
        category_names=tuple(arrays["category_names"].tolist()),
        user_features=under("user_features/"),
        item_features=under("item_features/"),
        train_matrix=ObservedMatrix(**found) if (found := under("train_matrix/")) else None,
        test_matrix=ObservedMatrix(**found) if (found := under("test_matrix/")) else None,
        **{name: arrays[name] for name in ("user_ids", "item_ids", "catalogue", "categories")},
    )


def _plain(ids: np.ndarray) -> np.ndarray:
    return ids.astype(np.str_) if ids.dtype.kind in "OT" else ids
