"""Bring-your-own logs: any columns, any ids, and every defect named."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsrm_jax.data.own import load_own
from dsrm_jax.errors import InputError

CONFIG = {"time_column": "when", "test_fraction": 0.5}
ROWS = {
    "user_id": [2, 1, 2, 1, 2, 2],
    "item_id": [30, 10, 10, 20, 20, 40],
    "click": [1, 0, 0, 1, 1, 1],
    "when": [400, 50, 100, 60, 300, 200],
    "note": ["a,b", "", "c", "d", "e", "f"],
}
TRAIN = [(1, 10, False), (2, 10, False), (2, 40, True)]
TEST = [(1, 20, True), (2, 20, True), (2, 30, True)]


def write(folder, columns, name="log.csv"):
    frame = pl.DataFrame(columns)
    path = folder / name
    frame.write_parquet(path) if name.endswith("parquet") else frame.write_csv(path)
    return path


def as_rows(log, part):
    ids = zip(log.user_ids[part.user].tolist(), log.item_ids[part.item].tolist(), part.click.tolist(), strict=True)
    return list(ids)


def assert_split(log, key=int):
    assert as_rows(log, log.train) == [(key(user), key(item), click) for user, item, click in TRAIN]
    assert as_rows(log, log.test) == [(key(user), key(item), click) for user, item, click in TEST]


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_each_users_latest_rows_are_held_out(name, tmp_path):
    log = load_own(write(tmp_path, ROWS, name), **CONFIG)
    assert_split(log)
    assert log.train.time.tolist() == [50, 100, 200]
    assert log.item_ids[log.catalogue].tolist() == [20, 30]
    assert log.categories.shape == (4, 0)


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_string_ids_stay_strings(name, tmp_path):
    columns = ROWS | {"user_id": [f"u{u}" for u in ROWS["user_id"]], "item_id": [f"ä{i}" for i in ROWS["item_id"]]}
    log = load_own(write(tmp_path, columns, name), **CONFIG)
    assert log.user_ids.tolist() == ["u1", "u2"]
    assert log.item_ids.tolist() == ["ä10", "ä20", "ä30", "ä40"]
    assert [user for user, _, _ in as_rows(log, log.train)] == ["u1", "u2", "u2"]


def test_ids_that_differ_in_leading_zeros_stay_apart(tmp_path):
    columns = ROWS | {"item_id": ["7", "07", "8", "9", "10", "11"]}
    log = load_own(write(tmp_path, columns), **CONFIG)
    assert log.item_ids.tolist() == ["07", "10", "11", "7", "8", "9"]


def test_columns_may_have_any_names(tmp_path):
    renamed = {"who": ROWS["user_id"], "what": ROWS["item_id"], "liked it": ROWS["click"], "when": ROWS["when"]}
    config = {
        "user_column": "who",
        "item_column": "what",
        "click_column": "liked it",
        "time_column": "when",
        "test_fraction": 0.5,
    }
    assert_split(load_own(write(tmp_path, renamed), **config))


def test_without_times_the_files_order_counts(tmp_path):
    order = np.argsort(ROWS["when"])
    columns = {name: [ROWS[name][row] for row in order] for name in ("user_id", "item_id", "click")}
    assert_split(load_own(write(tmp_path, columns), test_fraction=0.5))


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
@pytest.mark.parametrize("kind", ["datetime", "date", "fraction", "exponent"])
def test_times_may_be_dates_or_any_number(name, kind, tmp_path):
    start = datetime(2020, 7, 5)
    make = {
        "datetime": lambda time: start + timedelta(milliseconds=time),
        "date": lambda time: (start + timedelta(days=time)).date(),
        "fraction": lambda time: time / 1000,
        "exponent": lambda time: time * 1e30,
    }[kind]
    log = load_own(write(tmp_path, ROWS | {"when": [make(time) for time in ROWS["when"]]}, name), **CONFIG)
    assert_split(log)
    if kind == "datetime":
        assert log.train.time[0] == 1593907200000 + 50


@pytest.mark.parametrize("values", ["true false", "True False", "1.0 0.0", "1 0", "yes No", "T f", "Y n"])
def test_clicks_may_be_words_or_numbers(values, tmp_path):
    yes, no = values.split()
    columns = ROWS | {"click": [yes if click else no for click in ROWS["click"]]}
    assert_split(load_own(write(tmp_path, columns), **CONFIG))


def test_graded_feedback_becomes_a_click_from_the_threshold_on(tmp_path):
    grades = [2.5, 0.0, 2.4, 3.0, 2.5, 2.6]
    config = {"time_column": "when", "test_fraction": 0.5, "click_from": 2.5}
    log = load_own(write(tmp_path, ROWS | {"click": grades}), **config)
    assert_split(log)
    assert log.test.feedback.tolist() == [3.0, 2.5, 2.5]


@pytest.mark.parametrize("value", ["-1", "-0.5", "nan", "inf", "-inf", "often", "", "1,5", "0x1"])
@pytest.mark.parametrize("graded", [False, True])
def test_bad_feedback_is_named_by_its_line(value, graded, tmp_path):
    feedback = ["1", "0", value, "1", "1", "0.25" if graded else "0"]
    path = write(tmp_path, ROWS | {"click": feedback})
    with pytest.raises(InputError, match="finite number that is not negative") as caught:
        load_own(path, **CONFIG)
    assert f"{path}, line 4, column 'click'" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, None])
def test_bad_feedback_in_parquet_is_named_by_its_row(value, tmp_path):
    path = write(tmp_path, ROWS | {"click": [1.0, 0.0, 1.0, value, 0.0, 1.0]}, "log.parquet")
    with pytest.raises(InputError, match="row 4, column 'click'"):
        load_own(path, **CONFIG)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("user_id", "", "expected an id"),
        ("item_id", "", "expected an id"),
        ("when", "noon", "a finite number"),
        ("when", "nan", "a finite number"),
        ("when", "", "a finite number"),
    ],
)
def test_missing_ids_and_bad_times_are_named_by_their_line(column, value, expected, tmp_path):
    values = [str(entry) for entry in ROWS[column]]
    values[4] = value
    with pytest.raises(InputError, match=expected) as caught:
        load_own(write(tmp_path, ROWS | {column: values}), **CONFIG)
    assert f"line 6, column '{column}'" in str(caught.value)


def test_times_that_are_no_times_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"line 2, column 'when': 'soon'.*date and time"):
        load_own(write(tmp_path, ROWS | {"when": ["soon", "later", "x", "y", "z", "w"]}), **CONFIG)
    dates = ["2020-07-05 10:00:00", "2020-07-06 10:00:00", "tomorrow", "2020-07-05", "2020-07-05", "2020-07-05"]
    with pytest.raises(InputError, match="line 4, column 'when': 'tomorrow'"):
        load_own(write(tmp_path, ROWS | {"when": dates}), **CONFIG)


@pytest.mark.parametrize(
    ("setting", "wrong", "near"),
    [("user_column", "userid", "user_id"), ("item_column", "item", "item_id"), ("click_column", "clicks", "click")],
)
def test_a_wrong_column_gets_the_nearest_name(setting, wrong, near, tmp_path):
    path = write(tmp_path, ROWS)
    with pytest.raises(InputError, match=f"data.{setting}.*'{wrong}'.*did you mean '{near}'") as caught:
        load_own(path, **{setting: wrong})
    assert str(path) in str(caught.value)


def test_a_file_without_a_header_is_told_so(tmp_path):
    (tmp_path / "log.csv").write_text("1,10,1\n1,11,0\n")
    with pytest.raises(InputError, match="the first line holds numbers, expected a header line"):
        load_own(tmp_path / "log.csv")


def test_columns_must_be_named_and_different(tmp_path):
    path = write(tmp_path, ROWS)
    with pytest.raises(InputError, match=r"data\.click_column is empty"):
        load_own(path, click_column="")
    with pytest.raises(InputError, match="expected different ones"):
        load_own(path, item_column="user_id")


def test_files_without_rows_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="file not found"):
        load_own(tmp_path / "absent.csv", **CONFIG)
    with pytest.raises(InputError, match="file not found"):
        load_own(tmp_path, **CONFIG)
    for name in ("empty.csv", "empty.parquet"):
        (tmp_path / name).write_text("")
        with pytest.raises(InputError, match=name):
            load_own(tmp_path / name, **CONFIG)
    for name in ("header.csv", "header.parquet"):
        path = write(tmp_path, {column: [] for column in ROWS}, name)
        with pytest.raises(InputError, match="no rows"):
            load_own(path, **CONFIG)


@pytest.mark.parametrize(("click_from", "share"), [(0.0, "every row"), (1.5, "no row")])
def test_a_threshold_that_separates_nothing_is_refused(click_from, share, tmp_path):
    config = {"time_column": "when", "click_from": click_from}
    with pytest.raises(InputError, match=f"click_from={click_from:g}, {share}.*from 0 to 1"):
        load_own(write(tmp_path, ROWS), **config)


def test_a_log_in_which_nobody_returns_cannot_be_split(tmp_path):
    with pytest.raises(InputError, match="holds out no row"):
        load_own(write(tmp_path, ROWS | {"user_id": [1, 2, 3, 4, 5, 6]}), **CONFIG)


row = st.tuples(
    st.integers(-3, 3), st.integers(0, 4), st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.integers(-5, 5)
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(row, min_size=2, max_size=40), st.floats(0.05, 0.95))
def test_any_log_comes_back_row_by_row(tmp_path, rows, fraction):
    columns = dict(zip(("user_id", "item_id", "click", "when"), map(list, zip(*rows, strict=True)), strict=True))
    path = write(tmp_path, columns)
    config = {"time_column": "when", "test_fraction": fraction}
    train, test = [], []
    for user in sorted({row[0] for row in rows}):
        own = sorted((row for row in rows if row[0] == user), key=lambda row: row[3])
        held = min(int(np.floor(fraction * len(own) + 0.5)), len(own) - 1)
        train += own[: len(own) - held]
        test += own[len(own) - held :]
    clicks = [row[2] >= 1 for row in rows]
    learnt = [row[2] >= 1 for row in train]
    if not test or all(clicks) or not any(clicks) or all(learnt) or not any(learnt):
        with pytest.raises(InputError):
            load_own(path, **config)
        return
    log = load_own(path, **config)
    for expected, part in ((train, log.train), (test, log.test)):
        found = zip(
            log.user_ids[part.user].tolist(),
            log.item_ids[part.item].tolist(),
            part.feedback.tolist(),
            part.time.tolist(),
            strict=True,
        )
        assert list(found) == expected
        np.testing.assert_array_equal(part.click, part.feedback >= 1)
