"""Times of every usual form against Python's datetime; what has two meanings is asked for, never guessed."""

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.data.times import times
from dsrm_jax.errors import InputError

NOON = datetime(2020, 7, 5, 12, 30, tzinfo=UTC)


def read(values, time_format="", **kind):
    found = times("the table", pl.Series("time", values, **kind), time_format)
    nanos = np.zeros(len(values), dtype=np.int64) if found.nanos is None else found.nanos
    return (found.value.astype(object) * 10**6 + nanos).tolist()


def nanoseconds(*moments):
    return [(moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000 for moment in moments]


@pytest.mark.parametrize(
    "text",
    [
        "2020-07-05 12:30:00",
        "2020-07-05T12:30:00Z",
        "2020-07-05T12:30:00.000000000Z",
        "2020-07-05 12:30:00 UTC",
        "2020-07-05 12:30:00 GMT",
        "2020-07-05T14:30:00+02:00",
        "2020-07-05T08:00:00-0430",
        "2020-07-05 14:30+02",
        "2020/07/05 12:30",
        "2020.7.5 12:30:00,0",
        "  2020-07-05  12:30:00  ",
        "2020-7-5 12:30:00 PM",
        "2020-07-05 12:30pm",
        "5 Jul 2020 12:30:00",
        "05-JUL-2020 12:30:00 p.m.",
        "Sun, 05 Jul 2020 12:30:00 GMT",
        "July 5, 2020 12:30 PM",
        "Jul 5 2020 12:30",
    ],
)
def test_one_moment_in_many_forms(text):
    assert read([text, text]) == nanoseconds(NOON, NOON)


def test_the_half_of_the_day_and_the_offset_are_read():
    halves = [f"2020-07-05 {hour}:05 {half}" for half in ("AM", "PM") for hour in (12, 1, 2, 11)]
    assert read(halves) == nanoseconds(*(NOON.replace(hour=h, minute=5) for h in (0, 1, 2, 11, 12, 13, 14, 23)))
    offsets = ["2020-07-05T12:30+00:00", "2020-07-05T12:30+09:00", "2020-07-05T12:30-03:30", "2020-07-05 12:30Z"]
    assert read(offsets) == nanoseconds(*(NOON - timedelta(hours=h) for h in (0, 9, -3.5, 0)))


@pytest.mark.parametrize("between", ["/", "-", "."])
def test_one_row_tells_day_from_month(between):
    days = [date(2010, 12, 1), date(2011, 2, 13), date(2011, 3, 4)]
    expected = nanoseconds(*(datetime(d.year, d.month, d.day, tzinfo=UTC) for d in days))
    assert read([d.strftime(f"%d{between}%m{between}%Y") for d in days]) == expected
    assert read([d.strftime(f"%m{between}%d{between}%Y") for d in days]) == expected
    assert read(["05/05/2020", "7/7/2020"]) == nanoseconds(*(datetime(2020, m, m, tzinfo=UTC) for m in (5, 7)))


def test_day_and_month_that_no_row_tells_are_asked_for():
    dates = ["12/01/2010", "01/02/2011", "03/04/2011", "04/03/2011"]
    with pytest.raises(
        InputError, match=r"row 1, column 'time': '12/01/2010' may be month or day first.*data\.time_format"
    ):
        read(dates)
    day_first = [datetime(2010, 1, 12), datetime(2011, 2, 1), datetime(2011, 4, 3), datetime(2011, 3, 4)]
    month_first = [datetime(2010, 12, 1), datetime(2011, 1, 2), datetime(2011, 3, 4), datetime(2011, 4, 3)]
    for time_format, expected in (("%d/%m/%Y", day_first), ("%m/%d/%Y", month_first)):
        assert read(dates, time_format) == nanoseconds(*(moment.replace(tzinfo=UTC) for moment in expected))
    with pytest.raises(
        InputError, match=r"row 2, column 'time': '12/31/2010' has day and month the other way round than '31/12/2010'"
    ):
        read(["31/12/2010", "12/31/2010"])


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_numbers_since_1970_are_recognised_by_their_size(unit, scale):
    numbers = [1_593_907_200 * scale + 3, 631_152_000 * scale, 4_102_444_800 * scale, 1_593_907_200 * scale + 1]
    expected = [number * (10**9 // scale) for number in numbers]
    for values in (numbers, [str(number) for number in numbers], np.array(numbers, dtype=np.uint64)):
        assert read(values) == expected
    assert read([5, 3, 7], unit) == [n * (10**9 // scale) for n in (5, 3, 7)]  # whatever their size, where it is said
    assert read([-1], unit) == [-(10**9 // scale)]


def test_fractions_of_seconds_keep_their_order():
    values = [1593907200.5, 1593907200.25, 1593907201.0, 1593907200.250001]
    found = times("the table", pl.Series("time", values))
    assert found.value.tolist() == [1593907200500, 1593907200250, 1593907201000, 1593907200250]
    assert found.nanos is not None
    assert found.nanos[3] > found.nanos[1]


def test_other_numbers_order_the_rows_alone():
    assert times("t", pl.Series("time", [7, -3, 5])).value.tolist() == [7, -3, 5]
    assert times("t", pl.Series("time", ["0.5", "-1e30", "2"])).value.tolist() == [2, 1, 3]
    assert times("t", pl.Series("time", [1593907200, 1593907201]), "order").value.tolist() == [1593907200, 1593907201]


def test_compact_dates_are_dates():
    assert read([20200705, 20200801]) == nanoseconds(*(datetime(2020, m, d, tzinfo=UTC) for m, d in ((7, 5), (8, 1))))
    assert read(["20200705123000"]) == nanoseconds(NOON)
    assert times("t", pl.Series("time", [20200705, 20201301])).value.tolist() == [20200705, 20201301]


def test_stored_dates_keep_their_moment():
    berlin = pl.Series("time", [datetime(2020, 7, 5, 14, 30)]).dt.replace_time_zone("Europe/Berlin")
    assert times("t", berlin).value.tolist() == [n // 10**6 for n in nanoseconds(NOON)]
    assert read([date(2020, 7, 5)]) == nanoseconds(datetime(2020, 7, 5, tzinfo=UTC))
    assert read([1593952200_000_000_123], dtype=pl.Datetime("ns")) == [1593952200_000_000_123]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ["2020-02-29", "2020-02-30"],
            "row 2, column 'time': '2020-02-30' is not allowed; expected a number, or a date and time",
        ),
        (["2020-07-05 25:00"], "expected a number, or a date"),
        (["2020-07-05 13:00 PM"], "expected a number, or a date"),
        (["05/07/20"], r"data\.time_format"),
        (["2020-07-05", "20-07-05"], "row 2, column 'time': '20-07-05' is not allowed"),
        (["soon"], "'soon' is not allowed"),
        (["2020-07-05 12:00", "2020-07-05 12:00Z"], "row 2.*expected no offset, as in the first row"),
        (["2020-07-05 12:00Z", "2020-07-05 12:00"], "row 2.*expected an offset from UTC, as in the first row"),
        (
            [1593907200, 1593907201000],
            "row 2.*'?1593907201000'? is not allowed; expected seconds since 1970, as in the first row",
        ),
        (["1593907200", "2020-07-05"], "row 2.*expected a finite number, as in the other rows"),
        (["2020-07-05", None], "row 2, column 'time': the value is missing"),
        ([1.5, float("nan")], "row 2.*expected a finite number"),
        ([True, False], "its type is Boolean; expected numbers, dates or texts"),
        ([[1], [2]], r"its type is List\(Int64\)"),
    ],
)
def test_what_is_no_time_is_named(values, message):
    with pytest.raises(InputError, match=message):
        read(values)


@pytest.mark.parametrize("time_format", ["dd/mm/yyyy", "iso", "min"])
def test_a_format_that_is_none_is_refused(time_format):
    with pytest.raises(InputError, match=r"data\.time_format is .*expected s, ms, us or ns"):
        read(["2020-07-05"], time_format)


def test_a_format_that_does_not_fit_names_the_row():
    with pytest.raises(
        InputError, match="row 2, column 'time': '2020-07-05' is not allowed; expected a date and time as data"
    ):
        read(["05.07.20 12:30", "2020-07-05"], "%d.%m.%y %H:%M")
    assert read(["05.07.20 12:30"], "%d.%m.%y %H:%M") == nanoseconds(NOON)


moments = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@settings(max_examples=100, deadline=None)
@given(st.lists(moments, min_size=1, max_size=6), st.data())
def test_any_moments_come_back_as_python_wrote_them(found, data):
    with_zone = data.draw(st.booleans())
    aware = [m.replace(tzinfo=data.draw(zones) if with_zone else UTC) for m in found]
    between = data.draw(st.sampled_from("T "))
    texts = [m.isoformat(between) if with_zone else m.replace(tzinfo=None).isoformat(between) for m in aware]
    assert read(texts) == nanoseconds(*aware)
    usual = data.draw(st.sampled_from(["%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]))
    coarse = [datetime.strptime(m.strftime(usual), usual).replace(tzinfo=UTC) for m in found]
    assert read([m.strftime(usual) for m in coarse]) == nanoseconds(*coarse)
    clock = [m.strftime("%b %d, %Y %I:%M:%S.%f %p") for m in found]
    assert read(clock) == nanoseconds(*(m.replace(tzinfo=UTC) for m in found))
