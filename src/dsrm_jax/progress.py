"""How far a phase is and how long it takes still: one line on standard error that is gone when the phase is over.

Nothing is shown where standard error is no terminal that can move its cursor, and nothing is ever written to standard output. A
phase that is one program on the device is not asked how far it is: that would cost it time. The clock tells, by what such work
took last on this machine or, before there was a last time, on two cores of ours (`USUAL`).
"""

import contextlib
import json
import math
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import platformdirs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

QUIET = "DSRM_JAX_QUIET"  # of the environment: set where nothing is to be shown
REFRESH = 4  # times a second
BAR = 30  # characters, at most
WORTH_KNOWING = 1.0  # seconds from which on a phase is remembered
MOST = 500  # phases remembered
OVERRUN = 1.1  # what takes longer than expected is taken to take a tenth longer than it has
USUAL = {  # seconds whatever the work (compiling, mostly), and per unit of it
    "reading the data": (3.0, 0.0),
    "building the simulators": (1.0, 0.05),  # a million rows
    "item embeddings": (1.0, 0.15),  # a million rows and epoch
    "history encoder": (1.0, 0.0017),  # an iteration
    "users' posteriors": (2.0, 0.0),
    "purifier": (4.0, 0.0075),  # an iteration and seed
    "choosing the state": (3.0, 1.0),  # a seed
    "probing held-out users": (4.0, 0.0),
    "making networks": (2.0, 0.0),
    "compiling": (12.0, 0.0),
    "compiling the evaluation": (8.0, 0.0),
    "compiling the policy": (3.0, 0.0),
    "writing the policy": (5.0, 0.0),
    "timing answers": (15.0, 0.0),
}


class Report(Protocol):
    """Told how far a phase is."""

    def __call__(self, done: float, note: str = "") -> None:
        """Say what is done of the phase's total, and a word to show."""

    def apart(self) -> contextlib.AbstractContextManager[object]:
        """Take the line away while something else is printed."""


class Silent:
    """Shows nothing."""

    def __call__(self, done: float, note: str = "") -> None:
        """Take no notice."""

    def apart(self) -> contextlib.AbstractContextManager[object]:
        """There is no line to take away."""
        return contextlib.nullcontext()


class _Steps:
    """How far a phase is, and the line that shows it."""

    def __init__(self, at: float) -> None:
        self.at, self.note = at, ""
        self.live: Live | None = None

    def __call__(self, done: float, note: str = "") -> None:
        self.at, self.note = done, note

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        assert self.live is not None
        self.live.stop()
        try:
            yield
        finally:
            self.live.start()


@contextlib.contextmanager
def phase(name: str, kind: str = "", *, work: float = 1.0, console: "Console | None" = None) -> Iterator[None]:
    """Show a phase whose end only the clock can foresee; print nothing meanwhile.

    Args:
        name: what is done, such as "compiling".
        kind: what else its time depends on, such as the method; not shown.
        work: how much there is to do, in the unit of `USUAL`.
        console: where to show it; None: standard error.
    """
    console = console or _console()
    if not _visible(console):
        yield
        return
    key, begun = f"{name} {kind} {work:g}", time.monotonic()
    fixed, rate = USUAL.get(name, (0.0, 0.0))
    expected = _read().get(key, fixed + rate * work)

    def text() -> str:
        gone = time.monotonic() - begun
        if not expected:
            return line(console.width - 1, name, gone=gone)
        whole = max(expected, OVERRUN * gone)
        return line(console.width - 1, name, gone=gone, share=gone / whole, left=whole - gone)

    with _shown(console, text):
        yield
    seconds = time.monotonic() - begun
    if seconds > WORTH_KNOWING:
        _remember(key, seconds)


@contextlib.contextmanager
def steps(
    name: str,
    total: float | None,
    *,
    start: float = 0,
    console: "Console | None" = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Report]:
    """Show a phase that tells how far it is, and give the function to tell it.

    Args:
        name: what is done.
        total: what it ends at; None: nobody knows.
        start: where it begins; not counted for its rate.
        console: where to show it; None: standard error.
        clock: seconds, monotonic.
    """
    console = console or _console()
    if not _visible(console):
        yield Silent()
        return
    begun, shown = clock(), _Steps(start)

    def text() -> str:
        gone, at = clock() - begun, shown.at
        left = None if total is None or at <= start else gone / (at - start) * (total - at)
        return line(console.width - 1, name, gone=gone, share=at / total if total else None, left=left, note=shown.note)

    with _shown(console, text) as shown.live:
        yield shown


@contextlib.contextmanager
def phases(console: "Console | None" = None) -> Iterator[Callable[..., None]]:
    """Show phase after phase as `steps` does; yields `report(phase, done, total, note="")`, by a new name another."""
    with contextlib.ExitStack() as stack:
        shown: str = ""
        tell: Report = Silent()

        def report(phase: str, done: float, total: float | None, note: str = "") -> None:
            nonlocal shown, tell
            if phase != shown:
                stack.close()
                shown, tell = phase, stack.enter_context(steps(phase, total, start=done, console=console))
            tell(done, note)

        yield report


def line(
    width: int, name: str, *, gone: float, share: float | None = None, left: float | None = None, note: str = ""
) -> str:
    """Return one line of at most `width` columns: name, bar, share, time left (or gone, where nobody knows) and a note.

    The note goes first where there is no room, then the bar, then the ends of the name.
    """
    time_of = duration(gone) if left is None else f"{duration(left)} left"
    share_of = "" if share is None else f"{math.floor(100 * min(max(share, 0.0), 1.0)):>2}% "
    tail = share_of + time_of
    with_note = f"{tail}, {note}" if note else tail
    for end, bar in ((with_note, 8), (tail, 8), (tail, 0), (share_of + time_of.removesuffix(" left"), 0)):
        room = width - len(name) - len(end) - 1
        if room >= bar + (bar > 0):
            return f"{name} {_bar(min(room - 1, BAR), share)} {end}" if bar and share is not None else f"{name} {end}"
    room = width - len(end) - 1
    if room > 1:
        return f"{name[: room - 1]}… {end}"
    return end if len(end) <= width else time_of.removesuffix(" left")[:width]


def endings() -> list[int]:
    """Return the signals but Ctrl-C that stop a command: SIGTERM, and SIGHUP of a terminal that is gone, unless it is ignored."""
    hangup = getattr(signal, "SIGHUP", None)  # none on Windows; `nohup` ignores it
    return (
        [signal.SIGTERM] if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN else [signal.SIGTERM, hangup]
    )


def let_go(number: int) -> None:
    """Say nothing more to a terminal that is gone, where that is what a signal tells: every word would be an error."""
    if number == getattr(signal, "SIGHUP", None):
        outputs = select.poll()
        for descriptor in (1, 2):
            outputs.register(descriptor, 0)
        for descriptor, event in outputs.poll(0):
            if event & (select.POLLHUP | select.POLLERR):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def duration(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss, rounded up."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _bar(size: int, share: float) -> str:
    done = math.floor(size * min(max(share, 0.0), 1.0))
    return "#" * done + "." * (size - done)


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


def _visible(console: "Console") -> bool:
    return console.is_terminal and not console.is_dumb_terminal and not console.quiet and QUIET not in os.environ


@contextlib.contextmanager
def _shown(console: "Console", text: Callable[[], str]) -> "Iterator[Live]":
    """Show a line that changes by the clock."""
    from rich.live import Live
    from rich.text import Text

    live = Live(
        get_renderable=lambda: Text(text(), no_wrap=True, overflow="crop"),
        console=console,
        refresh_per_second=REFRESH,
        transient=True,
        redirect_stdout=False,  # what goes to standard output stays there
        redirect_stderr=False,
    )
    with live:
        yield live


def _place() -> Path:
    return Path(platformdirs.user_cache_dir("dsrm_jax")) / "durations.json"


def _read() -> dict[str, float]:
    """Return the seconds of the phases of earlier runs; what cannot be read was not."""
    try:
        found = json.loads(_place().read_text())
        return {str(name): float(seconds) for name, seconds in found.items() if float(seconds) > 0}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(key: str, seconds: float) -> None:
    known = _read()
    known.pop(key, None)
    latest = dict(list((known | {key: seconds}).items())[-MOST:])
    from dsrm_jax.files import write_text

    with contextlib.suppress(Exception):  # a time that is not remembered stops nothing
        _place().parent.mkdir(parents=True, exist_ok=True)
        write_text(_place(), json.dumps(latest) + "\n")
