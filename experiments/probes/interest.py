"""Probes of what states say of interest (P5 and P6), on host arrays in float64.

Shapes: N users, D state dimensions, J catalogue items, P (user, positive item) pairs, M negatives of each.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int


class Ranking(NamedTuple):
    """How positives rank among their negatives, per user.

    Attributes:
        auc: `(N,)` mean over the user's positives of the share of negatives scored below, ties half; NaN without any.
        ndcg: `(N,)` mean of 1 / log2(1 + rank), the rank being 1 where no negative is scored above; NaN without any.
    """

    auc: Float[np.ndarray, "N"]
    ndcg: Float[np.ndarray, "N"]


class Pairs(NamedTuple):
    """Positives and their popularity-matched negatives.

    Attributes:
        user: `(P,)` int, 0..N-1.
        positive: `(P,)` int, catalogue positions.
        negative: `(P, M)` int, catalogue positions.
    """

    user: Int[np.ndarray, "P"]
    positive: Int[np.ndarray, "P"]
    negative: Int[np.ndarray, "P M"]


def matched_pairs(
    liked: Bool[ArrayLike, "N J"],
    excluded: Bool[ArrayLike, "N J"],
    popularity: Float[ArrayLike, "J"],
    *,
    per_user: int = 20,
    num_negatives: int = 20,
    seed: int = 0,
) -> Pairs:
    """Draw positives, and for each of them negatives that are about as popular.

    Popularity cannot tell the two apart: a score that is popularity alone has an AUC of one half.

    Args:
        liked: `(N, J)` items that count as positives.
        excluded: `(N, J)` items that may not be negatives, besides the liked ones, such as other clicked items.
        popularity: `(J,)`.
        per_user: positives drawn per user, without replacement, or all where there are fewer.
        num_negatives: M: the nearest allowed items by popularity rank, half of them more popular and half less, as far as there
            are any; where a user has fewer allowed items, they repeat.
        seed: of the positives drawn.

    Returns:
        The pairs; users without a positive or without an allowed negative have none.
    """
    liked, excluded = np.asarray(liked, bool), np.asarray(excluded, bool)
    rng = np.random.default_rng(seed)
    # ties in random order, so that an item's id decides nothing
    tie_break = rng.permutation(liked.shape[1])
    order = np.lexsort((tie_break, np.asarray(popularity, np.float64)))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    users, positives, negatives = [], [], []
    for user in range(len(liked)):
        allowed = place[np.flatnonzero(~(liked[user] | excluded[user]))]
        items = np.flatnonzero(liked[user])
        if not len(allowed) or not len(items):
            continue
        allowed = np.sort(allowed)
        chosen = rng.permutation(items)[:per_user]
        for item in chosen:
            users.append(user)
            positives.append(item)
            negatives.append(order[_nearest(allowed, place[item], num_negatives)])
    shape = (len(users), num_negatives)
    return Pairs(np.array(users, int), np.array(positives, int), np.array(negatives, int).reshape(shape))


def _nearest(places: np.ndarray, place: int, number: int) -> np.ndarray:
    """Return `number` of the sorted places, half below and half above `place`, shifted at the ends; repeated if too few."""
    middle = int(np.searchsorted(places, place))
    start = min(max(middle - number // 2, 0), max(len(places) - number, 0))
    return np.resize(places[start : start + number], number)


def rank_matched(
    state: Float[ArrayLike, "N D"],
    vectors: Float[ArrayLike, "J D"],
    pairs: Pairs,
    bias: Float[ArrayLike, "J"] | None = None,
) -> Ranking:
    """Score positives and negatives by <state, vector> + bias and rank them, per user (P5).

    Args:
        state: `(N, D)`.
        vectors: `(J, D)` item vectors of the state's space.
        pairs: from `matched_pairs`.
        bias: `(J,)`, what the score adds for every user alike; None: nothing.
    """
    s, v = np.asarray(state, np.float64), np.asarray(vectors, np.float64)
    b = np.zeros(len(v)) if bias is None else np.asarray(bias, np.float64)
    own = s[pairs.user]
    positive = np.sum(own * v[pairs.positive], axis=1) + b[pairs.positive]
    negative = np.einsum("pd,pmd->pm", own, v[pairs.negative]) + b[pairs.negative]
    above = np.sum(negative > positive[:, None], axis=1) + 0.5 * np.sum(negative == positive[:, None], axis=1)
    auc = 1 - above / negative.shape[1]
    return Ranking(*(_user_means(x, pairs.user, len(s)) for x in (auc, 1 / np.log2(2 + above))))


def _user_means(value: np.ndarray, user: np.ndarray, num_users: int) -> Float[np.ndarray, "N"]:
    count = np.bincount(user, minlength=num_users)
    total = np.bincount(user, weights=value, minlength=num_users)
    return np.divide(total, count, out=np.full(num_users, np.nan), where=count > 0)


def mean_interval(values: Float[ArrayLike, "N"], *, confidence: float = 0.95) -> dict[str, float]:
    """Return the mean over users and its normal interval; users without a value (NaN) do not count.

    Returns:
        `mean`, `low`, `high` and `users`, how many counted; NaN bounds with fewer than two.
    """
    from scipy import stats

    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    if not len(x):
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "users": 0}
    error = x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.nan
    half = float(stats.norm.ppf((1 + confidence) / 2) * error)
    mean = float(x.mean())
    return {"mean": mean, "low": mean - half, "high": mean + half, "users": len(x)}


def long_tail_recall(
    state: Float[ArrayLike, "N D"],
    vectors: Float[ArrayLike, "J D"],
    liked: Bool[ArrayLike, "N J"],
    is_popular: Bool[ArrayLike, "J"],
    *,
    top: int = 50,
) -> Float[np.ndarray, "N"]:
    """Return, per user, the share of their liked long-tail items among the `top` long-tail items by score (P5).

    Args:
        state: `(N, D)`.
        vectors: `(J, D)`.
        liked: `(N, J)` what each user likes.
        is_popular: `(J,)`, the popular group, left out.
        top: how many items are taken.

    Returns:
        `(N,)` hits over min(liked, top), in [0, 1]; NaN where the user likes no long-tail item.
    """
    tail = ~np.asarray(is_popular, bool)
    score = np.asarray(state, np.float64) @ np.asarray(vectors, np.float64)[tail].T
    wanted = np.asarray(liked, bool)[:, tail]
    top = min(top, wanted.shape[1])
    best = np.argpartition(-score, top - 1, axis=1)[:, :top]
    hits = np.take_along_axis(wanted, best, axis=1).sum(axis=1)
    possible = np.minimum(wanted.sum(axis=1), top)
    return np.divide(hits, possible, out=np.full(len(hits), np.nan), where=possible > 0)


class Reidentification(NamedTuple):
    """Whether a state knows its user again.

    Attributes:
        auc: how often a user's other half is nearer than another user's, in [0, 1]; .5: by chance.
        top1: share of users whose other half is the nearest of all; 1 / N: by chance.
    """

    auc: float
    top1: float


def reidentify(first: Float[ArrayLike, "N D"], second: Float[ArrayLike, "N D"]) -> Reidentification:
    """Find each user by the cosine of centred states from two disjoint halves of their history (P5).

    Constant states know nobody: all similarities tie, ties count half, and a tie is no top hit.

    Args:
        first: `(N, D)` from one half.
        second: `(N, D)` from the other, same users in the same order.
    """
    a, b = (_unit(x) for x in (first, second))
    similarity = a @ b.T
    own = np.diag(similarity)[:, None]
    others = ~np.eye(len(a), dtype=bool)
    tolerance = 1e-9
    below = np.sum((similarity < own - tolerance) & others, axis=1)
    level = np.sum((np.abs(similarity - own) <= tolerance) & others, axis=1)
    count = len(a) - 1
    return Reidentification(float(np.mean((below + 0.5 * level) / count)), float(np.mean(below == count)))


def _unit(x: ArrayLike) -> Float[np.ndarray, "N D"]:
    values = np.asarray(x, np.float64)
    values = values - values.mean(axis=0)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


class EffectiveRank(NamedTuple):
    """How many dimensions states really use.

    Attributes:
        participation: (sum v)^2 / sum v^2 over the covariance's eigenvalues v, in [1, D]; 0 for constant states.
        entropy: exp of the entropy of v / sum v, in [1, D]; 0 for constant states.
    """

    participation: float
    entropy: float


def effective_rank(state: Float[ArrayLike, "N D"]) -> EffectiveRank:
    """Return the effective rank of the states' covariance (P5): a collapsed purifier has a low one."""
    x = np.asarray(state, np.float64)
    value = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    if value.sum() <= 0:
        return EffectiveRank(0.0, 0.0)
    share = value / value.sum()
    kept = share[share > 0]
    return EffectiveRank(float(1 / np.sum(share**2)), float(np.exp(-np.sum(kept * np.log(kept)))))


def preference_states(
    vectors: Float[ArrayLike, "J D"], user: Float[ArrayLike, "N F"], item: Float[ArrayLike, "J F"]
) -> Float[np.ndarray, "N D"]:
    """Return the states that score the catalogue most like the users' true personal preference (P6).

    They are the least-squares states over item-centred scores: <s, v_i> is nearest to <user, item_i>, up to a constant per
    user. For synthetic worlds, whose truth is known; for evaluation only.

    Args:
        vectors: `(J, D)` learnt item vectors, those that policies use; a column that is the same for all items gets 0.
        user: `(N, F)` true user factors.
        item: `(J, F)` true item factors.
    """
    v, w = (x - x.mean(axis=0) for x in (np.asarray(vectors, np.float64), np.asarray(item, np.float64)))
    return np.asarray(user, np.float64) @ (np.linalg.pinv(v) @ w).T


def score_coordinates(state: Float[ArrayLike, "N D"], vectors: Float[ArrayLike, "J D"]) -> Float[np.ndarray, "N D"]:
    """Return states in coordinates whose Euclidean distance is that of item-centred scores, root mean square over items.

    What moves all of a user's scores alike, such as the click-rate coordinate, does not count. P6 measures distances
    there (`purification.oracle_recovery`).
    """
    v = np.asarray(vectors, np.float64)
    _, singular, axes = np.linalg.svd(v - v.mean(axis=0), full_matrices=False)
    return np.asarray(state, np.float64) @ axes.T * (singular / np.sqrt(len(v)))
