"""The file of an exported policy, read as if a stranger had sent it.

It is a zip of four members: `meta.json`, `program.bin` (a StableHLO program of `jax.export`) and two arrays. The meta say the
SHA-256 of the others and of themselves, so that a file that was damaged is never used; who wrote it they do not say: compare the
file's own SHA-256, which `dsrm-jax export` prints, with `load_policy(path, sha256=...)`.

Nothing in it is code for Python: no pickle, no callbacks. The program may call nothing outside itself but JAX's own numeric
kernels (a callback's target holds an address in memory, and to follow one would be to obey its author), may not wait for other
devices, and its arrays and the file's members are bounded. What a hostile file can still do: recommend what its author likes;
take memory up to the bounds and, in a loop without end, `MOST_SECONDS` of loading, and a core for as long as the process lives;
reach faults of MLIR's parser and XLA's compiler, which are no sandbox. Load files of strangers in a process of their own.
"""

import hashlib
import io
import json
import math
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax import export as jax_export
from jaxtyping import Int

from dsrm_jax.errors import InputError, first_line
from dsrm_jax.files import read_json_object, sealed, unseal, write_bytes
from dsrm_jax.types import Json

FORMAT = 4
META, PROGRAM, ITEMS, CATALOGUE = "meta.json", "program.bin", "items.npy", "catalogue.npy"
MEMBERS = {META: 1 << 24, PROGRAM: 1 << 31, ITEMS: 1 << 31, CATALOGUE: 1 << 29}  # bytes unpacked, at most
LARGEST_TENSOR = 1 << 33  # bytes of one array of the program, for the batches that it is called with
LONGEST_HISTORY = 1 << 20  # events
MOST_SECONDS = 600.0  # to compile a program and call it once
CALLS = re.compile(  # what a program may call: checks of its own shapes, and kernels of JAX that take numbers alone
    r"shape_assertion|Sharding|Eigh|Qr|LuDecomposition|ProductOfElementaryHouseholderReflectors|ApproxTopK"
    r"|(lapack|cusolver|hipsolver)_\w+_ffi|(cu|hip)_(threefry2x32_ffi|lu_pivots_to_permutation)|stablehlo\.dynamic_\w+"
)
WAITS = re.compile(
    r"stablehlo\.(infeed|outfeed|send|recv|all_\w+|collective_\w+|reduce_scatter|partition_id|replica_id)\b"
)
TENSOR = re.compile(r"tensor<((?:[\d?]+x)*)(?:complex<)?([a-z]+)(\d*)")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Artifact:
    """What a file holds, checked."""

    meta: Json
    program: jax_export.Exported
    item_ids: np.ndarray  # `(I,)` raw item ids, sorted
    catalogue: Int[np.ndarray, "J"]  # indices into them


def write_artifact(
    path: str | os.PathLike[str], program: bytes | bytearray, meta: Json, item_ids: np.ndarray, catalogue: np.ndarray
) -> None:
    """Write a file, whole or not at all; an `InputError` where it cannot be written."""
    members = {PROGRAM: bytes(program), ITEMS: _npy(item_ids), CATALOGUE: _npy(catalogue)}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    text = json.dumps(sealed({**meta, "format": FORMAT, "members": digests}), indent=1)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in {META: text.encode(), **members}.items():
            archive.writestr(name, member)
    write_bytes(path, content.getvalue())


def _asked_for(file: io.BufferedReader, sha256: str, path: Path) -> io.BufferedReader:
    """Return an open file whose SHA-256 is what was asked for, at its start; raises `InputError` where it is not."""
    if sha256 and hashlib.file_digest(file, "sha256").hexdigest() != sha256.lower():
        raise InputError(f"{path} is another file than was asked for: its SHA-256 is not {sha256:.64}")
    file.seek(0)
    return file


def read_artifact(path: str | os.PathLike[str], *, sha256: str = "") -> Artifact:
    """Read and check a file; `sha256`, where it is given, is that of the whole file.

    Raises:
        InputError: it is missing, damaged, another file than `sha256` says, of another format, or holds what no export writes.
    """
    path = Path(path)
    try:
        # opened once: another file may take its name meanwhile
        with open(path, "rb") as file, zipfile.ZipFile(_asked_for(file, sha256, path)) as archive:
            meta = _meta(path, _member(archive, META))
            contents = {name: _member(archive, name) for name in (PROGRAM, ITEMS, CATALOGUE)}
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        if meta["members"] != digests:
            raise ValueError("a member has another SHA-256 than when it was written")
        item_ids, catalogue = _array(contents[ITEMS]), _array(contents[CATALOGUE])
        _check_items(item_ids, catalogue, meta)
        program = jax_export.deserialize(bytearray(contents[PROGRAM]))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except InputError:
        raise
    except Exception as error:  # zip, NumPy, flatbuffers and MLIR raise whatever they meet
        raise InputError(f"{path} is no exported policy, or damaged ({first_line(error)}): export it again") from error
    return Artifact(meta, program, item_ids, catalogue)


def check_program(
    path: str | os.PathLike[str], artifact: Artifact, shapes: tuple[jax.ShapeDtypeStruct, ...], *, batch: int
) -> None:
    """Refuse a program that is no recommender of these arguments, or could do what one need not.

    `shapes` are those of `batch` users' arguments.

    Raises:
        InputError: says what it would do.
    """
    try:
        problem = _problem(artifact, shapes, batch)
    except Exception as error:  # MLIR's parser raises whatever it meets
        raise InputError(
            f"{path} holds a program that cannot be read ({first_line(error)}): export it again"
        ) from error
    if problem:
        raise InputError(
            f"{path} holds a program that {problem}: it is not loaded; export the policy again from its run"
        )


def _problem(artifact: Artifact, shapes: tuple[jax.ShapeDtypeStruct, ...], batch: int) -> str:
    """Return what a program would do that it need not; an empty text where there is nothing."""
    program, slate = artifact.program, artifact.meta["slate_size"]
    found = [(x.dtype, tuple(map(str, x.shape[1:]))) for x in (*program.in_avals, *program.out_avals)]
    answers = ((np.dtype(np.int32), (slate,)), (np.dtype(np.float32), (slate,)))
    wanted = [(np.dtype(x.dtype), tuple(map(str, x.shape[1:]))) for x in shapes]
    wanted += [(dtype, tuple(map(str, shape))) for dtype, shape in answers]
    text = program.mlir_module()
    called = re.findall(r'custom_call(?:"?\(| @"?([\w.$-]+))?', text)
    sizes = [
        math.prod(batch if dim == "?" else int(dim) for dim in dims.split("x")[:-1]) * max(1, int(bits or 8) // 8)
        for dims, _, bits in TENSOR.findall(text)
    ]
    effects = [*program.ordered_effects, *program.unordered_effects]
    problems = {
        "takes or gives other arrays than its meta say": found != wanted,
        "calls what is outside it": not all(map(CALLS.fullmatch, called)) or bool(effects),
        "waits for other devices": WAITS.search(text) is not None or program.nr_devices != 1,
        "switches checks off": bool(program.disabled_safety_checks),
        f"holds arrays of more than {LARGEST_TENSOR >> 30} GiB": max(sizes, default=0) > LARGEST_TENSOR,
    }
    return next((text for text, there in problems.items() if there), "")


def _meta(path: Path, content: bytes) -> Json:
    document = read_json_object(content.decode(), str(path))
    if document.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {document.get('format')!r:.40}, this version reads {FORMAT}: export it again"
        )
    meta = unseal(document, str(path), required=True)
    history, slate, platforms = (meta.get(name) for name in ("history_length", "slate_size", "platforms"))
    if type(history) is not int or not 1 <= history <= LONGEST_HISTORY or type(slate) is not int or slate < 1:
        raise ValueError(f"history_length {history!r:.40} or slate_size {slate!r:.40} is none")
    if not isinstance(platforms, list) or not platforms or not all(isinstance(name, str) for name in platforms):
        raise ValueError("it names no platforms")
    return meta


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read one member whole, or no more than it may be."""
    found = [info for info in archive.infolist() if info.filename == name]
    if len(found) != 1:
        raise ValueError(f"{len(found)} members are called {name}")
    with archive.open(found[0]) as file:
        content = file.read(MEMBERS[name] + 1)
    if len(content) > MEMBERS[name]:
        raise ValueError(f"{name} unpacks to more than {MEMBERS[name] >> 20:,} MiB")
    return content


def _npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return content.getvalue()


def _array(content: bytes) -> np.ndarray:
    """Return an array of one axis; what its header says is compared with what is there, and never allocated."""
    stream = io.BytesIO(content)
    shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    if dtype.hasobject or len(shape) != 1 or dtype.kind not in "biufSU" or shape[0] < 1:
        raise ValueError(f"an array is of {dtype} and shape {shape}")
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape)


def _check_items(item_ids: np.ndarray, catalogue: np.ndarray, meta: Json) -> None:
    if catalogue.dtype != np.int32 or catalogue.min() < 0 or catalogue.max() >= len(item_ids):
        raise ValueError("the catalogue names items that it does not have")
    if len(np.unique(catalogue)) < len(catalogue) or meta["slate_size"] > len(catalogue):
        raise ValueError("the catalogue names an item twice, or fewer than a slate")
    if not np.all(item_ids[1:] > item_ids[:-1]):
        raise ValueError("the item ids are not in order")
