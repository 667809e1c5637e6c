"""Ids and feedback of every type: the same people and items come out, or a sentence."""

import uuid
from decimal import Decimal

import numpy as np
import polars as pl
import pytest

from dsrm_jax.data.columns import feedback, flags, ids
from dsrm_jax.errors import InputError


def read(values, **kind):
    found = ids("the table", pl.Series("user_id", values, **kind))
    known = found.known(np.arange(len(found.texts)) if found.texts is not None else found.raw)
    return known.tolist() if found.texts is None else [known[code] for code in found.raw]


UUIDS = [uuid.UUID(int=(1 << 127) + n) for n in (5, 3, 5)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 1, 3], [3, 1, 3]),
        (["3", "1", "-3"], [3, 1, -3]),
        ([3.0, 1.0], [3, 1]),
        (["3.0", "1.00", "2"], [3, 1, 2]),
        ([Decimal("3"), Decimal("1")], [3, 1]),
        (["007", "7"], ["007", "7"]),
        (["-0", "0"], ["-0", "0"]),
        ([1.5, 2.0], ["1.5", "2.0"]),
        (["u1", " u1", "u1 ", "\tu2"], ["u1", "u1", "u1", "u2"]),
        ([" 7", "7", "8 "], [7, 7, 8]),
        ([str(2**63), "1"], [str(2**63), "1"]),
        ([True, False], ["true", "false"]),
        ([b"u1", b"u2"], ["u1", "u2"]),
        ([b"12", b"7"], [12, 7]),
        ([u.bytes for u in UUIDS], [str(u) for u in UUIDS]),
        ([b"\xff\x00", b"\x01"], ["ff00", "01"]),
        ([uuid.UUID(int=n).bytes for n in (9, 32)], [str(uuid.UUID(int=n)) for n in (9, 32)]),  # UTF-8 by accident
        (["nancy", "Nullarbor", "no one", "na", "nil"], ["nancy", "Nullarbor", "no one", "na", "nil"]),
    ],
)
def test_ids_are_what_they_mean(values, expected):
    assert read(values) == expected


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["a", "b"])])
def test_levels_are_texts(kind):
    assert read(["b", "a", "b"], dtype=kind) == ["b", "a", "b"]


def test_large_numbers_without_sign_stay_exact():
    assert read([2**64 - 1, 1], dtype=pl.UInt64) == [str(2**64 - 1), "1"]


@pytest.mark.parametrize("word", ["nan", "NaN", "NULL", "null", "None", "NA", "N/A", "<NA>", "NaT", "\\N", "", "  "])
def test_words_for_a_missing_value_are_no_ids(word):
    with pytest.raises(InputError, match=r"row 2, column 'user_id': .* is not allowed; expected an id"):
        read(["u1", word])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, float("nan"), 1.0], "row 2, column 'user_id': the value is missing; expected an id"),
        ([1, None], "row 2, column 'user_id': the value is missing"),
        ([b"a", None], "row 2, column 'user_id': the value is missing"),
        ([1.0, float("inf")], "row 2, column 'user_id': inf is not allowed"),
        ([1.0, 2.0**53], "row 2.*holds none exactly from 9,007,199,254,740,992 on"),
        ([[1], [2]], r"row 1, column 'user_id': its type is List\(Int64\); expected one id a row"),
        ([{"a": 1}], "its type is Struct"),
    ],
)
def test_what_is_no_id_is_named(values, message):
    with pytest.raises(InputError, match=message):
        read(values)


def test_one_long_id_costs_its_length_once():
    column = pl.Series("user_id", [f"u{n % 1000}" for n in range(100_000)] + ["x" * 100_000])
    found = ids("the table", column)
    assert found.raw.nbytes == 8 * len(column)
    with pytest.raises(InputError, match=r"the id 'xxx.*has 100,000 characters, too many beside 6,000 ids"):
        found.known(np.append(np.zeros(5_999, dtype=np.int64), found.raw[-1]))


def test_what_was_changed_is_noted():
    assert ids("t", pl.Series("u", ["u1", "u1 ", " u2"])).note == "texts; spaces removed from 2 of them, such as ' u2'"
    assert ids("t", pl.Series("u", ["7.0", "8"])).note == "whole numbers; such as 7.0 read as 7"


def test_feedback_is_numbers_or_words():
    texts = pl.Series("click", ["1", "0.5", " 2 ", "TRUE", "f", "Yes", "n"])
    assert feedback("t", texts).tolist() == [1, 0.5, 2, 1, 0, 1, 0]
    assert feedback("t", pl.Series("click", [True, False])).tolist() == [1, 0]
    assert feedback("t", pl.Series("click", [Decimal("4.5")])).tolist() == [4.5]
    assert flags("t", pl.Series("random", ["yes", "0"])).tolist() == [True, False]
    with pytest.raises(InputError, match=r"row 2, column 'random': '0\.5' is not allowed; expected 0 or 1"):
        flags("t", pl.Series("random", ["1", "0.5"]))
    for column in (pl.Series("click", [[1]]), pl.Series("click", [b"1"])):
        with pytest.raises(InputError, match=r"its type is .*; expected 0, 1 or a number"):
            feedback("t", column)
