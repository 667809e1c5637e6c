"""P5 and P6 against scikit-learn and exhaustive enumeration; each probe fails for its negative control."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score

from dsrm_jax.evaluation.purification import oracle_recovery
from experiments.probes.control_maps import derangement
from experiments.probes.interest import (
    Pairs,
    effective_rank,
    long_tail_recall,
    matched_pairs,
    mean_interval,
    preference_states,
    rank_matched,
    reidentify,
    score_coordinates,
)

N, J, D = 120, 200, 6


@pytest.fixture(scope="module")
def world():
    """Users like their highest tenth by true preference; the first third of the catalogue is popular."""
    rng = np.random.default_rng(0)
    state, vectors = rng.normal(size=(N, D)), rng.normal(size=(J, D))
    score = state @ vectors.T
    liked = score >= np.quantile(score, 0.9, axis=1, keepdims=True)
    return state, vectors, liked, np.arange(J, 0, -1) / J


def test_negatives_are_the_nearest_allowed_items_by_popularity(world):
    _, _, liked, popularity = world
    excluded = np.random.default_rng(1).random((N, J)) < 0.3
    pairs = matched_pairs(liked, excluded, popularity, per_user=4, num_negatives=6)
    assert np.all(np.bincount(pairs.user, minlength=N) == 4)
    assert np.all(liked[pairs.user, pairs.positive])
    for user, positive, negative in zip(*pairs, strict=True):
        allowed = np.flatnonzero(~liked[user] & ~excluded[user])[::-1]  # in order of popularity
        more = allowed[popularity[allowed] > popularity[positive]]
        less = allowed[popularity[allowed] < popularity[positive]]
        if len(more) >= 3 and len(less) >= 3:
            assert set(negative) == {*more[:3], *less[-3:]}
        assert not np.any(liked[user, negative] | excluded[user, negative])


def test_few_allowed_items_repeat_and_users_without_any_have_no_pairs():
    liked = np.array([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    pairs = matched_pairs(liked, np.zeros_like(liked), np.arange(4), num_negatives=5)
    assert set(pairs.user) == {0}
    assert set(pairs.negative[0]) == {1, 2, 3}
    empty = rank_matched(np.ones((3, 2)), np.ones((4, 2)), matched_pairs(0 * liked, liked, np.arange(4)))
    assert np.all(np.isnan(empty.auc))


def test_ranking_agrees_with_scikit_learn(world):
    state, vectors, liked, popularity = world
    noisy = state + 2 * np.random.default_rng(3).normal(size=state.shape)
    pairs = matched_pairs(liked, 0 * liked, popularity, per_user=3, num_negatives=9)
    bias = np.linspace(-1, 1, J)
    found = rank_matched(noisy, vectors, pairs, bias)
    for user in range(10):
        aucs, gains = [], []
        for _, positive, negative in (p for p in zip(*pairs, strict=True) if p[0] == user):
            items = np.append(positive, negative)
            score = vectors[items] @ noisy[user] + bias[items]
            truth = np.arange(10) == 0
            aucs.append(roc_auc_score(truth, score))
            gains.append(ndcg_score([truth], [score]))
        assert found.auc[user] == pytest.approx(np.mean(aucs))
        assert found.ndcg[user] == pytest.approx(np.mean(gains))


def test_popularity_alone_has_an_auc_of_one_half_and_the_truth_of_one(world):
    state, vectors, liked, popularity = world
    # users who like popular items more: without matching, popularity alone would look like interest
    biased = liked & (np.random.default_rng(4).random((N, J)) < popularity)
    pairs = matched_pairs(biased, liked, popularity, num_negatives=4)
    only_popular = rank_matched(np.zeros((N, D)), vectors, pairs, popularity)
    assert np.nanmean(only_popular.auc) == pytest.approx(0.5, abs=0.03)
    anyone = Pairs(pairs.user, pairs.positive, np.random.default_rng(5).integers(0, J, pairs.negative.shape))
    assert np.nanmean(rank_matched(np.zeros((N, D)), vectors, anyone, popularity).auc) > 0.6  # unmatched
    assert np.nanmean(rank_matched(state, vectors, pairs).auc) == 1
    # somebody else's state knows nothing: the shuffled control fails
    assert np.nanmean(rank_matched(state[derangement(0, N)], vectors, pairs).auc) < 0.6


def test_constant_states_tie_and_ties_count_half(world):
    _, vectors, liked, popularity = world
    pairs = matched_pairs(liked, 0 * liked, popularity)
    np.testing.assert_array_equal(rank_matched(np.zeros((N, D)), vectors, pairs).auc, 0.5)


def test_long_tail_recall_agrees_with_a_full_sort_and_falls_for_strangers(world):
    state, vectors, liked, popularity = world
    popular = popularity > 2 / 3
    found = long_tail_recall(state, vectors, liked, popular, top=10)
    expected = []
    for user in range(N):
        order = [i for i in np.argsort(-(vectors @ state[user])) if not popular[i]][:10]
        expected.append(liked[user, order].sum() / min(10, liked[user, ~popular].sum()))
    np.testing.assert_allclose(found, expected)
    assert np.nanmean(found) > 0.95
    assert np.nanmean(long_tail_recall(state[derangement(0, N)], vectors, liked, popular, top=10)) < 0.2


def test_users_are_known_again_by_their_other_half_and_not_by_a_stranger(world):
    state = world[0]
    noisy = state + 0.1 * np.random.default_rng(6).normal(size=state.shape)
    found = reidentify(state, noisy)
    unit = [x - x.mean(0) for x in (state, noisy)]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in unit]
    nearest = [max(range(N), key=lambda j: unit[0][i] @ unit[1][j]) for i in range(N)]
    assert found.top1 == pytest.approx(np.mean(np.array(nearest) == np.arange(N)))
    assert found.auc > 0.99
    assert reidentify(state, noisy[derangement(0, N)]).auc < 0.6
    constant = reidentify(np.ones((N, D)), np.ones((N, D)))
    assert constant.auc == 0.5
    assert constant.top1 == 0


def test_effective_rank_of_known_spectra():
    x = np.random.default_rng(7).normal(size=(5000, 6))
    assert effective_rank(x).participation == pytest.approx(6, rel=0.01)
    assert effective_rank(x).entropy == pytest.approx(6, rel=0.01)
    assert effective_rank(np.outer(x[:, 0], np.ones(6))).entropy == pytest.approx(1)
    value = np.array([2.0, 1.0, 1.0]) / 4
    q = np.linalg.qr(np.random.default_rng(8).normal(size=(100, 4)) - 0)[0]
    q = np.linalg.qr(np.column_stack([np.ones(100), q]))[0][:, 1:4]  # centred, orthonormal columns
    found = effective_rank(q * np.sqrt(value))
    assert found.participation == pytest.approx(1 / np.sum(value**2))
    assert found.entropy == pytest.approx(np.exp(-np.sum(value * np.log(value))))
    assert effective_rank(np.ones((5, 2))).entropy == 0  # collapse, the negative control


def test_preference_states_are_least_squares_and_distances_those_of_scores():
    rng = np.random.default_rng(9)
    vectors = np.column_stack([rng.normal(size=(J, D)), np.ones(J)])
    item = vectors[:, :D] @ rng.normal(size=(D, 3))
    user = rng.normal(size=(N, 3))
    truth = preference_states(vectors, user, item)
    centred = item - item.mean(axis=0)
    np.testing.assert_allclose((vectors - vectors.mean(axis=0)) @ truth.T, centred @ user.T, atol=1e-9)
    np.testing.assert_allclose(truth[:, -1], 0, atol=1e-9)  # what moves all items alike is no preference
    other = truth + rng.normal(size=truth.shape)
    a, b = (score_coordinates(x, vectors) for x in (truth, other))
    scores = (vectors - vectors.mean(axis=0)) @ (truth - other).T
    np.testing.assert_allclose(np.sum((a - b) ** 2, axis=1), np.mean(scores**2, axis=0))
    # P6: the identity recovers exactly nothing, half the way three quarters of the squared distance
    assert oracle_recovery(b, b, a) == 0
    half = score_coordinates((truth + other) / 2, vectors)
    assert float(oracle_recovery(b, half, a)) == pytest.approx(0.75, rel=1e-5)


def test_interval_of_a_mean_skips_users_without_a_value():
    values = np.append(np.random.default_rng(10).normal(3, 2, 400), np.nan)
    found = mean_interval(values)
    half = 1.959964 * np.nanstd(values, ddof=1) / 20
    assert found["users"] == 400
    assert found["mean"] == pytest.approx(np.nanmean(values))
    assert found["high"] - found["mean"] == pytest.approx(half)
    assert mean_interval([np.nan])["users"] == 0
