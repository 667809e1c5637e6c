"""Categories, features and random exposure that a user's own log brings."""

import tracemalloc

import numpy as np
import polars as pl
import pytest

from dsrm_jax.data.sources import load_log
from dsrm_jax.data.statistics import describe
from dsrm_jax.errors import InputError

LOG = {
    "user_id": [1, 1, 1, 2, 2, 2],
    "item_id": [10, 11, 12, 10, 12, 10],
    "click": [1, 0, 1, 0, 1, 1],
    "tags": ["a|b", "b", None, "a", " c | a ", "a|b"],
    "maker": ["x", "y", None, "x", "z", None],
    "random": [0, 0, 1, 0, 1, 1],
}
ITEMS = {
    "item_id": ["10", "12", "99"],
    "tags": [["a", "b"], [], ["d"]],
    "price": [5.0, None, 1.0],
    "maker": ["x", "", "w"],
}


def load(**options):
    return load_log(LOG, **{"test_fraction": 0.3} | options)


def categories_of(log):
    names = np.array(log.category_names)
    return {int(item): names[row].tolist() for item, row in zip(log.item_ids, log.categories, strict=True)}


def test_categories_and_features_stand_in_the_log_itself():
    log = load(category_column="tags", feature_columns="maker")
    assert categories_of(log) == {10: ["a", "b"], 11: ["b"], 12: ["a", "c"]}
    assert log.item_features["maker"].tolist() == [0, 1, 2]
    with pytest.raises(
        InputError, match="row 6, column 'random': '1' is not allowed; expected the value that the item"
    ):
        load(feature_columns="random")  # an item cannot have two values of one feature


@pytest.mark.parametrize("name", ["items.parquet", "items.csv"])
def test_categories_and_features_stand_in_a_table_of_items(name, tmp_path):
    frame, path = pl.DataFrame(ITEMS), tmp_path / name
    if name.endswith("csv"):
        frame.with_columns(pl.col("tags").list.join("|")).write_csv(path)
    else:
        frame.write_parquet(path)
    log = load(item_path=str(path), category_column="tags", feature_columns=" price, maker")
    assert categories_of(log) == {10: ["a", "b"], 11: [], 12: []}
    assert {key: codes.tolist() for key, codes in log.item_features.items()} == {
        "price": [0, -1, -1],
        "maker": [0, -1, -1],
    }
    assert f"1 of 3 items are not in {path}: no categories or features" in log.notes


def test_what_is_asked_of_a_table_of_items_must_be_there(tmp_path):
    path = str(tmp_path / "items.csv")
    pl.DataFrame({"item_id": [10], "tags": ["a"]}).write_csv(path)
    for options, message in (
        ({"item_path": path}, "neither data.category_column nor data.feature_columns names a column"),
        ({"item_path": path, "feature_columns": "tag"}, r"data\.feature_columns\[0\].*did you mean 'tags'"),
        ({"item_path": path, "category_column": "tags", "item_column": "item"}, "unknown column 'item'"),
        ({"item_path": f"{path}.gz", "category_column": "tags"}, "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            load(**options)


def test_rows_shown_at_random_are_held_out():
    log = load(random_column="random", test_fraction=0.9)
    assert (len(log.train), len(log.test)) == (3, 3)
    assert log.item_ids[log.test.item].tolist() == [12, 12, 10]
    assert "held out: the rows that random marks as shown at random" in log.notes
    assert "columns not read: tags, maker" in log.notes
    assert "columns not read: random" in load(category_column="tags", feature_columns="maker").notes
    with pytest.raises(
        InputError, match=r"no row is marked by data\.random_column='random'; expected rows of both kinds"
    ):
        load_log(LOG | {"random": [0] * 6}, random_column="random")
    with pytest.raises(InputError, match="row 1, column 'random': '2' is not allowed; expected 0 or 1"):
        load_log(LOG | {"random": [2] * 6}, random_column="random")


def late(share, users=40, rows=25):
    """Users who click only in the last share of their time, as in issue 20."""
    time = np.tile(np.arange(rows), users)
    return {
        "user_id": np.repeat(np.arange(users), rows),
        "item_id": time * 7 % 30,
        "click": time >= rows * (1 - share),
        "time": time,
    }


def test_a_class_that_the_training_part_lacks_is_refused():
    with pytest.raises(
        InputError, match=r"no row of the training part is a click.*each user's latest 20 %.*check the times"
    ):
        load_log(late(0.2))
    with pytest.raises(InputError, match="every row of the training part is a click"):
        load_log(late(0.2) | {"click": ~late(0.2)["click"]})
    assert load_log(late(0.24)).train.click.sum() == 40
    log = load_log(late(0.24) | {"click": late(1.0)["time"] == 3})
    assert log.notes[-1] == "no row of the held-out part is a click: nothing can be ranked there"


def test_rows_of_one_millisecond_stay_in_their_order():
    time = 1_593_907_200_000_000 + np.array([900, 100, 500, 300])  # microseconds
    columns = {"user_id": [1] * 4, "item_id": [9, 1, 5, 3], "click": [1, 0, 0, 1], "time": time}
    log = load_log(columns, test_fraction=0.5)
    assert log.item_ids[log.train.item].tolist() == [1, 3]
    assert log.item_ids[log.test.item].tolist() == [5, 9]
    log = load_log(columns | {"random": [0, 1, 0, 0]}, random_column="random")
    assert log.item_ids[log.train.item].tolist() == [3, 5, 9]


def test_what_was_understood_and_dropped_is_told():
    columns = {name: values.tolist() for name, values in late(0.5).items()}
    columns["click"] = [time % 3 == 0 for time in columns["time"]]
    columns["user_id"][0], columns["item_id"][0] = 99, 77
    moments = [1_593_907_200 + 3600 * time for time in columns["time"]]
    facts = describe(load_log(columns | {"time": moments}, k_core=5))
    assert facts["notes"] == [
        "users (user_id): whole numbers",
        "items (item_id): whole numbers",
        "times (time): seconds since 1970",
        "1 of 1,000 rows dropped: users and items of fewer than k_core=5 rows",
    ]
    assert facts["span"] == {"first": "2020-07-05T00:00:00.000Z", "last": "2020-07-06T00:00:00.000Z"}
    assert (facts["rows"], facts["users"], facts["items"]) == (999, 40, 25)
    assert facts["click_rate"] == pytest.approx(359 / 999)
    curve = list(facts["popularity"]["curve"].values())
    assert curve == sorted(curve)
    assert curve[3] == facts["popularity"]["top_share"]
    assert describe(load_log(columns))["span"] is None


def test_one_long_id_costs_little(tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        f"u{user},{item},{item % 2}"
        for user, item in zip(rng.integers(0, 1000, 20_000), rng.integers(0, 500, 20_000), strict=True)
    ]
    lines += [f"{'x' * 1000},3,1"] * 2
    (tmp_path / "log.csv").write_text("user_id,item_id,click\n" + "\n".join(lines) + "\n")
    tracemalloc.start()
    log = load_log(tmp_path / "log.csv")
    peak = tracemalloc.get_traced_memory()[1]  # what NumPy holds; a text of this width a row took 80 MB
    tracemalloc.stop()
    assert len(log.user_ids[-1]) == 1000
    assert peak < 25e6
