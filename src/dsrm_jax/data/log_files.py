"""Files on disk: those that a path means, of what kind each is by its first bytes, and compressed ones made plain for a while."""

import bz2
import glob
import gzip
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from dsrm_jax.errors import InputError

ENDINGS = (".csv", ".tsv", ".tab", ".txt", ".parquet", ".pq")
PACKED_ENDINGS = (".gz", ".zst", ".bz2", ".xz")
OPENERS: dict[bytes, Callable[..., Any]] = {  # each overloaded in its own way
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
ZSTANDARD = b"\x28\xb5\x2f\xfd"
PARQUET = b"PAR1"
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """Return the files that a path means, sorted: the file itself, a folder's tables at any depth, or a pattern's matches.

    A folder's tables are its CSV and Parquet files, compressed or not; names that begin with ``.`` or ``_`` are left out.

    Raises:
        InputError: there is no such file or folder, nothing matches, or a folder holds no table.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    pattern = not path.exists() and glob.has_magic(str(path))
    found = map(Path, glob.glob(str(path), recursive=True)) if pattern else path.rglob("*")
    files = sorted(
        file
        for file in found
        if file.is_file()
        and (pattern or (is_table(file) and not any(part[0] in "._" for part in file.relative_to(path).parts)))
    )
    if not files:
        what = "no file matches this pattern" if pattern else "file not found: the folder holds no CSV or Parquet file"
        if not pattern and not path.exists():
            what = "file not found: there is no such file or folder for data set 'log'"
        raise InputError(f"{path}: {what}; expected a CSV or Parquet file, a folder of them or a pattern in data.path")
    return files


def is_table(path: Path) -> bool:
    """Return whether a file's name ends as that of a table does, in letters of any case."""
    name = path.name.lower()
    for packed in PACKED_ENDINGS:
        name = name.removesuffix(packed)
    return name.endswith(ENDINGS)


def root_of(path: Path) -> Path:
    """Return the folder below which ``key=value`` folders are columns: the path itself, or a pattern's part without wildcards."""
    if path.is_file():
        return path.parent
    while glob.has_magic(str(path)) and not path.exists():
        path = path.parent
    return path


def partition_of(file: Path, root: Path) -> dict[str, str | None]:
    """Return the columns that the names of the folders between give a file (``country=CH``), as Hive writes them."""
    pairs = [part.split("=", 1) for part in file.relative_to(root).parts[:-1] if "=" in part]
    return {unquote(name): None if value == NO_VALUE else unquote(value) for name, value in pairs}


def is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet, by its first bytes or the name that promises it."""
    return first_bytes(path) == PARQUET or path.suffix.lower() in (".parquet", ".pq")


def first_bytes(path: Path) -> bytes:
    """Return the first four bytes of a file; `InputError` where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(4)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


@contextmanager
def plain(path: Path, *, head: bool = False) -> Iterator[Path]:
    """Give the path of a file's plain bytes: itself, or of a compressed one (gzip, Zstandard, bzip2, xz) a temporary file.

    Where the `head` is enough, of a compressed file no more than its first megabyte may be unpacked.

    Raises:
        InputError: the compressed file is damaged.
    """
    start = first_bytes(path)
    opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic[:4])), None)
    if opener is None and start != ZSTANDARD:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="dsrm-jax-") as folder:
        whole = Path(folder, "plain")
        try:
            if opener is None:
                _unpack_zstandard(path, whole)
            else:
                with opener(path, "rb") as packed, whole.open("wb") as stream:
                    start = packed.read(1 << 20)
                    stream.write(start)
                    if not head or start.startswith(PARQUET):
                        shutil.copyfileobj(packed, stream, 1 << 20)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise InputError(f"{path}: the compressed file is damaged ({error}); fetch it again") from error
        yield whole


def _unpack_zstandard(path: Path, whole: Path) -> None:
    """Let Polars unpack, which needs no further package: every line is one field that is never parsed."""
    import polars as pl

    encodings: tuple[Literal["utf8"], Literal["utf8-lossy"]] = ("utf8", "utf8-lossy")
    for encoding in encodings:
        lines = pl.scan_csv(
            path,
            has_header=False,
            new_columns=["line"],
            separator="\0",
            quote_char=None,
            infer_schema=False,
            encoding=encoding,
        )
        try:
            lines.sink_csv(whole, include_header=False, quote_style="never", separator="\0")
        except pl.exceptions.PolarsError as error:
            failure = error
            continue
        if encoding != "utf8":  # bytes that are not UTF-8 stay such
            whole.write_bytes(whole.read_bytes().replace("\ufffd".encode(), b"\xff"))
        return
    raise OSError(str(failure).splitlines()[0]) from failure
