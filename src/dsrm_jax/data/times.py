"""Times as logs write them: numbers that count from 1970, ISO, day or month first, with AM and PM, offsets, padding.

What a number or text means is decided over the whole column, and where two meanings fit, it is asked for: `data.time_format`.
"""

import re
from typing import NamedTuple

import numpy as np
import polars as pl

from dsrm_jax.data.tables import Where, place, require
from dsrm_jax.errors import InputError

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
ORDER = "order"
FIRST, LAST = 631_152_000, 4_102_444_800  # seconds; numbers between 1990 and 2100 in a unit are taken for times in it
BATCH = 1 << 18  # texts taken apart together
CLOCK = (
    r"(?:[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?(?: *([AaPp])\.?[Mm]\.?)?)?"
    r" *(?:[Zz]|UTC|GMT)?([+-]\d{2}(?::?\d{2})?)?$"
)
WEEKDAY = r"^(?:(?i:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? +)?"
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# groups: the three parts of the date in the order written, then hour, minute, second, fraction, half of the day, offset
FORMS = {
    "ymd": WEEKDAY + r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})" + CLOCK,
    "???": WEEKDAY + r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})" + CLOCK,
    "dmy": WEEKDAY + r"(\d{1,2})[- ]([A-Za-z]{3,9})\.?[-, ]+(\d{4})" + CLOCK,
    "mdy": WEEKDAY + r"([A-Za-z]{3,9})\.? +(\d{1,2}),? +(\d{4})" + CLOCK,
}
ORDERS = {"dmy": "day", "mdy": "month"}
USUAL = {  # Polars reads these ten times faster, where all rows have the length of the first
    r"\d{4}-\d\d-\d\d": "%Y-%m-%d",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d": "%Y-%m-%d %H:%M:%S",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d": "%Y-%m-%dT%H:%M:%S",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ": "%Y-%m-%dT%H:%M:%SZ",
}
ZONE = r"(?:[Zz]|UTC|GMT|:\d{2}[^-]*[+-]\d{2}(?::?\d{2})?)$"
EXPECTED = (
    "a number, or a date and time such as 2020-07-05 12:30:00 (data.time_format names others, such as '%d/%m/%y')"
)


class Times(NamedTuple):
    """A column of times."""

    value: np.ndarray  # `(N,)` int64, milliseconds since the epoch, or what orders the rows where there is no clock
    nanos: np.ndarray | None  # `(N,)` int64, nanoseconds beyond the millisecond, where some row has such
    note: str  # what was understood


def times(where: Where, values: pl.Series, time_format: str = "") -> Times:
    """Read times.

    Numbers between 1990 and 2100 in one unit are seconds, milli-, micro- or nanoseconds since 1970; other whole numbers are kept
    and other numbers become ranks, for they order the rows alone. Dates and times without an offset are UTC. A `time_format`
    settles it: ``s``, ``ms``, ``us``, ``ns``, ``order``, or directives such as ``%d/%m/%Y %H:%M``.

    Raises:
        InputError: a time is missing or of another form, day and month (or two units) cannot be told apart, or some times have an
            offset and some none.
    """
    if time_format not in ("", ORDER, *UNITS) and "%" not in time_format:
        raise InputError(
            f"data.time_format is {time_format!r}; expected s, ms, us or ns (since 1970), order (of numbers), or directives such "
            "as %d/%m/%Y %H:%M"
        )
    kind = values.dtype
    if kind == pl.Date:
        values, kind = values.cast(pl.Datetime("ms")), pl.Datetime("ms")
    if isinstance(kind, pl.Datetime):
        require(where, values, values.is_not_null(), "a date and time")
        unit = kind.time_unit or "us"
        return _scaled(values.to_physical().to_numpy(), UNITS[unit], "dates and times, as the table stores them")
    if not (kind.is_numeric() or kind.base_type() in (pl.String, pl.Categorical, pl.Enum)):
        raise InputError(
            f"{place(where, 0)}, column {values.name!r}: its type is {kind}; expected numbers, dates or texts"
        )
    texts = values if kind.is_numeric() else values.cast(pl.String).str.strip_chars()
    if "%" in time_format:
        return _given(where, texts.cast(pl.String), time_format)
    whole = texts.cast(pl.Int64, strict=False)
    if whole.null_count() or (kind.is_float() and not (whole == texts).all()):
        numbers = texts.cast(pl.Float64, strict=False)
        if numbers.null_count() == len(numbers) and not kind.is_numeric() and not time_format:
            return _dates(where, texts)
        require(
            where,
            texts,
            numbers.is_finite(),
            "a finite number, as in the other rows" if not time_format else "a number",
        )
        return _numbers(where, texts, numbers.to_numpy(), time_format)
    return _numbers(where, texts, whole.to_numpy(), time_format)


def _numbers(where: Where, texts: pl.Series, number: np.ndarray, time_format: str) -> Times:
    plausible = {unit: (number >= FIRST * f) & (number <= LAST * f) for unit, f in UNITS.items()}
    if time_format in UNITS:
        unit: str | None = time_format
    elif time_format == ORDER:
        unit = None
    else:
        unit = next((unit for unit, fits in plausible.items() if fits.all()), None)
        if unit is None and np.logical_or.reduce(list(plausible.values())).all():
            unit = next(unit for unit, fits in plausible.items() if fits[0])
            expected = (
                f"{UNIT_NAMES[unit]} since 1970, as in the first row; or say what the numbers are with data.time_format"
            )
            require(where, texts, pl.Series(plausible[unit]), expected)
    if unit is not None:
        return _scaled(number, UNITS[unit], f"{UNIT_NAMES[unit]} since 1970")
    if time_format != ORDER and number.dtype.kind == "i":
        found = _compact(number)
        if found is not None:
            return found
    if number.dtype.kind == "f":
        number = pl.Series(number).rank("dense").cast(pl.Int64).to_numpy()
    return Times(number, None, "numbers that order the rows, no clock")


def _scaled(number: np.ndarray, per_second: int, note: str) -> Times:
    """Return numbers of a unit, so many in a second."""
    seconds = np.floor_divide(number, per_second)
    nanos = np.rint((number - seconds * per_second) * (10**9 // per_second))
    return _times(seconds.astype(np.int64), nanos.astype(np.int64), note)


def _times(seconds: np.ndarray, nanos: np.ndarray, note: str) -> Times:
    beyond = nanos % 10**6
    return Times(seconds * 1000 + nanos // 10**6, beyond if beyond.any() else None, note)


def _compact(number: np.ndarray) -> Times | None:
    """Return dates such as 20200705 or 20200705123000, None where some number is none."""
    day, clock = number, np.zeros_like(number)
    if number.min() > 10**13:
        day, clock = np.divmod(number, 10**6)
    days, good = _days(day // 10000, day // 100 % 100, day % 100)
    hour, minute, second = clock // 10000, clock // 100 % 100, clock % 100
    good &= (day >= 19900101) & (day <= 21001231) & (hour < 24) & (minute < 60) & (second < 60)
    seconds = days * 86400 + hour * 3600 + minute * 60 + second
    return _times(seconds, np.zeros_like(seconds), "dates such as 20200705") if good.all() else None


def _days(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return days since 1970 and whether there is such a day, of `(N,)` int64 each."""
    good = (year > 0) & (year < 10000) & (month >= 1) & (month <= 12)
    months = np.where(good, (year - 1970) * 12 + month - 1, 0)
    first, following = (
        m.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) for m in (months, months + 1)
    )
    return first + day - 1, good & (day >= 1) & (day <= following - first)


def _given(where: Where, texts: pl.Series, time_format: str) -> Times:
    moments = texts.str.to_datetime(time_format, time_unit="us", strict=False)
    require(where, texts, moments.is_not_null(), f"a date and time as data.time_format {time_format!r} says")
    return _scaled(moments.to_physical().to_numpy(), UNITS["us"], f"as {time_format} says")


def _dates(where: Where, texts: pl.Series) -> Times:
    first = str(texts[0] or "")
    for shape, directives in USUAL.items():
        if re.fullmatch(shape, first) and (texts.str.len_bytes() == len(first)).all():
            moments = texts.str.to_datetime(directives, time_unit="ms", strict=False)
            if not moments.null_count():
                return Times(moments.to_physical().to_numpy(), None, "dates and times, in UTC")
    order = _day_or_month_first(where, texts)
    seconds, nanos = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts), dtype=np.int64)
    good = np.zeros(len(texts), dtype=bool)
    for start in range(0, len(texts), BATCH):
        part = slice(start, start + BATCH)
        for form, pattern in FORMS.items():
            left = np.flatnonzero(~good[part])
            if len(left):
                found = _taken_apart(texts[part].gather(left), pattern, form.replace("???", order))
                seconds[part][left], nanos[part][left], good[part][left] = found
    require(where, texts, pl.Series(good), EXPECTED)
    zoned = texts.str.contains(ZONE)
    if zoned.any():
        expected = "an offset from UTC" if zoned[0] else "no offset"
        require(
            where, texts, zoned if zoned[0] else ~zoned, f"{expected}, as in the first row (times without one are UTC)"
        )
    return _times(seconds, nanos, "dates and times, in UTC" + (f", {ORDERS[order]} first" if order in ORDERS else ""))


def _day_or_month_first(where: Where, texts: pl.Series) -> str:
    """Return the order of dates such as 12/01/2010, by a number above 12 in any row; ``ymd`` where there is no such date."""
    parts = [texts.str.extract(FORMS["???"], group).cast(pl.Int64, strict=False) for group in (1, 2)]
    first, second = (part.to_numpy() if part.null_count() == 0 else part.fill_null(0).to_numpy() for part in parts)
    unlike = np.flatnonzero(first != second)
    if not first.any():
        return "ymd"
    day_first, month_first = np.flatnonzero(first > 12), np.flatnonzero(second > 12)
    if len(day_first) and len(month_first):
        row = max(day_first[0], month_first[0])
        other = min(day_first[0], month_first[0])
        raise InputError(
            f"{place(where, int(row))}, column {texts.name!r}: {texts[int(row)]!r} has day and month the other way round than "
            f"{texts[int(other)]!r} above; write dates as 2020-07-05"
        )
    if len(unlike) and not len(day_first) and not len(month_first):
        row = int(unlike[0])
        raise InputError(
            f"{place(where, row)}, column {texts.name!r}: {texts[row]!r} may be month or day first, and no row of the column "
            "tells; say which with data.time_format (--data.time-format '%d/%m/%Y' or '%m/%d/%Y', with ' %H:%M' or the like for "
            "the time)"
        )
    return "mdy" if len(month_first) else "dmy"


def _taken_apart(texts: pl.Series, pattern: str, order: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return seconds since 1970, nanoseconds beyond, and whether a text is of the form, of `(N,)` texts."""
    groups = [texts.str.extract(pattern, number) for number in range(1, 10)]
    named = dict(zip(order, groups[:3], strict=True))
    name = named["m"].str.to_lowercase().str.slice(0, 3)
    numbered = name.replace(MONTHS, [str(number) for number in range(1, 13)])
    year, month, day, hour, minute, second = (
        column.cast(pl.Int64, strict=False).fill_null(0).to_numpy()
        for column in (named["y"], numbered, named["d"], *groups[3:6])
    )
    days, good = _days(year, month, day)
    half = groups[7].str.to_lowercase().fill_null("").to_numpy()
    good &= (hour < 24) & (minute < 60) & (second < 61) & ((half == "") | ((hour >= 1) & (hour <= 12)))
    hour = np.where(half == "", hour, hour % 12 + 12 * (half == "p"))
    nanos = groups[6].str.pad_end(9, "0").cast(pl.Int64, strict=False).fill_null(0).to_numpy()
    sign = groups[8].fill_null("+").str.starts_with("-").to_numpy()
    offset = [
        groups[8].str.slice(start).str.extract(r"(\d{2})").cast(pl.Int64).fill_null(0).to_numpy() for start in (0, 3)
    ]
    seconds = days * 86400 + hour * 3600 + minute * 60 + second
    return seconds - np.where(sign, -1, 1) * (offset[0] * 3600 + offset[1] * 60), nanos, good
