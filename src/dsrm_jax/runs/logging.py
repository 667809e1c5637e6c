"""What a run says while it trains, and how it hears Ctrl-C: metrics and TensorBoard files."""

import contextlib
import json
import logging
import math
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol, cast

from dsrm_jax.errors import InputError
from dsrm_jax.files import from_json_value, json_value, sync_folder, write_text
from dsrm_jax.progress import endings, let_go
from dsrm_jax.types import Json

_log = logging.getLogger("dsrm_jax")

TAGS = {  # metric to group and name; whatever else a method tells of its updates is in the group `learning`
    "reward": "engagement/R_each",
    "length": "engagement/Len",
    "return": "engagement/R_cum",
    "sessions": "engagement/sessions",
    "ad": "fairness/AD",
    "slate_ad": "fairness/AD_of_slates",
    "broken": "fairness/p",
    "fairness": "fairness/Fair",
    "goal_accuracy": "manager/w_acc",
    "goal_fairness": "manager/w_fair",
    "manager_std": "manager/goal_deviation",
    "goal_std": "manager/goal_deviation",
    "manager_loss": "manager/loss",
    "manager_kl": "manager/kl",
    "manager_explained": "manager/explained",
    "worker_loss": "worker/loss",
    "worker_kl": "worker/kl",
    "worker_explained": "worker/explained",
    "worker_entropy": "worker/entropy",
    "seconds": "time/seconds",
}


class Writer(Protocol):
    """What is used of tensorboardX's `SummaryWriter`."""

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Record a number."""

    def flush(self) -> None:
        """Write what was recorded."""


def append_metrics(path: str | os.PathLike[str], rows: Sequence[Json], *, of: str = "") -> None:
    """Append rows to a JSON-lines file; when this returns they are on the disk.

    Append a chunk's rows before its checkpoint is saved: then the file is never behind a checkpoint. Each row has an int
    ``step``, non-decreasing, and values as `json_value` takes them; NaN and infinities become the strings that `read_metrics`
    turns back: stopping on them is the caller's part (`nonfinite`).

    Raises:
        InputError: the file cannot be written, such as on a full disk; it is cut back to the rows it had.
    """
    for row in rows:
        if type(row.get("step")) is not int:
            raise TypeError(f"a row's step is {row.get('step')!r}, expected an int")
    text = "".join(line_of(row, of) for row in rows)
    try:
        with open(path, "ab") as file:
            size = file.tell()
            try:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
                if not size:
                    sync_folder(Path(path).parent)
            except OSError:
                os.ftruncate(file.fileno(), size)
                raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; its earlier rows are untouched") from error


def line_of(row: Json, of: str = "") -> str:
    """Return the line of a row: JSON, the run that it is `of` and its CRC-32 last, so that a changed digit is seen."""
    text = json.dumps(json_value(row | {"run": of[:8]} if of else row), allow_nan=False)
    return f'{text[:-1]}, "crc": {zlib.crc32(text.encode())}}}\n'


def read_metrics(path: str | os.PathLike[str], *, of: str = "") -> list[Json]:
    """Return the rows of a file of `append_metrics` in order, arrays as lists, NaN and infinities as floats.

    A last line that a killed process left half written is left out; so are another run's rows, where it is said whose they are
    to be (`of`, the run's fingerprint).

    Raises:
        InputError: the file is missing, unreadable, or damaged before its end; names the line.
    """
    return [from_json_value(row) for row, _ in _rows(path, of)]


def truncate_metrics(path: str | os.PathLike[str], step: int, *, of: str = "") -> int:
    """Remove the rows beyond a restored step, and a half-written last line: a resumed run writes them again.

    The rows up to the step stay, byte for byte; their number is returned. An absent file counts as empty.

    Raises:
        InputError: as `read_metrics`, or the file cannot be written.
    """
    if not Path(path).exists():
        return 0
    kept = [line for row, line in _rows(path, of) if row["step"] <= step]
    text = "".join(kept)
    if text.encode() != Path(path).read_bytes():
        write_text(path, text)
    return len(kept)


def _rows(path: str | os.PathLike[str], of: str) -> list[tuple[Json, str]]:
    """Return `(row, its line)` of every row; damage with no good row after it is passed over."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    rows, damaged = [], 0
    checked = b'"crc": ' in content or b'"run": ' in content  # rows of an earlier version have neither
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        row = _parse(line, of, checked)
        if row is None:
            damaged = damaged or number
        elif damaged:
            raise InputError(
                f"{path} is damaged: line {damaged} is not a row of metrics, later ones are; delete that line"
            )
        else:
            rows.append((row, line.decode() + "\n"))
    return rows


def _parse(line: bytes, of: str, checked: bool) -> Json | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # UnicodeDecodeError is one too
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    crc = row.pop("crc", None)
    intact = not checked or crc == zlib.crc32(json.dumps(row).encode())
    mine = row.pop("run", of[:8]) == of[:8] or not of
    return row if intact and mine else None


def nonfinite(row: Json) -> list[str]:
    """Return the names of a row's numbers that are not finite, such as ``loss[2]`` for the third seed."""
    return [f"{name}{index}" for name, index, number in _numbers(row) if not math.isfinite(number)]


def _numbers(row: Json) -> Iterator[tuple[str, str, float]]:
    """Yield `(name, index, number)` of every number of a row, the index such as ``[2]`` or empty."""

    def inside(value: object, index: str) -> Iterator[tuple[str, float]]:
        if isinstance(value, (int, float)):
            yield index, value
        elif isinstance(value, (list, dict)):
            for i, v in value.items() if isinstance(value, dict) else enumerate(value):
                yield from inside(v, f"{index}[{i}]")

    for name, value in from_json_value(json_value(row)).items():
        for index, number in inside(value, ""):
            yield name, index, number


def open_tensorboard(folder: str | os.PathLike[str], seeds: Sequence[int], step: int = 0) -> list[Writer]:
    """Return a TensorBoard writer of each seed, in a folder of its own, so that TensorBoard lays their curves over each other.

    There are none, and one notice, where tensorboardX is not installed. `step` is the one that the run continues from;
    TensorBoard hides what an earlier process wrote beyond it.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        _log.warning("no TensorBoard files: tensorboardX is not installed (pip install 'dsrm-jax[tensorboard]')")
        return []
    purge = step + 1 if step else None
    return [cast(Writer, SummaryWriter(str(Path(folder) / f"seed_{seed}"), purge_step=purge)) for seed in seeds]


def write_tensorboard(writers: Sequence[Writer], row: Json) -> None:
    """Write a row's numbers, not its text, as scalars at its ``step``, each seed's to its own writer; flushes.

    `writers` are what `open_tensorboard` returned. Of a number that no seed has for itself the first gets it.
    """
    if not writers:
        return
    for name, index, number in _numbers(row):
        seed, _, rest = index.removeprefix("[").partition("]") if index else ("0", "", "")
        if name != "step":
            writers[int(seed)].add_scalar(tag_of(name) + rest.replace("[", "/").replace("]", ""), number, row["step"])
    for writer in writers:
        writer.flush()


def tag_of(metric: str) -> str:
    """Return what a metric of `metrics.jsonl` is called in TensorBoard: a group, and the paper's word where it has one."""
    return TAGS.get(metric, f"learning/{metric}")


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], int]]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a flag that a loop polls between chunks.

    A second one raises `KeyboardInterrupt` at once, but for SIGHUP, of which shell and system send one each. The handlers that
    were there return at the end. Off the main thread, where Python cannot handle signals, the flag stays down. It yields
    `exit_code()`: 0 until a signal came, then 128 + its number (130 for Ctrl-C, 143 for SIGTERM, 129 for a lost terminal).
    """
    received = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        let_go(number)
        if received and number != getattr(signal, "SIGHUP", None):
            raise KeyboardInterrupt(number)
        received = received or 128 + number
        # Not print: the signal may have come in the middle of one.
        with contextlib.suppress(OSError):
            os.write(2, b"\nstopping after this chunk, then saving; once more to stop at once\n")

    numbers = [signal.SIGINT, *endings()] if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield lambda: received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C and `endings` wait for the end of a save: Orbax's loops, interrupted, complain when they are collected."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    numbers = [signal.SIGINT, *endings()]
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for one in received:
            signal.raise_signal(one)
