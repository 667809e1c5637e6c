from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dsrm_jax.data.coat import load_coat
from dsrm_jax.data.sources import load_log
from dsrm_jax.errors import InputError

TRAIN = np.array([[5, 0, 3, 0], [0, 4, 0, 1], [2, 0, 0, 5]])
TEST = np.array([[0, 1, 0, 0], [5, 0, 0, 0], [0, 0, 4, 0]])


def write(folder: Path, **matrices: np.ndarray) -> Path:
    for name, matrix in ({"train": TRAIN, "test": TEST} | matrices).items():
        np.savetxt(folder / f"{name}.ascii", matrix, fmt="%d")
    return folder


def dense(rows, log, value):
    matrix = np.zeros(TRAIN.shape)
    matrix[log.user_ids[rows.user], log.item_ids[rows.item]] = value
    return matrix


def test_each_rating_is_a_row_of_its_side(tmp_path: Path):
    log = load_log("coat", path=write(tmp_path), like_threshold=4)
    for rows, ratings in ((log.train, TRAIN), (log.test, TEST)):
        np.testing.assert_array_equal(dense(rows, log, rows.feedback), ratings)
        np.testing.assert_array_equal(dense(rows, log, rows.click), ratings >= 4)
    np.testing.assert_array_equal(log.item_ids[log.catalogue], [0, 1, 2])  # nobody was asked about the last coat


def test_features_stay_with_their_items(tmp_path: Path):
    features = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    (tmp_path / "user_item_features").mkdir()
    np.savetxt(tmp_path / "user_item_features" / "item_features.ascii", features, fmt="%d")
    log = load_coat(write(tmp_path, train=TRAIN * (np.arange(4) != 1)))  # the second item stands in the test alone
    np.testing.assert_array_equal(log.categories, features[log.item_ids])


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays.arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 5)))
def test_what_is_written_is_read(tmp_path: Path, ratings):
    ratings[0, 0] = 3  # at least one
    log = load_coat(write(tmp_path, train=ratings, test=ratings[::-1]), catalogue="train")
    assert log.train.feedback.sum() == ratings.sum() == log.test.feedback.sum()
    assert len(log.train) == np.count_nonzero(ratings)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("train", "1 2 x\n", "line 1 holds 'x'"),
        ("train", "1 2 6\n", "line 1 holds '6'"),
        ("test", "1 2\n\n3\n", "line 3 holds 1 numbers and the first 2"),
        ("test", "\n", "is empty"),
        ("test", "1 2\n", "(1, 2) ratings"),
        ("train", "0 0 0 0\n0 0 0 0\n0 0 0 0\n", "no rating above 0"),
        ("item_features", "0 1\n", "has 1 lines"),
        ("train", "\xff", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, said: str):
    path = write(tmp_path) / f"{name}.ascii"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=path.name) as error:
        load_coat(tmp_path)
    assert said in str(error.value)


def test_a_folder_without_it_says_what_to_do(tmp_path: Path):
    with pytest.raises(InputError, match=r"holds no train\.ascii.*by hand"):
        load_coat(tmp_path)
