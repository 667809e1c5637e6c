"""Probes of what states still say of popularity (P4), on host arrays in float64.

Shapes: N users or histories, D state dimensions, H history length, V vocabulary items.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from dsrm_jax.errors import InputError

FOLDS = 5

# (training states, training labels, held-out states) -> predictions
FitPredict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def standardised_log_popularity(item: Int[ArrayLike, "rows"], num_items: int) -> Float[np.ndarray, "V"]:
    """Return log(1 + rows that show each item), standardised over the items that were shown at all.

    Args:
        item: `(rows,)` vocabulary index of each row of a TRAINING log.
        num_items: V.

    Returns:
        `(V,)` float64; an item without a row has the value of a count of 0, and where all items are equally popular
        all values are 0.
    """
    count = np.bincount(np.asarray(item), minlength=num_items)
    value = np.log1p(count.astype(np.float64))
    shown = value[count > 0]
    spread = shown.std() if len(shown) else 0.0
    if spread == 0:
        return np.zeros(num_items)
    return (value - shown.mean()) / spread


def clicked_popularity(
    popularity: Float[ArrayLike, "V"],
    item: Int[ArrayLike, "N H"],
    click: Bool[ArrayLike, "N H"],
    shown: Bool[ArrayLike, "N H"],
) -> Float[np.ndarray, "N"]:
    """Return the mean popularity of the items that each history clicked: what contaminates a state made of clicks.

    Args:
        popularity: `(V,)`, as `standardised_log_popularity`.
        item: `(N, H)` vocabulary indices.
        click: `(N, H)` their clicks.
        shown: `(N, H)` slots that hold an event.

    Returns:
        `(N,)` float64; NaN where nothing was clicked.
    """
    clicked = np.asarray(click) & np.asarray(shown)
    count = clicked.sum(axis=1)
    total = np.sum(np.asarray(popularity, np.float64)[np.asarray(item)] * clicked, axis=1)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def popularity_direction(state: Float[ArrayLike, "N D"], popularity: Float[ArrayLike, "N"]) -> Float[np.ndarray, "D"]:
    """Return the unit vector along which states move with their users' popularity: Cov(state, popularity), normalised.

    Returns:
        `(D,)` float64; zeros where states do not move with popularity at all.
    """
    covariance = _centred(state).T @ _centred(popularity)
    norm = np.linalg.norm(covariance)
    return covariance / norm if norm > 0 else covariance


def variance_share(state: Float[ArrayLike, "N D"], direction: Float[ArrayLike, "D"]) -> float:
    """Return the share of the states' total variance that lies along a direction, in [0, 1] (P4).

    Args:
        state: `(N, D)`.
        direction: `(D,)`, of any positive length; `popularity_direction` of the RAW states, so that raw and purified
            states are measured along the same axis.

    Returns:
        d' Cov d / (|d|^2 tr Cov); 0 for constant states or a zero direction.
    """
    x, d = _centred(state), np.asarray(direction, np.float64)
    total = np.sum(x**2) * np.sum(d**2)
    return float(np.sum((x @ d) ** 2) / total) if total > 0 else 0.0


def explained_share(state: Float[ArrayLike, "N D"], popularity: Float[ArrayLike, "N"]) -> float:
    """Return the share of the states' total variance that popularity explains linearly, in [0, 1].

    Unlike `variance_share` it has no axis of its own, so popularity cannot hide by being rotated: it is |Cov(s, p)|^2 / (Var(p)
    tr Cov(s)), the redundancy index of Stewart and Love (1968) with one predictor.
    """
    x, p = _centred(state), _centred(popularity)
    total = np.sum(x**2) * np.sum(p**2)
    return float(np.sum((x.T @ p) ** 2) / total) if total > 0 else 0.0


def ridge_r2(
    state: Float[ArrayLike, "N D"], label: Float[ArrayLike, "N"], *, penalty: float = 1e-3, seed: int = 0
) -> float:
    """Return the cross-validated R2 with which ridge regression reads a label off the states (P4).

    R2 says whether a label can be read, not how much of the state it is: it ignores scale and stays high for a tiny
    residue, so it stands beside `variance_share`, never in its place.

    Args:
        state: `(N, D)`; standardised within each fold's training part.
        label: `(N,)`.
        penalty: on the squared weights, in units of one row's squared error; small, so that small residues are read too.
        seed: of the 5 folds.

    Returns:
        1 - sum of squared errors over that of the fold's training mean, over all held-out rows; at most 1, and below
        0 where the states mislead. 0 for a constant label.
    """

    def fit_predict(x: np.ndarray, y: np.ndarray, x_test: np.ndarray) -> np.ndarray:
        gram = x.T @ x + penalty * np.eye(x.shape[1])
        return x_test @ np.linalg.solve(gram, x.T @ (y - y.mean())) + y.mean()

    return _cross_validated_r2(state, label, fit_predict, seed)


def mlp_r2(state: Float[ArrayLike, "N D"], label: Float[ArrayLike, "N"], *, hidden: int = 32, seed: int = 0) -> float:
    """Return the cross-validated R2 with which a small network reads a label off the states (P4).

    It finds what is coded nonlinearly, where a ridge regression is blind. Needs scikit-learn.

    Args:
        state: `(N, D)`, as in `ridge_r2`.
        label: `(N,)`.
        hidden: width of its one hidden layer.
        seed: of folds and weights.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.neural_network import MLPRegressor
    except ImportError:
        raise missing_scikit_learn() from None

    def fit_predict(x: np.ndarray, y: np.ndarray, x_test: np.ndarray) -> np.ndarray:
        spread = y.std() or 1.0
        network = MLPRegressor(
            hidden_layer_sizes=(hidden,),
            alpha=1e-2,
            learning_rate_init=1e-2,
            max_iter=200,
            early_stopping=True,
            random_state=seed,
        )
        network.fit(x, (y - y.mean()) / spread)
        return network.predict(x_test) * spread + y.mean()

    return _cross_validated_r2(state, label, fit_predict, seed)


def distance_correlation(x: Float[ArrayLike, "N D"], y: Float[ArrayLike, "N E"]) -> float:
    """Return the bias-corrected squared distance correlation of paired samples: 0 in expectation if independent (P4).

    It sees every dependence, linear or not, and no regression is fitted.

    Args:
        x: `(N, D)` or `(N,)`, N at least 4; cost and memory grow as N^2.
        y: `(N, E)` or `(N,)`.

    Returns:
        At most 1, and about 0 (of either sign) under independence. Source: Szekely and Rizzo 2014.
    """
    a, b = (_u_centred(_columns(values)) for values in (x, y))
    norm = np.sum(a * a) * np.sum(b * b)
    return float(np.sum(a * b) / np.sqrt(norm)) if norm > 0 else 0.0


def missing_scikit_learn() -> InputError:
    """Return the error for a probe that needs scikit-learn where it is not installed."""
    return InputError(
        "the probes need scikit-learn, which is not installed: pip install scikit-learn (and matplotlib for the pictures)"
    )


def _columns(x: ArrayLike) -> np.ndarray:
    values = np.asarray(x, np.float64)
    return values[:, None] if values.ndim == 1 else values


def _centred(x: ArrayLike) -> np.ndarray:
    values = np.asarray(x, np.float64)
    return values - values.mean(axis=0)


def _u_centred(x: np.ndarray) -> np.ndarray:
    """Return the U-centred matrix of distances between rows, its diagonal 0."""
    square = np.sum(x**2, axis=1)
    distance = np.sqrt(np.maximum(square[:, None] + square - 2 * x @ x.T, 0.0))
    np.fill_diagonal(distance, 0.0)
    n = len(x)
    row = distance.sum(axis=0)
    centred = distance - row / (n - 2) - row[:, None] / (n - 2) + row.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0.0)
    return centred


def _cross_validated_r2(state: ArrayLike, label: ArrayLike, fit_predict: FitPredict, seed: int) -> float:
    """Return 1 - SSE / SST over held-out rows of `FOLDS` folds, SST about each fold's training mean."""
    x, y = _columns(state), np.asarray(label, np.float64)
    if np.ptp(y) == 0:
        return 0.0
    fold = np.random.default_rng(seed).permutation(len(y)) % FOLDS
    error = total = 0.0
    for held in (fold == f for f in range(FOLDS)):
        mean, std = x[~held].mean(axis=0), x[~held].std(axis=0)
        z = (x - mean) / np.where(std > 1e-9, std, 1.0)
        error += np.sum((fit_predict(z[~held], y[~held], z[held]) - y[held]) ** 2)
        total += np.sum((y[held] - y[~held].mean()) ** 2)
    return float(1 - error / total)
