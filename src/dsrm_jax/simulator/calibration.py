"""How well predicted click probabilities rank and match clicks: AUC, log-loss and calibration, in NumPy.

Of N rows, `scores` are any finite real numbers, `probability` lies in [0, 1], and `labels` are bool or 0/1. M bins.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

SMALLEST_PROBABILITY = 1e-7


class CalibrationTable(NamedTuple):
    """Predictions in equal-width bins of probability; empty bins hold NaN."""

    rows: Int[np.ndarray, "M"]  # int64, per bin
    probability: Float[np.ndarray, "M"]  # float64, mean prediction per bin, in [0, 1]
    rate: Float[np.ndarray, "M"]  # float64, share of clicks per bin, in [0, 1]


def auc(scores: Float[np.ndarray, "N"], labels: Bool[np.ndarray, "N"]) -> float:
    """Return the area under the ROC curve: the chance that a click outranks a non-click, ties counted half.

    NaN where all labels are equal.
    """
    labels = np.asarray(labels, dtype=bool)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    rank_sum = rankdata(np.asarray(scores))[labels].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def log_loss(probability: Float[np.ndarray, "N"], labels: Bool[np.ndarray, "N"]) -> float:
    """Return the mean negative log-likelihood of clicks in nats, probabilities clipped to [1e-7, 1 - 1e-7]."""
    clipped = np.clip(np.asarray(probability, dtype=np.float64), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return float(-np.mean(np.where(np.asarray(labels, dtype=bool), np.log(clipped), np.log1p(-clipped))))


def calibration_table(
    probability: Float[np.ndarray, "N"], labels: Bool[np.ndarray, "N"], *, num_bins: int = 20
) -> CalibrationTable:
    """Compare mean predictions with click shares in `num_bins` equal-width bins of [0, 1]."""
    probability = np.asarray(probability, dtype=np.float64)
    bins = np.minimum((probability * num_bins).astype(np.int64), num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    divisor = np.where(count > 0, count, np.nan)
    mean = np.bincount(bins, weights=probability, minlength=num_bins) / divisor
    rate = np.bincount(bins, weights=np.asarray(labels, dtype=np.float64), minlength=num_bins) / divisor
    return CalibrationTable(rows=count, probability=mean, rate=rate)


def expected_calibration_error(
    probability: Float[np.ndarray, "N"], labels: Bool[np.ndarray, "N"], *, num_bins: int = 20
) -> float:
    """Return the row-weighted mean gap between prediction and click share over `num_bins` equal-width bins, in [0, 1]."""
    table = calibration_table(probability, labels, num_bins=num_bins)
    filled = table.rows > 0
    gap = np.abs(table.probability[filled] - table.rate[filled])
    return float(np.average(gap, weights=table.rows[filled])) if filled.any() else float("nan")
