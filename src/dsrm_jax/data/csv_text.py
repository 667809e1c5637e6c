"""The rows of a CSV file, read strictly, and the line on which each stands.

What Polars reads right it reads; all other files go through Python's `csv` in strict mode, which reads them right or says on
which line it cannot.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from dsrm_jax.data.csv_layout import DIALECTS, Layout, Reading
from dsrm_jax.errors import InputError

BATCH = 1 << 16  # rows that Python's reader hands over together
LONE, MARK = re.compile("\r(?!\n)"), "\udc0d"  # Python's reader ends a row at every carriage return that is not hidden
ENDS = re.compile("\r\n|\r|\n")
LOST = "\ufffd"  # stands for bytes that are not UTF-8


def columns_of(found: Layout, names: Sequence[str]) -> dict[str, int]:
    """Return the positions of named columns; `InputError` where one is missing or stands twice in the header."""
    for name in names:
        if found.names.count(name) > 1:
            raise InputError(
                f"{found.name}, line {found.first_line - 1}: {found.names.count(name)} columns are named {name!r}; "
                "rename all but one, since nothing says which is meant"
            )
        if name not in found.names:
            known = ", ".join(found.names[:40]) or "(none)"
            raise InputError(f"{found.name}: column {name!r} is missing; its columns are {known}")
    return {name: found.names.index(name) for name in names}


def scan(found: Layout, columns: Mapping[str, type[pl.DataType]]) -> pl.DataFrame | None:
    """Read a plain file's columns by Polars, without its empty lines; None where Polars sees other rows than the survey.

    Raises:
        PolarsError: a value is not of its column's type, or a row has too many fields.
    """
    table = lazy(found, columns)
    frame = None if table is None else table.collect()
    if frame is None or len(frame) != found.lines:
        return None
    if len(found.empty):
        keep = np.ones(len(frame), dtype=bool)
        keep[found.empty] = False
        frame = frame.filter(pl.Series(keep))
    return frame


def lazy(found: Layout, columns: Mapping[str, type[pl.DataType]]) -> pl.LazyFrame | None:
    """Return a plain file's columns, not read yet, empty lines as nulls; None where Polars sees other columns than the survey."""
    positions = columns_of(found, tuple(columns))
    theirs = _polars(found, {}).collect_schema().names()
    if len(theirs) != len(found.names):
        return None
    table = _polars(found, {theirs[positions[name]]: kind for name, kind in columns.items()})
    return table.select(pl.col(theirs[place]).alias(name) for name, place in positions.items())


def read_texts(found: Layout, names: Sequence[str]) -> pl.DataFrame:
    """Read columns of any file as texts, nothing as null, in the first of the file's `readings` that goes through.

    Raises:
        InputError: a quotation mark that no dialect allows, rows swallowed by one, or a row with too many fields; names the line.
    """
    positions = list(columns_of(found, names).values())
    errors: dict[bool, InputError] = {}
    for reading in found.readings:
        try:
            return _frame(found, names, positions, reading)
        except InputError as error:
            errors[reading.exact] = errors.get(reading.exact, error)
    raise errors[False]


def line_of(found: Layout, row: int) -> int:
    """Return the line on which a row begins, the header not counted among the rows."""
    if found.plain:
        return found.first_line + row + int(np.searchsorted(found.empty - np.arange(len(found.empty)), row, "right"))
    for reading in found.readings:
        try:
            return [line for line, _ in _rows(found, reading)][row]
        except InputError:
            continue
    raise AssertionError("a row was read, so that one reading goes through")


def _polars(found: Layout, kinds: dict[str, type[pl.DataType]]) -> pl.LazyFrame:
    return pl.scan_csv(
        found.path,
        separator=found.separator,
        quote_char='"' if found.quoted else None,
        eol_char=found.newline,
        schema_overrides=kinds,
        infer_schema=False,  # every other column is text that is never parsed
        encoding="utf8" if found.utf8 else "utf8-lossy",
        low_memory=True,
    )


def _rows(found: Layout, reading: Reading) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row begins, and its fields, as many as the header has at most."""
    width, begin = len(found.names), found.first_line
    errors = "strict" if found.utf8 else "replace"
    with found.path.open(encoding="utf-8-sig", errors=errors, newline="\n" if reading.kept else "") as stream:
        text = (LONE.sub(MARK, line) for line in stream) if reading.kept else stream
        rows = csv.reader(text, delimiter=found.separator, strict=True, **DIALECTS[reading.dialect])  # type: ignore[arg-type]
        try:
            while not next(rows):
                pass
            begin = rows.line_num + 1
            for row in rows:
                if row:
                    if any(map(str.strip, row[width:])) or (reading.exact and len(row) < width):
                        raise InputError(
                            f"{found.name}, line {begin}: {len(row)} fields; expected {width}, as the header"
                        )
                    yield begin, [name.replace(MARK, "\r") for name in row[:width]] if reading.kept else row[:width]
                begin = rows.line_num + 1
        except csv.Error as error:
            raise _misquoted(found.name, begin, rows.line_num, str(error)) from error


def _misquoted(name: Path, begin: int, line: int, error: str) -> InputError:
    advice = "close it, remove it, or double it where it belongs to the text"
    if "expected after" in error:
        since = "" if line == begin else f", in a row that began on line {begin}: a stray quotation mark there?"
        return InputError(f"{name}, line {line}: text follows a closing quotation mark{since or ';'} {advice}")
    if "end of data" in error or "limit" in error:
        return InputError(f"{name}, line {begin}: a quotation mark opens a field that never ends; {advice}")
    return InputError(f"{name}, line {line}: {error}; expected CSV as in RFC 4180")


def _frame(found: Layout, names: Sequence[str], positions: Sequence[int], reading: Reading) -> pl.DataFrame:
    last = max(positions)
    frames: list[pl.DataFrame] = []
    batch: list[list[str]] = []

    def hand_over() -> None:
        columns = [[row[place] or None for row in batch] for place in positions]
        frames.append(pl.DataFrame([pl.Series(n, c, dtype=pl.String) for n, c in zip(names, columns, strict=True)]))
        batch.clear()

    for line, row in _rows(found, reading):
        if "\n" in (whole := "".join(row)) or "\r" in whole:
            _refuse_swallowed(found, line, row, positions)
        batch.append(row if len(row) > last else row + [""] * (last + 1 - len(row)))
        if len(batch) == BATCH:
            hand_over()
    hand_over()
    return pl.concat(frames)


def _refuse_swallowed(found: Layout, line: int, row: list[str], positions: Sequence[int]) -> None:
    """Refuse a quoted field whose further lines look like rows: a stray quotation mark opened it and another closed it."""
    width = len(found.names)
    for place, text in enumerate(row):
        pieces = ENDS.split(text) if "\n" in text or "\r" in text else [text]
        for number, piece in enumerate(pieces[1:], 1):
            rest = row[place + 1 :] if number == len(pieces) - 1 else []
            if piece.count(found.separator) + 1 + len(rest) != width:
                continue
            fields = piece.split(found.separator) + rest
            kinds = [(_kind(fields[p]), _kind(row[p])) for p in positions if p != place and p < len(row)]
            # words stand for each other where a number beside them says enough
            numbers = ("number", "number") in kinds and all(a == b or {a, b} == {"word", "words"} for a, b in kinds)
            if len(kinds) > 1 and (numbers or all(a == b for a, b in kinds)):
                raise InputError(
                    f"{found.name}, line {line}: the quoted text that begins here runs on to line {line + len(pieces) - 1}, and "
                    f"its line {line + number} looks like a row: a stray quotation mark? Close it, remove it, or double it where "
                    "it belongs to the text (a text that really holds such lines can be kept in a Parquet file)"
                )
        line += len(pieces) - 1


def _kind(text: str) -> str:
    """Return whether a field is nothing, a number, one word or more."""
    text = text.strip()
    if text.replace(".", "", 1).removeprefix("-").isdigit():
        return "number"
    return "nothing" if not text else "words" if " " in text else "word"
