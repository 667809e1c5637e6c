"""Clusters of states: the claim of the paper's Figure 4 as numbers (P8), and its map.

All of it needs scikit-learn, imported when called. Shapes: N users, D state dimensions.
"""

from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from experiments.probes.popularity import missing_scikit_learn


class Separation(NamedTuple):
    """How well a labelling and the states' geometry agree.

    Attributes:
        silhouette: mean silhouette of the labels, in [-1, 1]; about 0: labels are mixed.
        nmi: normalised mutual information of the labels and k-means clusters of the states, in [0, 1], k the number of
            labels.
    """

    silhouette: float
    nmi: float


def separation(state: Float[ArrayLike, "N D"], label: Int[ArrayLike, "N"], *, seed: int = 0) -> Separation:
    """Measure how far states are grouped by a label (P8): by popularity it should fall, by interest rise.

    Args:
        state: `(N, D)`; scaled to unit total variance, so that only directions count.
        label: `(N,)` int, at least two values.
        seed: of k-means.

    Returns:
        The separation; zeros for constant states or a single label.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.metrics import normalized_mutual_info_score, silhouette_score
    except ImportError:
        raise missing_scikit_learn() from None
    x, labels = _scaled(state), np.asarray(label)
    kinds = len(np.unique(labels))
    if not np.any(x) or kinds < 2:
        return Separation(0.0, 0.0)
    with _one_thread():
        found = KMeans(kinds, n_init=10, random_state=seed).fit_predict(x)
    return Separation(float(silhouette_score(x, labels)), float(normalized_mutual_info_score(labels, found)))


def popularity_bins(popularity: Float[ArrayLike, "N"], num_bins: int = 3) -> Int[np.ndarray, "N"]:
    """Return each user's popularity bin, 0 the least popular, equally many users in each; ties in order of appearance."""
    rank = np.argsort(np.argsort(np.asarray(popularity), kind="stable"), kind="stable")
    return (rank * num_bins // max(len(rank), 1)).astype(np.int32)


def interest_clusters(
    interest: Float[ArrayLike, "N F"], num_clusters: int = 5, *, seed: int = 0
) -> Int[np.ndarray, "N"]:
    """Return k-means clusters of users' interests: true factors of a synthetic world, or shares of clicked categories.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise missing_scikit_learn() from None
    with _one_thread():
        return KMeans(num_clusters, n_init=4, random_state=seed).fit_predict(np.asarray(interest, np.float64))


def tsne_map(state: Float[ArrayLike, "N D"], *, seed: int = 0) -> Float[np.ndarray, "N 2"]:
    """Return a t-SNE map of the states, for pictures; no number is read off it.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise missing_scikit_learn() from None
    x = _scaled(state)
    perplexity = min(30.0, max(2.0, (len(x) - 1) / 4))
    with _one_thread():
        return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(x)


def _one_thread() -> AbstractContextManager[object]:
    """Keep scikit-learn's loops on one thread: on a machine that others use, its threads wait for each other for minutes."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def _scaled(state: ArrayLike) -> Float[np.ndarray, "N D"]:
    x = np.asarray(state, np.float64)
    x = x - x.mean(axis=0)
    spread = np.sqrt(np.mean(np.sum(x**2, axis=1)))
    return x / spread if spread > 1e-12 else np.zeros_like(x)
