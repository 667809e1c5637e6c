"""Ranking metrics of recommended lists: accuracy per user, fairness over all of them.

Shapes: U users, L list length, J items, k the cut.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from dsrm_jax.data.statistics import gini

RANKING_METRICS = ("recall", "f1", "ndcg", "gini", "popularity")


def ranking_metrics(
    lists: Int[np.ndarray, "U L"],
    relevant: Bool[np.ndarray, "U J"],
    is_popular: Bool[np.ndarray, "J"],
    *,
    cuts: Sequence[int] = (5, 10, 20),
) -> dict[int, dict[str, float]]:
    """Return the metrics of the first k items of every list, for each cut.

    Args:
        lists: distinct catalogue positions in each row, best first.
        relevant: what each user liked and was held out.
        is_popular: the popular group.
        cuts: k, each in [1, L].

    Returns:
        Cut to metrics. `recall`, `f1` and `ndcg` are means over the users who have something relevant (NaN where no one has);
        `gini` and `popularity` are over all that the U k recommendations show, items that are never shown included.

    Raises:
        ValueError: a cut is not in [1, L].
    """
    found = {}
    for k in cuts:
        if not 1 <= k <= lists.shape[1]:
            raise ValueError(f"cut {k} is not in [1, {lists.shape[1]}], the length of the lists")
        shown = lists[:, :k]
        hits = np.take_along_axis(relevant, shown, axis=1)
        count = relevant.sum(1)
        some = count > 0
        exposure = np.bincount(shown.reshape(-1), minlength=len(is_popular))
        found[k] = {
            "recall": _mean(recall(hits[some], count[some])),
            "f1": _mean(f1(hits[some], count[some])),
            "ndcg": _mean(ndcg(hits[some], count[some])),
            "gini": gini(exposure),
            "popularity": float(is_popular[shown].mean()),
        }
    return found


def recall(hits: Bool[np.ndarray, "U k"], count: Int[np.ndarray, "U"]) -> Float[np.ndarray, "U"]:
    """Return the share of each user's relevant items that the list holds, in [0, 1]; `count` is above 0."""
    return hits.sum(1) / count


def f1(hits: Bool[np.ndarray, "U k"], count: Int[np.ndarray, "U"]) -> Float[np.ndarray, "U"]:
    """Return the harmonic mean of precision and recall, 2 hits / (k + count), in [0, 1]."""
    return 2 * hits.sum(1) / (hits.shape[1] + count)


def ndcg(hits: Bool[np.ndarray, "U k"], count: Int[np.ndarray, "U"]) -> Float[np.ndarray, "U"]:
    """Return the discounted gain, 1 / log2(1 + rank) per hit, over that of min(count, k) hits at the top; in [0, 1]."""
    k = hits.shape[1]
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)[np.minimum(count, k) - 1]
    return hits @ discount / ideal


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
