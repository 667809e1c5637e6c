"""What the logs alone decide: Table 1 and Figure 2, with the controls that Figure 2 needs."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from dsrm_jax.data.log import InteractionLog
from dsrm_jax.data.statistics import describe
from dsrm_jax.types import Json

MIN_EXPOSURE = 20  # impressions: below, an item's rate is noise
NUM_SHUFFLES = 20
STATISTICS = "video_features_statistic_pure.csv"  # KuaiRand's own counts, the columns that the paper names
SHOWN, PLAYED = "show_user_num", "play_user_num"


def data_facts(log: InteractionLog, folder: Path | None = None) -> Json:
    """Return Table 1's numbers, Figure 2's, and how far the held-out side is unseen.

    Args:
        log: of the data set.
        folder: of its files, where there are any; KuaiRand's item statistics are looked for in it.

    Returns:
        `describe` of the log; `popularity` (`popularity_against_reward`); `printed_columns`, the same for the columns that the
        paper names, None where their file is absent; `shared_users`, the share of held-out users that the training log
        knows.
    """
    clicks = np.bincount(log.train.item, weights=log.train.click, minlength=log.num_items)
    known, held_out = np.unique(log.train.user), np.unique(log.test.user)
    counts = item_statistics(folder) if folder is not None else None
    return {
        "describe": describe(log),
        "popularity": popularity_against_reward(log.exposure, clicks),
        "printed_columns": None if counts is None else popularity_against_reward(*counts),
        "shared_users": float(np.mean(np.isin(held_out, known))) if len(held_out) else float("nan"),
    }


def popularity_against_reward(shown: Float[np.ndarray, "I"], clicked: Float[np.ndarray, "I"], *, seed: int = 0) -> Json:
    """Correlate popularity with reward, as counts and as rates, and with rates that are independent of popularity.

    A count of clicks is bounded by the count of impressions, so that the two correlate whatever users like. The control shuffles
    the click rates over items, which makes them independent of popularity, and counts again.

    Args:
        shown: `(I,)` impressions of each item, or a mean of them; non-negative.
        clicked: `(I,)` clicks of each item in the same unit.
        seed: of the shuffles.

    Returns:
        Squared Pearson correlations over the items with at least `MIN_EXPOSURE` impressions: `counts` (impressions, clicks),
        `rates` (impressions, clicks per impression), `log_rates` (logarithm of impressions, the same), `shuffled` (mean over
        `NUM_SHUFFLES` shuffles) with `shuffled_deviation`; `items`, how many there were; and `points`, up to 400 items as
        `[impressions, clicks, rate]` for a picture.
    """
    kept = shown >= MIN_EXPOSURE
    shown, clicked = np.asarray(shown, np.float64)[kept], np.asarray(clicked, np.float64)[kept]
    rate = clicked / shown
    generator = np.random.default_rng(seed)
    shuffled = [r_squared(shown, shown * generator.permutation(rate)) for _ in range(NUM_SHUFFLES)]
    order = np.argsort(-shown, kind="stable")
    picked = order[np.unique(np.linspace(0, len(order) - 1, min(400, len(order))).astype(int))]
    return {
        "items": int(kept.sum()),
        "counts": r_squared(shown, clicked),
        "rates": r_squared(shown, rate),
        "log_rates": r_squared(np.log(shown), rate),
        "shuffled": float(np.mean(shuffled)),
        "shuffled_deviation": float(np.std(shuffled)),
        "points": np.stack([shown, clicked, rate], axis=1)[picked].tolist(),
    }


def r_squared(x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]) -> float:
    """Return the squared Pearson correlation of two columns; NaN where one is constant or there are fewer than 3 rows."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def item_statistics(folder: Path) -> tuple[Float[np.ndarray, "I"], Float[np.ndarray, "I"]] | None:
    """Return the columns that the paper correlates, `show_user_num` and `play_user_num`, or None where the file is absent."""
    import csv

    path = next(iter(sorted(folder.rglob(STATISTICS))), None) if folder.is_dir() else None
    if path is None:
        return None
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(float(row[SHOWN] or 0), float(row[PLAYED] or 0)) for row in csv.DictReader(file)]
    shown, played = np.array(rows).T
    return shown, played
