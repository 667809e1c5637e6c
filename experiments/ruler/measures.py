"""What is measured of an estimate, user by user, and how users are averaged.

Shapes: E history lengths, B test users, K draws, D coordinates, G held-out items.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dsrm_jax.types import Json
from experiments.ruler.worlds import World, chance

SLATE = 6
REGIONS = (0.5, 0.9)
RESAMPLES, CONFIDENCE = 1_000, 0.95


class Estimate(NamedTuple):
    """A method's answer for every test user and history length."""

    mean: Float[np.ndarray, "E B D"]
    draws: Float[np.ndarray, "E B K D"] | None = None  # of the posterior; None: the method has none


def measure(world: World, estimate: Estimate) -> dict[str, Float[np.ndarray, "E B"]]:
    """Return each user's measures.

    `squared_error`: of the mean, mean over coordinates. `log_likelihood`: of a held-out click, in nats, expected over the click,
    at the mean; `predictive`: the same with the chance averaged over the draws. `region_50`, `region_90`: whether the taste lies
    in the ball about the mean that holds that share of the draws. `regret`: expected clicks of the best slate of 6 by the true
    taste less those of the best slate by the mean.
    """
    true = chance(world.test @ world.vectors.T + world.bias)
    held = np.take_along_axis(true, world.held_out, axis=1)
    guessed = estimate.mean @ world.vectors.T + world.bias
    best = np.sort(true, axis=1)[:, -SLATE:].sum(axis=1)
    slate = np.argpartition(-guessed, SLATE, axis=-1)[..., :SLATE]
    found = {
        "squared_error": np.mean((estimate.mean - world.test) ** 2, axis=-1),
        "log_likelihood": _expected(held, chance(np.take_along_axis(guessed, world.held_out[None], axis=2))),
        "regret": best - np.take_along_axis(true[None], slate, axis=2).sum(axis=-1),
    }
    if estimate.draws is not None:
        vectors, bias = world.vectors[world.held_out], world.bias[world.held_out]
        averaged = [np.mean(chance(x @ vectors.swapaxes(1, 2) + bias[:, None]), axis=1) for x in estimate.draws]
        found["predictive"] = _expected(held, np.stack(averaged))
        off = np.linalg.norm(estimate.mean - world.test, axis=-1)
        spread = np.linalg.norm(estimate.draws - estimate.mean[:, :, None], axis=-1)
        for share in REGIONS:
            found[f"region_{100 * share:.0f}"] = (off <= np.quantile(spread, share, axis=-1)).astype(float)
    return found


def _expected(held: np.ndarray, guessed: np.ndarray) -> np.ndarray:
    guessed = np.clip(guessed, 1e-7, 1 - 1e-7)
    return np.mean(held * np.log(guessed) + (1 - held) * np.log(1 - guessed), axis=-1)


def summarise(
    own: Mapping[str, Float[np.ndarray, "E N"]],
    others: Mapping[str, Mapping[str, Float[np.ndarray, "E N"]]],
    lengths: tuple[int, ...],
) -> Json:
    """Return, by number of events, each measure's mean over users with its interval, and ratios of squared errors.

    `over_NAME` is the ratio of mean squared errors, its interval a bootstrap over users that draws the same users for both.
    """
    users = next(iter(own.values())).shape[1]
    weight = np.random.default_rng(0).multinomial(users, np.full(users, 1 / users), size=RESAMPLES) / users
    found: Json = {}
    for i, length in enumerate(lengths):
        at: Json = {name: _interval(np.mean(value[i]), weight @ value[i]) for name, value in own.items()}
        error = own["squared_error"][i]
        for name, other in others.items():
            base = other["squared_error"][i]
            at[f"over_{name}"] = _interval(error.mean() / base.mean(), (weight @ error) / (weight @ base))
        found[str(length)] = at
    return found


def _interval(value: float, resampled: np.ndarray) -> Json:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"mean": float(value), "low": float(low), "high": float(high)}
