"""A lock on a file that goes with the process, however it ends."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from dsrm_jax.errors import InputError
from dsrm_jax.files import clear_orphans


class BusyError(InputError):
    """Another process holds the lock."""


@contextlib.contextmanager
def held(path: Path, *, busy: str, advice: str = "choose another folder") -> Iterator[OSError | None]:
    """Hold an advisory lock on a file, made where it is absent and removed at the end, while the block runs.

    What killed processes were writing in its folder is removed first (`files.clear_orphans`). It yields None, or why the file
    system gives no locks; the block runs all the same. Off POSIX nothing is locked.

    Raises:
        BusyError: `busy`, since another process holds the lock.
        InputError: the file cannot be opened; closes with the `advice`.
    """
    try:
        import fcntl
    except ImportError:
        yield None
        return
    while True:
        try:
            file = path.open("a")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}; {advice}") from error
        with file:
            without: OSError | None = None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(busy) from error
            except OSError as error:
                without = error
            if without is None and not _is_at(path, file.fileno()):
                continue  # who held it before has removed it meanwhile: that lock keeps nobody out
            if without is None:
                clear_orphans(path.parent)
            try:
                yield without
            finally:
                if without is None:
                    with contextlib.suppress(OSError):
                        path.unlink()
            return


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether a path still names an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False
