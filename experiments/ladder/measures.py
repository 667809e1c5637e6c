"""How well chances of later clicks predict them: sums over each user's events, so that users can be drawn again.

Shapes: N users, M later events of each, B bins of chance, W resamplings of the users.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from dsrm_jax.types import Json
from experiments.ladder.events import Later
from experiments.ladder.rungs import Told

BINS = 10
NEAREST = 5  # skipped items, nearest in popularity, that each clicked one is compared with
RESAMPLES, CONFIDENCE = 2_000, 0.95
FLOOR = 1e-6
Sums = Mapping[str, np.ndarray]


def sums_of(later: Later, told: Told, popularity: Float[np.ndarray, "N M"]) -> dict[str, np.ndarray]:
    """Return what the measures are made of, `(N, ...)` each; `popularity` is that of the later events' items."""
    shown, click = later.shown, later.click.astype(float)
    chance = np.clip(told.averaged, FLOOR, 1 - FLOOR)
    at_state = np.clip(told.at_state, FLOOR, 1 - FLOOR)
    place = np.minimum((chance * BINS).astype(int), BINS - 1)
    binned = np.stack([shown & (place == b) for b in range(BINS)], axis=1)
    wins, compared = comparisons(at_state, click > 0, shown)
    matched, places = matched_ranks(at_state, click > 0, shown, popularity)
    return {
        "events": shown.sum(axis=1).astype(float),
        "log_likelihood": _score(chance, click, shown),
        "log_likelihood_at_state": _score(at_state, click, shown),
        "expected": np.sum(chance * shown, axis=1),
        "clicks": np.sum(click * shown, axis=1),
        "bin_events": binned.sum(axis=2).astype(float),
        "bin_expected": np.einsum("nbm,nm->nb", binned, chance),
        "bin_clicks": np.einsum("nbm,nm->nb", binned, click),
        "auc": np.where(compared > 0, wins / np.maximum(compared, 1), np.nan),
        "matched_auc": matched,
        "matched_ndcg": places,
    }


def _score(chance: np.ndarray, click: np.ndarray, shown: np.ndarray) -> Float[np.ndarray, "N"]:
    return np.sum(shown * (click * np.log(chance) + (1 - click) * np.log(1 - chance)), axis=1)


def comparisons(
    score: Float[np.ndarray, "N M"], click: Bool[np.ndarray, "N M"], shown: Bool[np.ndarray, "N M"]
) -> tuple[Float[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """Return how many pairs of a clicked and a skipped event the score puts right, ties half, and how many there are."""
    pair = (click & shown)[:, :, None] & (~click & shown)[:, None, :]
    gap = score[:, :, None] - score[:, None, :]
    return np.sum(pair * ((gap > 0) + 0.5 * (gap == 0)), axis=(1, 2)), pair.sum(axis=(1, 2))


def matched_ranks(
    score: Float[np.ndarray, "N M"],
    click: Bool[np.ndarray, "N M"],
    shown: Bool[np.ndarray, "N M"],
    popularity: Float[np.ndarray, "N M"],
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """Return each user's mean AUC and NDCG of a clicked event among the `NEAREST` skipped ones of about its popularity.

    NDCG is 1 / log2(1 + rank). NaN where a user clicked everything or nothing.
    """
    found = np.full((2, len(score)), np.nan)
    for user in range(len(score)):
        clicked, skipped = np.flatnonzero(click[user] & shown[user]), np.flatnonzero(~click[user] & shown[user])
        if not len(clicked) or not len(skipped):
            continue
        away = np.abs(popularity[user][clicked][:, None] - popularity[user][skipped])
        near = skipped[np.argsort(away, axis=1, kind="stable")[:, :NEAREST]]
        gap = score[user][near] - score[user][clicked][:, None]
        above = np.sum(gap > 0, axis=1) + 0.5 * np.sum(gap == 0, axis=1)
        found[:, user] = np.mean(1 - above / near.shape[1]), np.mean(1 / np.log2(2 + above))
    return found[0], found[1]


def resampled(number: int, *, seed: int = 0) -> Float[np.ndarray, "W N"]:
    """Return how often each user is drawn: once each in the first row, by a bootstrap in the others."""
    drawn = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=RESAMPLES)
    return np.concatenate([np.ones((1, number)), drawn])


def measures(sums: Sums, weight: Float[np.ndarray, "W N"]) -> dict[str, Float[np.ndarray, " W"]]:
    """Return every measure of each resampling.

    `log_likelihood`: of a later event, in nats, averaged over draws where there are any, and `log_likelihood_at_state`;
    `click_rate_error`: expected less observed clicks an event; `calibration_error`: mean absolute difference of the two over
    bins of chance; `auc`: of clicked among skipped events of a user, `matched_auc` and `matched_ndcg`: among those of about
    their popularity.
    """
    events = weight @ sums["events"]
    gap = weight @ (sums["bin_expected"] - sums["bin_clicks"])
    found = {name: (weight @ sums[name]) / events for name in ("log_likelihood", "log_likelihood_at_state")}
    found["click_rate_error"] = (weight @ (sums["expected"] - sums["clicks"])) / events
    found["calibration_error"] = np.abs(gap).sum(axis=1) / events
    for name in ("auc", "matched_auc", "matched_ndcg"):
        known = np.isfinite(sums[name])
        found[name] = (weight[:, known] @ sums[name][known]) / np.maximum(weight[:, known].sum(axis=1), 1)
    return found


def reliability(sums: Sums) -> Json:
    """Return bins of chance: the events in each, their expected and their observed click rate."""
    events, expected, clicks = (sums[name].sum(axis=0) for name in ("bin_events", "bin_expected", "bin_clicks"))
    held = np.maximum(events, 1)
    return {"events": events.tolist(), "expected": (expected / held).tolist(), "observed": (clicks / held).tolist()}


def summarise(rungs: Mapping[str, Sums], *, over: tuple[str, ...]) -> Json:
    """Return each rung's measures with 95 % intervals over users, and its paired differences to the rungs named `over`."""
    weight = resampled(len(next(iter(rungs.values()))["events"]))
    every = {name: measures(sums, weight) for name, sums in rungs.items()}
    result: Json = {}
    for name, found in every.items():
        result[name] = {measure: interval(x) for measure, x in found.items()}
        result[name]["reliability"] = reliability(rungs[name])
        for base in over:
            gaps = {measure: interval(x - every[base][measure]) for measure, x in found.items()}
            result[name][f"over_{base.replace(' ', '_')}"] = gaps
    return result


def interval(x: Float[np.ndarray, " W"]) -> Json:
    """Return a measure of the users as they are, and its interval over those drawn again."""
    low, high = np.quantile(x[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"mean": float(x[0]), "low": float(low), "high": float(high)}
