import csv
from argparse import Namespace

import numpy as np
import pytest

from dsrm_jax.data.kuairec import load_kuairec, valid_play
from dsrm_jax.errors import InputError
from experiments.bench import big_matrix

HEADER = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio"


def row(user, video, play, duration, timestamp=1593878903.438):
    return f"{user},{video},{play},{duration},,,{timestamp},{play / duration}"


def write(path, *rows, header=HEADER):
    path.write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture
def folder(tmp_path):
    """Three users, three videos; the small matrix holds users 3 and 9 and videos 5 and 40, all four pairs."""
    write(
        tmp_path / "big_matrix.csv",
        row(9, 40, 8000, 10_000, 200.5),
        row(3, 5, 100, 10_000, 300.2506),
        row(3, 7, 6000, 6000, 100.0),
        row(3, 7, 6000, 6000, 100.0),
        row(4, 7, 5999, 6000, 100.0),
    )
    write(
        tmp_path / "small_matrix.csv",
        row(3, 40, 9000, 10_000, ""),
        row(3, 5, 10_000, 10_000, 50.0),
        row(9, 5, 1000, 10_000, 20.0),
        row(9, 40, 10_000, 10_000, 10.0),
    )
    return tmp_path


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A 200,000-row folder in the official schema, rows shuffled, so that the sort has work to do."""
    folder = tmp_path_factory.mktemp("generated")
    sizes = Namespace(rows=200_000, users=300, videos=800, small_users=60, small_videos=200, seed=3, shuffle=True)
    big_matrix.generate(folder, sizes)
    return folder


def plain_parse(path):
    """Independent reference: csv module and Python sort; (user, ms, order, item, play, duration, ratio)."""
    with path.open(newline="") as stream:
        records = list(csv.DictReader(stream))
    last = {}
    for record in records:
        if record["timestamp"]:
            user = record["user_id"]
            last[user] = max(last.get(user, -1), round(float(record["timestamp"]) * 1000))
    rows = []
    for order, record in enumerate(records):
        user, stamp = record["user_id"], record["timestamp"]
        time = round(float(stamp) * 1000) if stamp else last.get(user, -1) + 1
        play, duration = int(record["play_duration"]), int(record["video_duration"])
        rows.append((int(user), time, order, int(record["video_id"]), play, duration, float(record["watch_ratio"])))
    return sorted(rows)


@pytest.fixture(scope="module")
def reference(generated):
    return {name: plain_parse(generated / f"{name}_matrix.csv") for name in ("big", "small")}


def by_valid_play(play, duration, ratio):
    return play >= duration if duration <= 7000 else play > 7000


def by_watch_ratio(play, duration, ratio):
    return ratio >= 0.8


@pytest.mark.parametrize(
    ("config", "is_click"), [({}, by_valid_play), ({"click": "watch_ratio", "click_threshold": 0.8}, by_watch_ratio)]
)
def test_200_000_rows_equal_a_plain_parse_value_for_value(generated, reference, config, is_click):
    log = load_kuairec(generated, **config)
    assert len(log.train) == 200_000
    for rows, name in ((log.train, "big"), (log.test, "small")):
        user, time, _, item, *play = zip(*reference[name], strict=True)
        np.testing.assert_array_equal(log.user_ids[rows.user], user)
        np.testing.assert_array_equal(log.item_ids[rows.item], item)
        np.testing.assert_array_equal(rows.time, time)
        np.testing.assert_array_equal(rows.click, [is_click(*values) for values in zip(*play, strict=True)])
        np.testing.assert_array_equal(rows.feedback, np.float32(play[-1]))
    assert (rows.user.dtype, rows.item.dtype, rows.time.dtype) == (np.int32, np.int32, np.int64)
    assert (rows.click.dtype, rows.feedback.dtype) == (np.bool_, np.float32)


def test_the_observed_matrix_equals_a_pair_by_pair_mean_with_item_means_in_the_gaps(generated, reference):
    log = load_kuairec(generated)
    clicks = {}
    for user, _, _, item, *play in reference["small"]:
        clicks.setdefault((user, item), []).append(float(by_valid_play(*play)))
    users, items = sorted({pair[0] for pair in clicks}), sorted({pair[1] for pair in clicks})
    value = np.full((len(users), len(items)), np.nan)
    for (user, item), values in clicks.items():
        value[users.index(user), items.index(item)] = np.mean(values)
    unseen = np.isnan(value)
    assert 0 < unseen.mean() < 0.01
    expected = np.where(unseen, np.nanmean(value, axis=0), value)
    np.testing.assert_array_equal(log.user_ids[log.test_matrix.user], users)
    np.testing.assert_array_equal(log.item_ids[log.catalogue], items)
    np.testing.assert_allclose(log.test_matrix.value, expected, rtol=1e-6)
    assert log.test_matrix.value.dtype == np.float32
    assert f"{100 * unseen.mean():.2g} % of its pairs unseen" in log.source


def test_generated_side_tables_are_read(generated):
    log = load_kuairec(generated)
    with (generated / "item_categories.csv").open(newline="") as stream:
        tags = {int(record["video_id"]): record["feat"] for record in csv.DictReader(stream)}
    for item in range(0, log.num_items, 37):
        names = [name for name, has in zip(log.category_names, log.categories[item], strict=True) if has]
        assert f"[{', '.join(names)}]" == tags[int(log.item_ids[item])]
    with (generated / "user_features.csv").open(newline="") as stream:
        ranges = {int(record["user_id"]): record["follow_user_num_range"] for record in csv.DictReader(stream)}
    levels = sorted(set(ranges.values()))
    codes = log.user_features["follow_user_num_range"]
    assert [levels[code] for code in codes] == [ranges[int(user)] for user in log.user_ids]
    assert set(log.item_features) >= {"author_id", "video_type", "upload_type"}


def test_valid_play_at_its_boundaries():
    play = np.array([7000, 6999, 7000, 7001, 3000, 2999])
    duration = np.array([7000, 7000, 7001, 7001, 3000, 3000])
    assert valid_play(play, duration).tolist() == [True, False, False, True, True, False]


def test_big_trains_small_tests_and_popularity_comes_from_big(folder):
    log = load_kuairec(folder)
    assert log.user_ids.tolist() == [3, 4, 9]
    assert log.item_ids.tolist() == [5, 7, 40]
    assert log.item_ids[log.train.item].tolist() == [7, 7, 5, 7, 40]
    assert log.train.click.tolist() == [True, True, False, False, True]
    assert log.train.time.tolist() == [100_000, 100_000, 300_251, 100_000, 200_500]
    assert log.exposure.tolist() == [1, 3, 1]
    assert log.item_ids[log.catalogue].tolist() == [5, 40]
    assert log.user_features == {}
    assert log.item_features == {}
    assert log.categories.shape == (3, 0)


def test_rows_without_a_time_come_after_their_users_timed_rows(folder):
    log = load_kuairec(folder)
    assert log.item_ids[log.test.item].tolist() == [5, 40, 40, 5]
    assert log.test.time.tolist() == [50_000, 50_001, 10_000, 20_000]


def test_observed_matrix_follows_the_catalogue_and_is_absent_for_another(folder):
    log = load_kuairec(folder)
    np.testing.assert_array_equal(log.test_matrix.value, [[1, 1], [0, 1]])
    assert log.user_ids[log.test_matrix.user].tolist() == [3, 9]
    log = load_kuairec(folder, catalogue="train")
    assert log.item_ids[log.catalogue].tolist() == [5, 7, 40]
    assert log.test_matrix is None


def test_a_sparse_small_matrix_is_no_observed_matrix(folder):
    write(folder / "small_matrix.csv", row(3, 40, 1, 10_000), row(9, 5, 1, 10_000))
    log = load_kuairec(folder)
    assert log.test_matrix is None
    assert "unseen" not in log.source


def test_duplicates_are_kept_unless_told_otherwise(folder):
    assert len(load_kuairec(folder).train) == 5
    assert load_kuairec(folder, drop_duplicates=True).exposure.tolist() == [1, 2, 1]


def test_watch_ratio_threshold_includes_its_boundary(folder):
    log = load_kuairec(folder, click="watch_ratio", click_threshold=0.8)
    assert log.train.click.tolist() == [True, True, False, True, True]


def test_missing_and_repeated_feature_rows(folder):
    write(folder / "item_categories.csv", '7,"[27, 9]"', '5,"[9]"', "6,[30]", header="video_id,feat")
    write(
        folder / "item_daily_features.csv",
        *("7,1,,NORMAL", "7,2,88,AD", "40,1,9,AD", "6,1,1,AD"),
        header="video_id,date,author_id,video_type",
    )
    write(folder / "user_features.csv", "9,full_active,", "3,,1.0", header="user_id,user_active_degree,onehot_feat4")
    log = load_kuairec(folder)
    assert log.category_names == ("9", "27", "30")
    np.testing.assert_array_equal(log.categories, [[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    # Authors 1, 9, 88 are numbered by value; video 7's first day has none, so its second day counts.
    assert log.item_features["author_id"].tolist() == [-1, 2, 1]
    assert log.item_features["video_type"].tolist() == [-1, 1, 0]
    assert log.user_features["user_active_degree"].tolist() == [-1, -1, 0]
    assert log.user_features["onehot_feat4"].tolist() == [0, -1, -1]


def test_an_unpacked_archive_with_a_data_folder_is_found(folder, tmp_path):
    data = tmp_path / "KuaiRec 2.0" / "data"
    data.mkdir(parents=True)
    for name in ("big_matrix.csv", "small_matrix.csv"):
        (folder / name).rename(data / name)
    assert len(load_kuairec(tmp_path).train) == 5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("3,5,1,10,,,1.0,-0.5", r"line 3, column 'watch_ratio': -0\.5"),
        ("3,5,1,10,,,1.0,inf", r"line 3, column 'watch_ratio': inf"),
        ("3,5,1,10,,,1.0,", r"line 3, column 'watch_ratio': the value is missing"),
        ("3,5,1,10,,,1.0", r"line 3, column 'watch_ratio': the value is missing"),
        (",5,1,10,,,1.0,0.1", r"line 3, column 'user_id': the value is missing"),
        ("-3,5,1,10,,,1.0,0.1", r"line 3, column 'user_id': -3"),
        ("3,x,1,10,,,1.0,0.1", r"line 3, column 'video_id': 'x' is not a whole number"),
        ("3,5,1,-10,,,1.0,0.1", r"line 3, column 'video_duration': -10"),
        ("3,5,1,10,,,later,0.1", r"line 3, column 'timestamp': 'later'"),
        ("3,5,1,10,,,inf,0.1", r"line 3, column 'timestamp': inf"),
    ],
)
@pytest.mark.parametrize("name", ["big_matrix.csv", "small_matrix.csv"])
def test_a_bad_row_is_named_by_file_line_and_column(folder, name, bad, message):
    write(folder / name, row(3, 5, 1, 10), bad, row(3, 7, 1, 10))
    with pytest.raises(InputError, match=rf"{name}, {message}"):
        load_kuairec(folder)


def test_a_missing_matrix_and_bad_tags_are_named(folder):
    write(folder / "item_categories.csv", '7,"[9]"', "5,nine", header="video_id,feat")
    with pytest.raises(InputError, match=r"item_categories\.csv, line 3, column 'feat': 'nine'"):
        load_kuairec(folder)
    (folder / "small_matrix.csv").unlink()
    with pytest.raises(InputError, match=r"small_matrix\.csv: file not found"):
        load_kuairec(folder)


def test_k_core_applies_to_training_rows_and_their_ids(folder):
    log = load_kuairec(folder, k_core=0)
    assert log.num_users == 3
    with pytest.raises(InputError, match="k_core=2 leaves no held-out row"):
        load_kuairec(folder, k_core=2)
