"""Ranking metrics against scikit-learn, numbers worked out by hand, and plain loops."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, ndcg_score, recall_score

from experiments.fcpo_ml100k.metrics import ranking_metrics

USERS, ITEMS, LENGTH = 30, 50, 20


@pytest.fixture(scope="module")
def lists():
    rng = np.random.default_rng(0)
    ranked = np.stack([rng.permutation(ITEMS)[:LENGTH] for _ in range(USERS)])
    relevant = rng.random((USERS, ITEMS)) < rng.uniform(0.02, 0.3, USERS)[:, None]
    relevant[:3] = False  # users about whom nothing is known
    return ranked, relevant, np.arange(ITEMS) < 10


def gini_by_pairs(counts):
    counts = np.asarray(counts, float)
    return np.abs(counts[:, None] - counts).sum() / (2 * len(counts) ** 2 * counts.mean())


@pytest.mark.parametrize("k", [1, 5, 20])
def test_against_scikit_learn(lists, k):
    ranked, relevant, popular = lists
    got = ranking_metrics(ranked, relevant, popular, cuts=(k,))[k]
    recall, f1, ndcg = [], [], []
    for shown, truth in zip(ranked, relevant, strict=True):
        if not truth.any():
            continue
        chosen = np.isin(np.arange(ITEMS), shown[:k])
        recall.append(recall_score(truth, chosen))
        f1.append(f1_score(truth, chosen))
        scores = np.zeros(ITEMS)
        scores[shown[:k]] = np.arange(k, 0, -1)
        order = np.argsort(-scores, kind="stable")
        ndcg.append(ndcg_score(truth[order][None].astype(float), np.arange(ITEMS, 0, -1.0)[None], k=k))
    assert got["recall"] == pytest.approx(np.mean(recall))
    assert got["f1"] == pytest.approx(np.mean(f1))
    assert got["ndcg"] == pytest.approx(np.mean(ndcg))
    counts = np.bincount(ranked[:, :k].reshape(-1), minlength=ITEMS)
    assert got["gini"] == pytest.approx(gini_by_pairs(counts))
    assert got["popularity"] == pytest.approx(counts[:10].sum() / counts.sum())


def test_by_hand():
    ranked = np.array([[0, 1], [0, 2]])
    relevant = np.array([[1, 0, 0, 1], [0, 0, 1, 0]], bool)
    got = ranking_metrics(ranked, relevant, np.array([True, False, False, False]), cuts=(1, 2))
    # user 0: one hit at rank 1 of two likes; user 1: one hit at rank 2 of one like
    assert got[2]["recall"] == pytest.approx((0.5 + 1) / 2)
    assert got[2]["f1"] == pytest.approx((2 / 4 + 2 / 3) / 2)
    ideal = 1 + 1 / np.log2(3)
    assert got[2]["ndcg"] == pytest.approx((1 / ideal + 1 / np.log2(3)) / 2)
    assert got[2]["popularity"] == 0.5
    assert got[2]["gini"] == pytest.approx(gini_by_pairs([2, 1, 1, 0]))
    assert got[1]["recall"] == pytest.approx(0.25)
    assert got[1]["popularity"] == 1.0
    assert got[1]["gini"] == pytest.approx(0.75)


def test_users_without_anything_relevant_count_for_exposure_alone(lists):
    ranked, relevant, popular = lists
    with_them = ranking_metrics(ranked, relevant, popular, cuts=(5,))[5]
    without = ranking_metrics(ranked[3:], relevant[3:], popular, cuts=(5,))[5]
    assert with_them["recall"] == pytest.approx(without["recall"])
    assert with_them["gini"] != without["gini"]
    assert np.isnan(ranking_metrics(ranked[:3], relevant[:3], popular, cuts=(5,))[5]["ndcg"])


def test_a_cut_beyond_the_list_is_refused(lists):
    with pytest.raises(ValueError, match=r"cut 21 is not in \[1, 20\]"):
        ranking_metrics(*lists, cuts=(21,))
