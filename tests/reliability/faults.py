"""A file layer that fails: each of Python's writes, flushes to the disk, renames and removals is counted, and one goes wrong."""

import builtins
import contextlib
import errno
import io
import os
import random
import shutil
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

from dsrm_jax.runs import checkpoint


class Crash(BaseException):
    """The process dies here: no `except Exception` sees it, and what ran after it in a dead process must not run."""


class Faults:
    """Counts operations on files, and lets one of them fail.

    `kind` is `crash` (the process dies in the middle of it), `full` or `broken` (the system refuses this one and, `full`, all
    writes after it).
    """

    def __init__(self, at: int, kind: str, seed: int) -> None:
        self.at, self.kind, self.rng = at, kind, random.Random(seed)
        self.count, self.dead, self.thread = 0, False, 0

    def operation(self) -> bool:
        """Count one, and return whether it is to fail; those of other threads are another's."""
        if threading.get_ident() != self.thread:
            return False
        if self.dead:  # what a dead process would not do
            raise Crash
        self.count += 1
        return self.count == self.at or (self.kind == "full" and 0 < self.at <= self.count)

    def fail(self) -> None:
        """Fail as the kind says."""
        if self.kind == "crash":
            self.dead = True
            raise Crash
        raise OSError(errno.ENOSPC if self.kind == "full" else errno.EIO, "made to fail")

    def write(self, file: Any, content: Any, raw: Any) -> int:
        """Write a file's content, or a part of it where this is the one that fails."""
        if not self.operation():
            return raw(content)
        raw(content[: self.rng.randrange(len(content) + 1)])
        with contextlib.suppress(OSError, ValueError):
            file.flush()
        self.fail()
        return 0

    @contextlib.contextmanager
    def installed(self) -> Iterator["Faults"]:
        """Put it under Python's files while the block runs."""
        real_open, layer = io.open, self
        self.thread = threading.get_ident()

        def opened(file, mode="r", *rest, **more):
            stream = real_open(file, mode, *rest, **more)
            if not any(letter in mode for letter in "wax+"):
                return stream
            raw = stream.write
            proxy = mock.MagicMock(wraps=stream)
            proxy.write = lambda content: layer.write(stream, content, raw)
            proxy.__enter__ = lambda _: (stream.__enter__(), proxy)[1]
            proxy.__exit__ = lambda _, *error: stream.__exit__(*error)
            proxy.fileno = stream.fileno
            return proxy

        def guarded(real):
            def call(*arguments, **keywords):
                if self.operation():
                    self.fail()
                return real(*arguments, **keywords)

            return call

        names = ("fsync", "replace", "rename", "mkdir", "ftruncate", "unlink")
        with contextlib.ExitStack() as stack:
            for name in names:
                stack.enter_context(mock.patch.object(os, name, guarded(getattr(os, name))))
            stack.enter_context(mock.patch.object(shutil, "rmtree", _rmtree(guarded)))
            stack.enter_context(mock.patch.object(builtins, "open", opened))
            stack.enter_context(mock.patch.object(io, "open", opened))
            stack.enter_context(mock.patch.object(checkpoint, "save_arrays", self._saving(checkpoint.save_arrays)))
            yield self

    def _saving(self, real: Any) -> Any:
        """Let Orbax write, whose own threads are not to be broken, and cut what it wrote where this is what fails."""

        def save_arrays(path, arrays):
            failing = self.operation()
            thread, self.thread = self.thread, 0
            try:
                real(path, arrays)
            finally:
                self.thread = thread
            if failing:
                files = sorted(file for file in path.rglob("*") if file.is_file())
                for file in self.rng.sample(files, self.rng.randrange(1, len(files) + 1)):
                    os.truncate(file, self.rng.randrange(file.stat().st_size + 1))
                self.fail()

        return save_arrays


def _rmtree(guarded: Any) -> Any:
    real = shutil.rmtree

    def rmtree(path, ignore_errors=False, **more):
        try:
            return guarded(real)(path, ignore_errors=ignore_errors, **more)
        except OSError:
            if not ignore_errors:
                raise

    return rmtree
