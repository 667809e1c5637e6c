"""Unpack zip and tar archives that nobody vouches for: plain files only, never outside the folder."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO

from dsrm_jax.errors import InputError

DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, NotImplementedError)
Member = tuple[str, bool, bool, Callable[[], IO[bytes] | None]]


def extract(path: Path, root: Path) -> None:
    """Extract a zip or tar archive into an existing, empty folder, plain files only and never outside it.

    Raises:
        InputError: a member with an absolute path, a drive letter or a ``..`` part, a link, a device, or an
            archive that is damaged; nothing has then been written outside `root`.
    """
    members = _zip_members if zipfile.is_zipfile(path) else _tar_members
    try:
        for name, is_plain, is_folder, open_member in members(path):
            # Windows rules see drives and backslashes as well as everything that POSIX rules see.
            strict = PureWindowsPath(name)
            if strict.anchor or ".." in strict.parts or "\0" in name:
                raise InputError(f"{path} has a member {name!r} that points outside the folder: refused as unsafe")
            if is_folder:
                continue
            if not is_plain:
                raise InputError(f"{path} has a member {name!r} that is a link or a device: refused as unsafe")
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            source = open_member()
            assert source is not None, "a plain file can be opened"
            with source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
    except DAMAGED as error:
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
