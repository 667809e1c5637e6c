"""`dsrm-jax COMMAND`: find the command, call it, turn errors into one sentence and an exit status.

JAX is imported inside the commands, after XLA's flags are set (see `parallel/xla.py`).
"""

import contextlib
import logging
import os
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn, TextIO

from dsrm_jax.cli.commands import Command, commands
from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.parallel.xla import set_flags, use_cores
from dsrm_jax.progress import QUIET, endings, let_go


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Exits with status 0, 2 on bad input or where the system refuses something (a full disk, a folder that is gone), 130, 143
    or 129 when interrupted, 141 where nobody reads the output any more.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # none where they were closed
    try:
        with _terminable():
            prepare_process()
            command, rest = _command(argv)
            if command.spread:
                use_cores(os.environ)
            with silenced() if "--quiet" in rest else contextlib.nullcontext():
                command.run([word for word in rest if word != "--quiet"])
            sys.stdout.flush()
    except InputError as error:
        _stop(2, str(error))
    except BrokenPipeError:
        _stop(141)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # Rich's answer to it is status 1
            _stop(141)
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _stop(2, f"the system refused to go on: {error.strerror or error}{where}")
    except KeyboardInterrupt as error:
        number = signal.Signals(error.args[0] if error.args else signal.SIGINT)
        how = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
        _stop(128 + number, f"{how}; what was reported as saved is safe")


def _stop(status: int, sentence: str = "") -> NoReturn:
    """Say why, where anything can be said, and leave; an output that takes nothing more is let go of.

    The interpreter would complain of it at its end, and change the status.
    """
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = _nowhere()
    with contextlib.suppress(OSError):
        print(f"dsrm-jax: {sentence}" if sentence else "", end="\n" if sentence else "", file=sys.stderr, flush=True)
    raise SystemExit(status) from None


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let `endings` end the command as Ctrl-C does, by an exception, so that locks and temporary files go with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        let_go(number)
        raise KeyboardInterrupt(number)

    before = {number: signal.signal(number, leave) for number in endings()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _nowhere() -> TextIO:
    return open(os.devnull, "w")


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Print nothing, show no progress and no warnings; errors go where they always go, to standard error."""
    before = os.environ.get(QUIET)
    os.environ[QUIET] = "1"
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        logging.getLogger().setLevel(level)
        os.environ.pop(QUIET) if before is None else os.environ.update({QUIET: before})


def prepare_process() -> None:
    """Set XLA's flags (appended, never overwritten), send warnings to standard error, find modules in the current folder."""
    set_flags(os.environ)
    try:
        here = os.getcwd()
    except OSError as error:
        raise InputError(
            f"the current folder cannot be used ({error.strerror or error}): was it deleted? go to another one"
        ) from error
    if here not in sys.path:
        sys.path.append(here)  # last, so that a user's file replaces no library
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = without_late


def without_late(raised: "sys.UnraisableHookArgs") -> None:
    """Show what could not be raised, but for what comes late.

    The first write of a checkpoint that fails closes the event loop to which the others report, from threads of its own.
    """
    if str(raised.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(raised)


def _command(argv: list[str]) -> tuple[Command, list[str]]:
    known = commands()
    if not argv or argv[0] in ("-h", "--help"):
        print(_listing(known))
        raise SystemExit(0 if argv else 2)
    if argv[0] == "--version":
        from dsrm_jax import __version__

        print(__version__)
        raise SystemExit(0)
    if argv[0] not in known:
        raise unknown_name("command", argv[0], known)
    command, rest = known[argv[0]], argv[1:]
    if command.help and {"-h", "--help"} & set(rest):
        print(command.help)
        raise SystemExit(0)
    return command, ["--help" if word == "--help-all" else word for word in rest]


def _listing(known: dict[str, Command]) -> str:
    """Return the commands, each with one phrase, as wide as the terminal."""
    width = max(map(len, known)) + 4
    columns = max(shutil.get_terminal_size().columns, width + 20)
    lines = [
        textwrap.fill(command.about, columns, initial_indent=f"  {name:{width - 2}}", subsequent_indent=" " * width)
        for name, command in known.items()
    ]
    after = "dsrm-jax COMMAND --help shows what people use, --help-all every option."
    return "\n".join(["usage: dsrm-jax COMMAND [OPTIONS]", "", *lines, "", after])
