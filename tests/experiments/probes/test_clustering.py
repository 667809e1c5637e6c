"""P8 on states whose grouping is known; mixed labels, the negative control, separate nothing."""

import builtins

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from dsrm_jax.errors import InputError
from experiments.probes.clustering import interest_clusters, popularity_bins, separation, tsne_map


@pytest.fixture(scope="module")
def grouped():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], 60)
    return rng.normal(size=(180, 4)) + 8 * np.eye(4)[label], label


def test_separation_of_groups_and_of_mixed_labels(grouped):
    state, label = grouped
    found = separation(state, label)
    assert found.silhouette == pytest.approx(silhouette_score(state, label))  # scale and shift change nothing
    assert found.nmi == pytest.approx(1)
    mixed = separation(state, np.random.default_rng(1).permutation(label))
    assert mixed.silhouette < 0.01
    assert mixed.nmi < 0.05
    assert separation(100 * state + 7, label).silhouette == pytest.approx(found.silhouette)
    assert separation(np.ones((9, 2)), np.arange(9) % 3) == (0.0, 0.0)
    assert separation(state, np.zeros(180)) == (0.0, 0.0)


def test_bins_hold_equally_many_users_in_order():
    value = np.random.default_rng(2).normal(size=100)
    bins = popularity_bins(value, 4)
    np.testing.assert_array_equal(np.bincount(bins), [25] * 4)
    for k in range(3):
        assert value[bins == k].max() < value[bins == k + 1].min()
    np.testing.assert_array_equal(np.bincount(popularity_bins(np.zeros(6))), [2, 2, 2])


def test_clusters_of_interests_are_found(grouped):
    state, label = grouped
    found = interest_clusters(state, 3)
    assert len({tuple(np.unique(found[label == k])) for k in range(3)}) == 3


def test_a_map_keeps_neighbours_and_is_the_same_again(grouped):
    state, label = grouped
    place = tsne_map(state[::2])
    assert silhouette_score(place, label[::2]) > 0.4
    np.testing.assert_array_equal(place, tsne_map(state[::2]))


def test_without_scikit_learn_one_sentence_says_what_to_install(grouped, monkeypatch):
    real = builtins.__import__

    def blocked(name, *rest, **named):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", blocked)
    for call in (lambda: separation(*grouped), lambda: tsne_map(grouped[0]), lambda: interest_clusters(grouped[0])):
        with pytest.raises(InputError, match="pip install scikit-learn"):
            call()
