"""What a log is like: the statistics of the paper's Table 1, and how unequally its items were shown."""

import numpy as np

from dsrm_jax.data.log import POPULAR_SHARE, InteractionLog, Interactions
from dsrm_jax.types import Json

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BLOCK_PAIRS = 1 << 24
CURVE = (0.01, 0.05, 0.1, 0.2, 0.5)
CLOCK = (631_152_000_000, 4_102_444_800_000)  # milliseconds; a log whose times lie in 1990 to 2100 has a clock


def describe(log: InteractionLog) -> Json:
    """Compute the statistics of the paper's Table 1 and of the popularity bias.

    Returns:
        Plain numbers and texts, ready for JSON: `name`, `source`, `users`, `items`, `categories` and `catalogue` (counts of the
        vocabulary), `train` and `test` (`rows`, `users`, `items`, `click_rate` in [0, 1], `mean_feedback`, `density`: distinct
        pairs per user times item, `rows_per_user` and `user_click_rate`: mean and quantiles over the split's users), and
        `popularity` (Gini coefficient and the top 20 % of items' share of the training exposure, both over all items and over the
        catalogue, zero-exposure items included, and `curve`: the share of the most shown 1, 5, 10, 20 and 50 % of all items),
        `rows` and `click_rate` of both splits together, `span` (`first` and `last` time, ISO 8601 in UTC; None where the log has
        no clock) and `notes` (what was understood and dropped when an own log was read).
    """
    return {
        "name": log.name,
        "source": log.source,
        "users": log.num_users,
        "items": log.num_items,
        "categories": len(log.category_names),
        "catalogue": len(log.catalogue),
        "rows": len(log.train) + len(log.test),
        "click_rate": float(np.concatenate([log.train.click, log.test.click]).mean()),
        "span": _span(np.concatenate([log.train.time, log.test.time])),
        "notes": list(log.notes),
        "train": _describe_rows(log.train, log.num_items),
        "test": _describe_rows(log.test, log.num_items),
        "popularity": {
            "gini": gini(log.exposure),
            "top_share": top_share(log.exposure),
            "catalogue_gini": gini(log.exposure[log.catalogue]),
            "catalogue_top_share": top_share(log.exposure[log.catalogue]),
            "curve": {f"{100 * share:g} %": top_share(log.exposure, share) for share in CURVE},
        },
    }


def gini(counts: np.ndarray) -> float:
    """Return the Gini coefficient of `(N,)` non-negative counts: 0 (all equal, or no mass) to 1 - 1/N (all on one)."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    total = ordered.sum()
    if total == 0:
        return 0.0
    rank = np.arange(1, len(ordered) + 1)
    return float((2 * rank - len(ordered) - 1) @ ordered / (len(ordered) * total))


def top_share(counts: np.ndarray, share: float = POPULAR_SHARE) -> float:
    """Return which share of the mass of `(N,)` counts lies on the largest `ceil(share N)`; 0 where there is no mass."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    total = ordered.sum()
    num_top = int(np.ceil(share * len(ordered)))
    return float(ordered[:num_top].sum() / total) if total else 0.0


def _span(time: np.ndarray) -> Json | None:
    if not len(time) or time.min() < CLOCK[0] or time.max() > CLOCK[1]:
        return None
    first, last = (f"{np.datetime64(int(moment), 'ms')}Z" for moment in (time.min(), time.max()))
    return {"first": first, "last": last}


def _describe_rows(rows: Interactions, num_items: int) -> Json:
    if len(rows) == 0:
        return {"rows": 0, "users": 0, "items": 0}
    counts = np.bincount(rows.user)
    active = counts > 0
    clicks = np.bincount(rows.user, weights=rows.click, minlength=len(counts))
    shown = np.count_nonzero(np.bincount(rows.item))
    return {
        "rows": len(rows),
        "users": int(active.sum()),
        "items": int(shown),
        "click_rate": float(rows.click.mean()),
        "mean_feedback": float(rows.feedback.mean(dtype=np.float64)),
        "density": _num_pairs(rows, num_items) / (int(active.sum()) * int(shown)),
        "rows_per_user": _spread(counts[active]),
        "user_click_rate": _spread(clicks[active] / counts[active]),
    }


def _num_pairs(rows: Interactions, num_items: int) -> int:
    """Count distinct (user, item) pairs by marking them, a block of users at a time."""
    num_users = int(rows.user[-1]) + 1
    start = rows.user_start(num_users)
    block = max(1, BLOCK_PAIRS // num_items)
    total = 0
    for first in range(0, num_users, block):
        part = slice(start[first], start[min(first + block, num_users)])
        seen = np.zeros(block * num_items, dtype=bool)
        seen[(rows.user[part].astype(np.int64) - first) * num_items + rows.item[part]] = True
        total += int(np.count_nonzero(seen))
    return total


def _spread(values: np.ndarray) -> dict[str, float]:
    quantiles = np.quantile(values, QUANTILES)
    named = {f"q{round(100 * q):02d}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)}
    return {"mean": float(values.mean()), **named, "max": float(values.max())}
