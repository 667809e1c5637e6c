import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from dsrm_jax.data.kuairand import LOG_COLUMNS, RANDOM_LOG, STANDARD_LOGS, load_kuairand
from dsrm_jax.errors import InputError

CONFIG = {"test_fraction": 0.25}


@pytest.fixture(scope="module")
def sample():
    """The folder of the real sample; it is shared, so nothing is written there."""
    shared = os.environ.get("DSRM_SHARED_DATA")
    root = Path(shared) if shared else Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not (root / "kuairand-pure" / STANDARD_LOGS[0]).is_file():
        pytest.skip("the real KuaiRand-Pure sample is not on this machine (set DSRM_SHARED_DATA)")
    return root / "kuairand-pure"


@pytest.fixture(scope="module")
def sample_log(sample):
    return load_kuairand(sample, **CONFIG)


@pytest.fixture(scope="module")
def sample_rows(sample):
    """Independent reference: distinct lines of both logs by the csv module, in the log's order."""
    rows, seen = [], set()
    for name in STANDARD_LOGS:
        with (sample / name).open(newline="") as stream:
            reader = csv.reader(stream)
            header = next(reader)
            for values in map(tuple, reader):
                if values not in seen:
                    seen.add(values)
                    record = dict(zip(header, map(int, values), strict=True))
                    rows.append((record["user_id"], record["time_ms"], len(rows), record))
    return [record for *_, record in sorted(rows, key=lambda row: row[:3])]


def test_the_real_sample_equals_a_plain_parse_value_for_value(sample_log, sample_rows):
    log = sample_log
    parts = [log.train, log.test]
    user, item, click, time, feedback = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("user", "item", "click", "time", "feedback")
    )
    # Held-out rows follow their user's training rows, so a stable sort by user restores the whole order.
    order = np.argsort(user, kind="stable")
    np.testing.assert_array_equal(log.user_ids[user][order], [row["user_id"] for row in sample_rows])
    np.testing.assert_array_equal(log.item_ids[item][order], [row["video_id"] for row in sample_rows])
    np.testing.assert_array_equal(click[order], [row["is_click"] == 1 for row in sample_rows])
    np.testing.assert_array_equal(time[order], [row["time_ms"] for row in sample_rows])
    played = [(row["play_time_ms"], row["duration_ms"]) for row in sample_rows]
    ratio = [play / duration if duration else float(play > 0) for play, duration in played]
    np.testing.assert_array_equal(feedback[order], np.float32(ratio))


def test_the_real_samples_published_numbers(sample_log):
    log = sample_log
    # counted in the files: 94,784 + 1,000 rows; 2,750 duplicates in the second log and 10 in the first.
    assert len(log.train) + len(log.test) == 94_784 + 1_000 - 2_750 - 10
    later = np.concatenate([part.click[part.time >= 1_650_812_400_000] for part in (log.train, log.test)])
    assert len(later) == 94_784 - 2_750
    assert later.mean() == pytest.approx(0.4468, abs=5e-5)
    assert "2,760 exact duplicate rows dropped" in log.source
    assert f"{RANDOM_LOG} is absent" in log.source
    assert "latest 25 % of each user's rows" in log.source
    assert len(log.category_names) == 46


def test_the_real_samples_split_takes_each_users_last_rows(sample_log):
    log = sample_log
    train, test = (np.bincount(part.user, minlength=log.num_users) for part in (log.train, log.test))
    total = train + test
    np.testing.assert_array_equal(test, np.minimum(np.floor(0.25 * total + 0.5), total - 1))
    np.testing.assert_array_equal(log.item_ids[log.catalogue], np.unique(log.item_ids[log.test.item]))


def test_the_real_samples_tags_and_features(sample_log, sample):
    log = sample_log
    with (sample / "video_features_basic_pure.csv").open(newline="") as stream:
        videos = {int(record["video_id"]): record for record in csv.DictReader(stream)}
    with (sample / "user_features_pure.csv").open(newline="") as stream:
        users = {int(record["user_id"]): record for record in csv.DictReader(stream)}
    for index, item in enumerate(log.item_ids.tolist()):
        names = {log.category_names[column] for column in np.flatnonzero(log.categories[index])}
        assert names == set(filter(None, videos[item]["tag"].split(",")))
    degrees = sorted({record["user_active_degree"] for record in users.values()})
    codes = log.user_features["user_active_degree"].tolist()
    assert [degrees[code] for code in codes] == [users[user]["user_active_degree"] for user in log.user_ids.tolist()]
    feature = log.user_features["onehot_feat12"].tolist()
    texts = [users[user]["onehot_feat12"] for user in log.user_ids.tolist()]
    assert feature == [-1 if text == "" else int(float(text)) for text in texts]
    assert -1 in feature
    assert log.item_features["video_type"].max() <= 2


def test_duplicates_can_be_kept(sample):
    log = load_kuairand(sample, **CONFIG, drop_duplicates=False)
    assert len(log.train) + len(log.test) == 95_784
    assert "duplicate" not in log.source


def test_k_core_of_the_real_sample_leaves_k_rows_for_each_user_and_item(sample):
    log = load_kuairand(sample, **CONFIG | {"k_core": 8})
    user = np.concatenate([log.train.user, log.test.user])
    item = np.concatenate([log.train.item, log.test.item])
    assert np.bincount(user, minlength=log.num_users).min() >= 8
    assert np.bincount(item, minlength=log.num_items).min() >= 8
    assert 0 < len(user) < 90_000


def log_row(**values):
    return {**dict.fromkeys(LOG_COLUMNS, 0), "duration_ms": 10_000, **values}


def write_log(path, rows, columns=tuple(LOG_COLUMNS)):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path):
    first = [log_row(user_id=8, video_id=5, time_ms=20, is_click=1, play_time_ms=5000)]
    second = [
        log_row(user_id=2, video_id=6, time_ms=40, play_time_ms=7, duration_ms=0),
        log_row(user_id=8, video_id=6, time_ms=10),
        log_row(user_id=8, video_id=6, time_ms=10),
        log_row(user_id=8, video_id=6, time_ms=10, tab=1),
        log_row(user_id=2, video_id=7, time_ms=30, duration_ms=0),
    ]
    write_log(tmp_path / STANDARD_LOGS[0], first)
    write_log(tmp_path / STANDARD_LOGS[1], second)
    return tmp_path


def test_the_random_log_is_the_held_out_split_where_it_is_there(folder):
    write_log(
        folder / RANDOM_LOG, [log_row(user_id=2, video_id=6, time_ms=9), log_row(user_id=3, video_id=1, time_ms=9)]
    )
    log = load_kuairand(folder, **CONFIG)
    assert "absent" not in log.source
    assert log.user_ids.tolist() == [2, 3, 8]
    assert log.item_ids.tolist() == [1, 5, 6, 7]
    assert log.item_ids[log.train.item].tolist() == [7, 6, 6, 6, 5]
    assert log.train.time.tolist() == [30, 40, 10, 10, 20]
    assert log.item_ids[log.test.item].tolist() == [6, 1]
    assert log.item_ids[log.catalogue].tolist() == [1, 6]
    assert log.exposure.tolist() == [0, 1, 3, 1]


def test_only_rows_equal_in_all_columns_are_duplicates(folder):
    assert "; 1 exact duplicate rows dropped" in load_kuairand(folder, **CONFIG | {"test_fraction": 0.5}).source


def test_watch_ratio_of_videos_without_a_duration_is_zero_or_one(folder):
    write_log(folder / RANDOM_LOG, [log_row(user_id=2, video_id=6, time_ms=9)])
    assert load_kuairand(folder, **CONFIG).train.feedback.tolist() == [0.0, 1.0, 0.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"is_click": 2}, "line 3, column 'is_click': 2 is not allowed; expected 0 or 1"),
        ({"play_time_ms": -1}, "line 3, column 'play_time_ms': -1"),
        ({"user_id": ""}, "line 3, column 'user_id': the value is missing"),
        ({"time_ms": "noon"}, "line 3, column 'time_ms': 'noon' is not a whole number"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_column(folder, values, message):
    write_log(folder / STANDARD_LOGS[1], [log_row(), log_row(**values), log_row()])
    with pytest.raises(InputError, match=f"{STANDARD_LOGS[1]}, {message}"):
        load_kuairand(folder, **CONFIG)


def test_a_missing_standard_log_or_column_and_bad_tags_are_named(folder):
    (folder / "video_features_basic_pure.csv").write_text('video_id,tag\n5,"12,65"\n6,twelve\n')
    with pytest.raises(InputError, match=r"video_features_basic_pure\.csv, line 3, column 'tag': 'twelve'"):
        load_kuairand(folder, **CONFIG | {"test_fraction": 0.5})
    shutil.copy(folder / STANDARD_LOGS[0], folder / "kept")
    write_log(folder / STANDARD_LOGS[0], [log_row()], [name for name in LOG_COLUMNS if name != "is_click"])
    with pytest.raises(InputError, match=f"{STANDARD_LOGS[0]}: column 'is_click' is missing"):
        load_kuairand(folder, **CONFIG)
    (folder / STANDARD_LOGS[0]).unlink()
    with pytest.raises(InputError, match=f"{STANDARD_LOGS[0]}: file not found"):
        load_kuairand(folder, **CONFIG)
