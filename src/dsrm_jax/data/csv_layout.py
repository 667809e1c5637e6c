"""How a CSV file is laid out: its columns, its separator, and whether every row is one line that RFC 4180 allows.

Polars parses quickly what follows RFC 4180 with one row a line, and guesses at the rest: two stray quotation marks swallow the
rows between them without a word. So one pass over the bytes first finds whether a file is of that kind.
"""

import csv
import re
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dsrm_jax.errors import InputError

SEPARATORS = (",", "\t", ";", "|")
CHUNK = 1 << 24  # bytes looked at together
QUOTE, NEWLINE, RETURN, SPACE, BACKSLASH = b'"\n\r \\'
OTHERS = {(ord(s), e): bytes(set(range(256)) - {ord(s), e}) for s in SEPARATORS for e in (NEWLINE, RETURN)}
MAGIC = {
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"PK\x03\x04": "a ZIP archive or an Excel sheet; unpack it, or save the sheet as CSV",
    b"PAR1": "a Parquet file that is damaged; fetch it again",
}
STANDARD, SPACED, ESCAPED = "RFC 4180", "spaces after the separators", "backslashes before quotation marks"
# tried in this order, each strictly
DIALECTS: dict[str, dict[str, object]] = {
    STANDARD: {},
    SPACED: {"skipinitialspace": True},
    ESCAPED: {"escapechar": "\\"},
}


class Reading(NamedTuple):
    """A way to read rows."""

    exact: bool  # every row has as many fields as the header; otherwise the last may be missing
    kept: bool  # a lone carriage return belongs to its text; otherwise it ends a row
    dialect: str  # one of `DIALECTS`


@dataclass(frozen=True, eq=False)
class Layout:
    """How a CSV file is laid out."""

    path: Path  # the file's plain bytes
    name: Path  # the file as the user named it, for messages
    names: tuple[str, ...]  # of the columns, spaces at their ends removed
    separator: str
    newline: str  # what Polars splits lines at
    first_line: int  # the line after the header
    lines: int  # lines after the header
    empty: np.ndarray  # `(E,)` int64, which of those are empty, counted from 0
    plain: bool  # one row a line, and every quotation mark where RFC 4180 has it (or none that opens a field)
    quoted: bool  # quotation marks are more than text
    dialect: str  # the one of `DIALECTS` that the quotation marks speak for
    utf8: bool
    lone: bool  # some carriage return stands alone in a file whose lines end otherwise

    @property
    def readings(self) -> list[Reading]:
        """Return the ways to read the rows, in the order in which they are tried."""
        order = sorted(DIALECTS, key=self.dialect.__ne__)
        returns = (True, False) if self.lone else (False,)
        return [Reading(*each) for each in product((True, False), returns, order)]


def layout(path: Path, name: Path) -> Layout:
    """Return how a CSV file with a header line is laid out.

    The separator is that of ``, tab ; |`` which gives the header most fields.

    Raises:
        InputError: the file is empty or no text, or its header cannot be read.
    """
    with path.open("rb") as stream:
        start = stream.read(CHUNK)
    separator, (names, first_line, spans) = _best_header(path, name, start)
    ends = (m for m in re.finditer(rb"\r\n|\r|\n", start) if start.count(b'"', 0, m.start()) % 2 == 0)
    newline = "\r" if next((m.group() for m in ends), b"") == b"\r" else "\n"
    found = _survey(path, ord(separator), ord(newline), len(names), first_line - 1)
    return Layout(
        path=path,
        name=name,
        names=names,
        separator=separator,
        newline=newline,
        first_line=first_line,
        lines=found.lines,
        empty=np.concatenate(found.empty),
        plain=not spans and not found.mixed and (found.strict and found.regular if found.quoted else found.bare),
        quoted=found.quoted,
        dialect=ESCAPED if found.escaped else SPACED if found.spaced else STANDARD,
        utf8=found.utf8,
        lone=found.lone,
    )


def header(path: Path, name: Path) -> tuple[str, ...]:
    """Return the names of a CSV file's columns; raises as `layout`."""
    with path.open("rb") as stream:
        return _best_header(path, name, stream.read(4))[1][0]


def _best_header(path: Path, name: Path, start: bytes) -> tuple[str, tuple[tuple[str, ...], int, bool]]:
    """Return the separator and what `_header` finds with it."""
    for magic, what in MAGIC.items():
        if start.startswith(magic):
            raise InputError(f"{name}: this is {what}")
    headers = {separator: _header(path, name, separator) for separator in SEPARATORS}
    best = max(SEPARATORS, key=lambda separator: len(headers[separator][0]))
    return best, headers[best]


def _header(path: Path, name: Path, separator: str) -> tuple[tuple[str, ...], int, bool]:
    """Return the names of the columns, the line after them, and whether they take more lines than one."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        rows = csv.reader(stream, delimiter=separator)
        before = 0
        try:
            for row in rows:
                if row:
                    return tuple(name.strip() for name in row), rows.line_num + 1, rows.line_num > before + 1
                before = rows.line_num
        except csv.Error as error:
            raise InputError(
                f"{name}, line {before + 1}: the header cannot be read ({error}); expected column names"
            ) from error
    raise InputError(f"{name}: the file is empty; expected a header line and rows")


@dataclass
class _Survey:
    """What one pass over the bytes after a header finds, in the words of `Layout`."""

    lines: int = 0
    empty: list[np.ndarray] = field(default_factory=list)
    strict: bool = True  # all quotation is as in RFC 4180 and ends on its line
    quoted: bool = False
    spaced: bool = False  # some quotation mark follows a separator and a space
    escaped: bool = False  # some quotation mark in a bare field follows a backslash
    utf8: bool = True
    lone: bool = False
    marks: int = 0  # so far
    regular: bool = True  # no line has more fields than the header
    bare: bool = True  # the same if no field were quoted
    mixed: bool = False  # a line feed in a file whose lines end in carriage returns


def _survey(path: Path, separator: int, newline: int, width: int, skipped: int) -> _Survey:
    found, ending = _Survey(), bytes([newline])
    with path.open("rb") as stream:
        rest, header, over = b"", skipped, False
        while not over:
            chunk = stream.read(CHUNK)
            over, text = not chunk, rest + chunk
            cut = len(text) if over else text.rfind(ending) + 1
            text, rest = text[:cut], text[cut:]
            while header and text:
                _, _, text = text.partition(ending)
                header -= 1
            found.utf8 = found.utf8 and (text.isascii() or _is_utf8(text))
            _note(text, separator, newline, width, found)
    return found


def _note(text: bytes, separator: int, newline: int, width: int, found: _Survey) -> None:
    """Note what some whole lines are like."""
    ending = bytes([newline])
    bounds = text.translate(None, OTHERS[separator, newline])
    lines = bounds.count(ending) + bool(text and not text.endswith(ending))
    bare = bounds == (bytes([separator]) * (width - 1) + ending) * lines and width > 1
    narrow = bare or _most_fields(bounds, separator, newline) <= width
    found.bare &= narrow
    found.empty.append(found.lines + (np.zeros(0, dtype=np.int64) if bare else _empty_lines(text, newline)))
    found.lines += lines
    found.mixed |= newline == RETURN and b"\n" in text
    found.lone |= newline == NEWLINE and b"\r" in text and text.count(b"\r") > text.count(b"\r\n")
    if b'"' in text:
        outside = b"".join(text.split(b'"')[::2]).translate(None, OTHERS[separator, newline])
        found.strict &= outside.count(ending) == bounds.count(ending)
        found.regular &= _most_fields(outside, separator, newline) <= width
        _quotation(np.frombuffer(text, np.uint8), separator, newline, found)
    else:
        found.regular &= narrow


def _most_fields(bounds: bytes, separator: int, newline: int) -> int:
    """Return the fields of the longest line, of which the separators and ends are given."""
    return 1 + max(line.count(separator) for line in set(bounds.split(bytes([newline]))))


def _quotation(text: np.ndarray, separator: int, newline: int, found: _Survey) -> None:
    """Note of some whole lines with quotation marks whether a field is quoted, and whether all is as in RFC 4180."""
    marks = np.flatnonzero(text == QUOTE)
    around = np.pad(text, (2, 1), constant_values=newline)
    second, before, after = (around[marks + shift] for shift in (0, 1, 3))
    bounds = (separator, newline)
    opens = (np.arange(len(marks)) + found.marks) % 2 == 0
    begins, doubled = np.isin(before, bounds), np.append(False, np.diff(marks) == 1)
    spaced = opens & (before == SPACE) & np.isin(second, bounds)
    escaped = opens & (before == BACKSLASH)
    closed = np.isin(after, (*bounds, RETURN, QUOTE))
    found.quoted |= bool((begins | spaced | escaped).any())
    found.spaced |= bool(spaced.any())
    found.escaped |= bool(escaped.any())
    found.strict &= len(marks) % 2 == 0 and bool(np.where(opens, begins | doubled, closed).all())
    found.marks += len(marks)


def _empty_lines(text: bytes, newline: int) -> np.ndarray:
    """Return which of some whole lines hold nothing."""
    if newline == NEWLINE and not (text[:1] in b"\r\n" or b"\n\n" in text or b"\n\r" in text):
        return np.zeros(0, dtype=np.int64)
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(data == newline)
    if text and data[-1] != newline:
        ends = np.append(ends, len(data))
    length = np.diff(ends, prepend=-1) - 1
    return np.flatnonzero((length == 0) | ((length == 1) & (data[np.maximum(ends - 1, 0)] == RETURN)))


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
