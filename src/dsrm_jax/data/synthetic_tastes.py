"""Tastes of another family than the learner's: clusters, heavy tails, a map of two dimensions, several interests a user.

Shapes: U users, M interests of each, I items, F factors, C tags.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp

CLUSTERS = 12
TIGHTNESS = 0.25  # standard deviation inside a cluster, of the distance between them
DEGREES_OF_FREEDOM = 3
INTERESTS = 3
REACH = 0.5  # how near on the map is near, in standard deviations of a tag's place


def tastes(
    rng: np.random.Generator, kind: str, num_users: int, item: np.ndarray, tag_weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw users' interests and the items that go with them, of a kind of `SyntheticConfig.taste` other than `mixed`.

    `item` is `(I, F)` and `tag_weight` `(I, C)`, the shares of an item's tags; the result is interests `(U, M, F)` and items `(I,
    F)`, float64. Only a map moves the items.
    """
    dim = item.shape[1]
    match kind:
        case "clusters":
            centre = rng.standard_normal((CLUSTERS, dim))
            user = centre[rng.integers(0, CLUSTERS, num_users)]
            return (user + TIGHTNESS * rng.standard_normal(user.shape))[:, None], item
        case "heavy":
            scale = np.sqrt(DEGREES_OF_FREEDOM / rng.chisquare(DEGREES_OF_FREEDOM, (num_users, 1)))
            return (scale * rng.standard_normal((num_users, dim)))[:, None], item
        case "curved":
            return _map(rng, num_users, dim, tag_weight)
        case "interests":
            return rng.standard_normal((num_users, INTERESTS, dim)), item
    raise ValueError(f"no taste {kind!r}")


def _map(rng: np.random.Generator, num_users: int, dim: int, tag_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place tags, items and users on a map; factors are random Fourier features of a place (Rahimi and Recht 2007).

    Their inner product is nearly a Gaussian kernel: users like what is near them. The features bend the map through all F
    dimensions.
    """
    num_items, num_tags = tag_weight.shape
    tag = rng.standard_normal((num_tags, 2))
    item = tag_weight @ tag + REACH * rng.standard_normal((num_items, 2))
    user = tag[rng.integers(0, num_tags, num_users)] + REACH * rng.standard_normal((num_users, 2))
    frequency, phase = rng.standard_normal((2, dim)) / REACH, rng.uniform(0.0, 2.0 * np.pi, dim)
    user, item = (np.sqrt(2.0) * np.cos(place @ frequency + phase) for place in (user, item))
    return user[:, None], item


def blend(liking: np.ndarray) -> np.ndarray:
    """Return how a user of M interests likes items, a soft maximum over the first axis of what each alone gives, in logits."""
    return logsumexp(liking, axis=0) - np.log(np.float32(len(liking)))


def link_of(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map from logits to chances that a `SyntheticConfig.link` names; all have slope 1/4 and chance 1/2 at 0."""
    if name == "logistic":
        return lambda x: 1.0 / (1.0 + np.exp(-x))
    return lambda x: 0.5 + np.arctan(np.pi / 4.0 * x) / np.pi
