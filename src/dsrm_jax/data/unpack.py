"""Unpack zip and tar archives that nobody vouches for: plain files only, never outside the folder, never more than it may be."""

import errno
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO

from dsrm_jax.errors import InputError

DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error),
    *(EOFError, RuntimeError, NotImplementedError, ValueError, OverflowError),
    *(FileExistsError, NotADirectoryError, IsADirectoryError),  # one member is another's folder
)
MOST_MEMBERS = 100_000
LONGEST_PART, LONGEST_NAME = 255, 1024  # bytes
TIMES = 25  # what an archive may unpack to, of its own size: tables of numbers come to a tenth, zeros to a thousandth
FREE = 64 << 20  # bytes that it may unpack to anyway
CHUNK = 1 << 20
Member = tuple[str, bool, bool, Callable[[], IO[bytes] | None]]


def extract(path: Path, root: Path) -> None:
    """Extract a zip or tar archive into an existing, empty folder, plain files only and never outside it.

    Raises:
        InputError: a member with an absolute path, a drive letter or a ``..`` part, a name too long or there twice, a link, a
            device, an archive that unpacks to more than `TIMES` its size, or that is damaged; nothing has then been written
            outside `root`.
        OSError: the disk refuses it.
    """
    left, names = path.stat().st_size * TIMES + FREE, set[str]()
    try:
        members = _zip_members if zipfile.is_zipfile(path) else _tar_members
        for name, is_plain, is_folder, open_member in members(path):
            # Windows rules see drives and backslashes as well as everything that POSIX rules see.
            strict = PureWindowsPath(name)
            if strict.anchor or ".." in strict.parts or "\0" in name:
                raise InputError(f"{path} has a member {name!r} that points outside the folder: refused as unsafe")
            if len(name.encode(errors="replace")) > LONGEST_NAME or any(
                len(part.encode(errors="replace")) > LONGEST_PART for part in strict.parts
            ):
                raise InputError(f"{path} has a member {name[:40]!r}... whose name is too long: refused")
            if len(names) == MOST_MEMBERS:
                raise InputError(f"{path} has more than {MOST_MEMBERS:,} members: refused")
            if is_folder:
                continue
            if name in names:
                raise InputError(f"{path} has two members {name!r}: refused, since only one could be meant")
            names.add(name)
            if not is_plain:
                raise InputError(f"{path} has a member {name!r} that is a link or a device: refused as unsafe")
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            source = open_member()
            assert source is not None, "a plain file can be opened"
            with source, target.open("wb") as file:
                while chunk := source.read(min(CHUNK, left + 1)):
                    left -= len(chunk)
                    if left < 0:
                        raise InputError(
                            f"{path} unpacks to more than {TIMES} times its size: refused, since no data set does"
                        )
                    file.write(chunk)
    except InputError:
        raise
    except (*DAMAGED, OSError) as error:
        if not isinstance(error, DAMAGED) and error.errno not in (None, errno.EINVAL, errno.ENAMETOOLONG):
            raise  # the disk's fault, not the archive's
        raise InputError(f"{path} cannot be unpacked ({error}): delete it and download it again") from error


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            is_plain = kind in (0, stat.S_IFREG)
            # `orig_filename` still has what `filename` hides: text after a null byte.
            yield info.orig_filename, is_plain, info.is_dir(), partial(archive.open, info)


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        for info in archive:
            yield info.name, info.isreg(), info.isdir(), partial(archive.extractfile, info)
        # to the end, where a compressed archive's own checksum stands: tar stops before it
        for _ in range(FREE // CHUNK):
            if not archive.fileobj or not archive.fileobj.read(CHUNK):
                return
        raise tarfile.ReadError("it goes on after its end")
