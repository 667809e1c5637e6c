"""Arrays, frames and a user's own function give the log that the same rows give as a CSV file."""

import itertools
from collections import UserDict
from datetime import datetime

import numpy as np
import polars as pl
import pytest

from dsrm_jax.data.log import InteractionLog
from dsrm_jax.data.sources import check_source, load_log
from dsrm_jax.errors import InputError

COUNTER = itertools.count()
RNG = np.random.default_rng(0)
ARRAYS = {
    "user_id": RNG.integers(-3, 9, 200),
    "item_id": RNG.integers(0, 30, 200),
    "click": RNG.random(200).astype(np.float32).round(3),
    "time": RNG.permutation(200) * 1_000_000_007,
    "other": np.zeros((200, 2)),
}
COLUMNS = {name: values for name, values in ARRAYS.items() if name != "other"}
KINDS = {
    "numbers": {},
    "text ids": {
        "user_id": np.array([f"u{u}" for u in ARRAYS["user_id"]]),
        "item_id": np.array([f"0{i}" for i in ARRAYS["item_id"]], dtype=object),
    },
    "truth values": {"click": ARRAYS["click"] > 0.5},
    "fractions of seconds": {"time": ARRAYS["time"] / 1e9},
    "moments": {"time": np.datetime64("2020-07-05", "ms") + ARRAYS["time"] // 1_000_000},
    "small integers": {"user_id": ARRAYS["user_id"].astype(np.int8), "click": (ARRAYS["click"] > 0.5).astype(np.uint8)},
}


class Frame:
    """A frame of another library: names, and columns by name; as pandas, it has missing values of its own."""

    def __init__(self, columns):
        self.values, self.columns = columns, list(columns)

    def __getitem__(self, name):
        return self.values[name]


def assert_same(one: InteractionLog, other: InteractionLog) -> None:
    assert one.digest == other.digest
    for name in ("user_ids", "item_ids", "catalogue", "categories"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for a, b in ((one.train, other.train), (one.test, other.test)):
        for column in ("user", "item", "click", "time", "feedback"):
            np.testing.assert_array_equal(getattr(a, column), getattr(b, column))
            assert getattr(a, column).dtype == getattr(b, column).dtype


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [dict, UserDict, Frame, pl.DataFrame])
def test_rows_in_memory_give_the_log_of_the_same_file(kind, make, tmp_path):
    columns = COLUMNS | KINDS[kind]
    pl.DataFrame(columns).write_csv(tmp_path / "rows.csv")
    options = {"click_from": 0.4, "test_fraction": 0.3, "k_core": 2}
    expected = load_log(tmp_path / "rows.csv", **options)
    assert len(expected.test) > 20
    assert_same(load_log(make(columns), **options), expected)
    assert_same(load_log(str(tmp_path / "rows.csv"), **options), expected)
    assert_same(load_log("log", path=tmp_path / "rows.csv", **options), expected)


def test_pandas_frames_are_read():
    pandas = pytest.importorskip("pandas")
    options = {"click_from": 0.4}
    assert_same(load_log(pandas.DataFrame(COLUMNS), **options), load_log(COLUMNS, **options))


def test_lists_and_other_names_and_no_time():
    renamed = {"who": COLUMNS["user_id"].tolist(), "what": COLUMNS["item_id"], "liked": COLUMNS["click"]}
    log = load_log(renamed, user_column="who", item_column="what", click_column="liked", click_from=0.4)
    in_order = load_log(COLUMNS | {"time": np.arange(200)}, click_from=0.4)
    assert_same(log, in_order)
    assert load_log(log) is log


def test_times_of_python_are_read():
    moments = [datetime(2020, 7, 5, second=i % 60, minute=i // 60) for i in range(200)]
    one = load_log(COLUMNS | {"time": moments}, click_from=0.4)
    assert_same(one, load_log(COLUMNS | {"time": np.array(moments, "datetime64[ms]")}, click_from=0.4))


def with_first(name, value):
    values = COLUMNS[name].tolist()
    return COLUMNS | {name: [value, *values[1:]]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (with_first("user_id", float("nan")), "row 1, column 'user_id'.*expected an id"),
        (with_first("item_id", None), "row 1, column 'item_id'.*expected an id"),
        (COLUMNS | {"user_id": np.array(["", *"a" * 199])}, "row 1, column 'user_id'.*expected an id"),
        (with_first("click", float("nan")), "row 1, column 'click'.*finite number"),
        (with_first("click", -1.0), "row 1, column 'click'.*finite number"),
        (with_first("click", "much"), "row 1, column 'click'.*'much'"),
        (with_first("time", None), "row 1, column 'time'"),
        (COLUMNS | {"click": COLUMNS["click"][1:]}, "differ in length: user_id 200, item_id 200, click 199"),
        (COLUMNS | {"click": ARRAYS["other"]}, r"column 'click': its shape is \(200, 2\)"),
        ({name: values[:0] for name, values in COLUMNS.items()}, "no rows"),
        ({"user": [1], "item_id": [1], "click": [1]}, "did you mean 'user'"),
        (COLUMNS | {"click": np.ones(200)}, "every row is a click"),
        (3, "cannot make a log of a int"),
        ([1, 2], "cannot make a log of a list"),
    ],
)
def test_rows_that_cannot_be_used_are_named(rows, message):
    with pytest.raises(InputError, match=message) as caught:
        load_log(rows, click_from=0.4)
    assert "\n" not in str(caught.value)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a module with a function that makes a log; return `module:load`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str) -> str:
        name = f"own_logs_{next(COUNTER)}"
        (tmp_path / f"{name}.py").write_text(text)
        return f"{name}:load"

    return write


ROWS = "{'user_id': [1, 1, 2, 2], 'item_id': [5, 6, 5, 6], 'rating': [1, 2, 3, 4][::step]}"


def test_a_function_of_ones_own_is_given_what_it_asks_for(own):
    rows = {"user_id": [1, 1, 2, 2], "item_id": [5, 6, 5, 6], "rating": [4, 3, 2, 1]}
    options = {"click_column": "rating", "click_from": 3.0, "test_fraction": 0.5}
    name = own(f"def load(*, path, seed):\n    step = int(path)\n    assert seed == 4\n    return {ROWS}\n")
    check_source(name)
    assert_same(load_log(name, path="-1", seed=4, **options), load_log(rows, **options))


def test_a_function_of_ones_own_may_make_the_log_itself(own):
    name = own(
        "import dsrm_jax as dj\nfrom dataclasses import replace\n"
        "def load(click_from, **others):\n    step = 1\n"
        f"    return replace(dj.load_log({ROWS}, click_column='rating', click_from=click_from, test_fraction=0.5), name='mine')\n"
    )
    log = load_log(name, click_from=2.0)
    assert log.name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def load():\n    return 3\n", "cannot make a log of a int"),
        ("def load():\n    return 'kuairec'\n", "returned a text, expected a log"),
        ("def load(width):\n    return 3\n", "needs 'width', which is not offered; offered are path, seed"),
        ("def load():\n    raise OSError('no disk')\n", "load failed: OSError: no disk"),
        ("def lod():\n    return 3\n", "did you mean 'lod'"),
    ],
)
def test_a_function_that_makes_no_log_is_refused(own, text, message):
    with pytest.raises(InputError, match=message):
        load_log(own(text))


def test_names_are_checked_without_reading():
    check_source("kuairec")
    with pytest.raises(InputError, match="did you mean 'kuairand'"):
        check_source("kuairamd")
    with pytest.raises(InputError, match="no module absent_lab"):
        check_source("absent_lab.logs:load")
