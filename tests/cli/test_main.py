"""What the system refuses is one sentence and an exit status, never a traceback."""

import errno
import io
import os
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from dsrm_jax.cli import main as cli
from dsrm_jax.cli.commands import Command


def run(monkeypatch, raised: BaseException) -> int:
    def fail(argv):
        raise raised

    monkeypatch.setattr(cli, "commands", lambda: {"x": Command("about", fail)})
    monkeypatch.setattr(cli.sys, "stdout", cli.sys.stdout)
    with pytest.raises(SystemExit) as stop:
        cli.main(["x"])
    return stop.value.code


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ENAMETOOLONG, errno.EROFS])
def test_a_refusal_is_said_with_its_file(monkeypatch, capsys, code):
    assert run(monkeypatch, OSError(code, os.strerror(code), "/some/file")) == 2
    said = capsys.readouterr().err
    assert said == f"dsrm-jax: the system refused to go on: {os.strerror(code)} (/some/file)\n"


def test_an_output_that_nobody_reads_ends_quietly(monkeypatch, capsys):
    assert run(monkeypatch, BrokenPipeError()) == 141
    assert capsys.readouterr().err == ""


def test_a_table_that_nobody_reads_ends_quietly(monkeypatch, capsys):
    class Unread(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

        def fileno(self):
            return os.open(os.devnull, os.O_WRONLY)

    monkeypatch.setattr(
        cli, "commands", lambda: {"x": Command("about", lambda _: Console(file=Unread()).print("text"))}
    )
    monkeypatch.setattr(cli.sys, "stdout", Unread())
    with pytest.raises(SystemExit, match="141"):
        cli.main(["x"])
    assert capsys.readouterr().err == ""


def test_a_working_directory_that_is_gone(monkeypatch, capsys):
    def gone():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(cli.os, "getcwd", gone)
    assert run(monkeypatch, AssertionError("never called")) == 2
    assert "No such file or directory" in capsys.readouterr().err


def test_what_threads_say_after_a_write_that_failed_is_not_shown(monkeypatch):
    """TensorStore's threads report to Orbax's event loop, which the first failure closed: the sentence stands alone."""
    shown: list[object] = []
    show = shown.append
    monkeypatch.setattr(cli.sys, "__unraisablehook__", show)
    monkeypatch.setattr(cli.sys, "unraisablehook", show)
    cli.prepare_process()
    late, other = (SimpleNamespace(exc_value=RuntimeError(text)) for text in ("Event loop is closed", "another"))
    sys.unraisablehook(late)
    sys.unraisablehook(other)
    assert shown == [other]
    monkeypatch.setattr(cli.sys, "unraisablehook", print)  # one that somebody else set stays
    cli.prepare_process()
    assert sys.unraisablehook is print


def test_a_full_output_is_noticed(monkeypatch, capsys):
    class Full:
        def write(self, text):
            return len(text)

        def flush(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cli, "commands", lambda: {"x": Command("about", print)})
    monkeypatch.setattr(cli.sys, "stdout", Full())
    with pytest.raises(SystemExit, match="2"):
        cli.main(["x"])
    assert "No space left on device" in capsys.readouterr().err
