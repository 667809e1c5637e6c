import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.data.vocabulary import align_features, category_codes, multi_hot, to_index, vocabulary
from dsrm_jax.errors import InputError

# Small and large ids take different ways to the distinct ones; negative ones the second.
ids = st.lists(st.one_of(st.integers(0, 40), st.integers(-5, 2**40)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(ids, ids)
def test_vocabulary_is_the_sorted_union_and_indices_lead_back(left, right):
    known = vocabulary(np.array(left, dtype=np.int64), np.array(right, dtype=np.int64))
    assert known.tolist() == sorted(set(left) | set(right))
    index = to_index(np.array(left, dtype=np.int64), known)
    assert known[index].tolist() == left
    assert index.dtype == np.int32


def test_text_ids_work_too():
    known = vocabulary(np.array(["b", "a"]), np.array(["a", "cc"]))
    assert known.tolist() == ["a", "b", "cc"]
    assert to_index(np.array(["cc", "a"]), known).tolist() == [2, 0]


@pytest.mark.parametrize("stranger", [-1, 4, 99])
def test_unknown_ids_are_refused_or_marked(stranger):
    known = np.array([0, 3, 7])
    with pytest.raises(InputError, match=f"video_id {stranger} "):
        to_index(np.array([3, stranger]), known, what="video_id")
    assert to_index(np.array([3, stranger, 7]), known, missing=True).tolist() == [1, -1, 2]
    assert to_index(np.array([3]), known[:0], missing=True).tolist() == [-1]


def test_levels_are_numbered_by_value_or_else_alphabetically():
    assert category_codes(["10", "9", None, "-124", "9"]).tolist() == [2, 1, -1, 0, 1]
    assert category_codes(["10+", "9", None]).tolist() == [0, 1, -1]
    assert category_codes([None, None]).tolist() == [-1, -1]


def test_features_follow_the_vocabulary_and_missing_rows_are_minus_one():
    features = align_features(np.array([30, 10, 99]), {"kind": ["b", "a", "c"]}, np.array([10, 20, 30]))
    assert features["kind"].tolist() == [0, -1, 1]
    assert features["kind"].dtype == np.int32


def test_multi_hot_has_a_column_for_each_tag_of_the_table():
    hot, names = multi_hot(np.array([30, 10, 99]), [[27, 9], [], [100]], np.array([10, 20, 30]))
    assert names == ("9", "27", "100")
    np.testing.assert_array_equal(hot, [[0, 0, 0], [0, 0, 0], [1, 1, 0]])
