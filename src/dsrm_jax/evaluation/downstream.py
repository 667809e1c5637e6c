"""What a purifier is worth downstream: session length decomposed by its closed form (P10 of facts 5.5)."""

from collections.abc import Mapping
from typing import Any

from dsrm_jax.evaluation.metrics import summarise_seeds
from dsrm_jax.evaluation.sessions import Sessions
from dsrm_jax.simulator.leave import expected_length

CONDITIONS = ("identity", "shuffled", "none", "dsrm")


def downstream(
    sessions: Mapping[str, list[Sessions]],
    *,
    slate_size: int,
    max_len: int,
    ad_penalty: int = 1,
    step_cap: int = 0,
    confidence: float = 0.95,
    reference: str = "identity",
) -> dict[str, dict[str, Any]]:
    """Compare one policy under several states and say where a longer session comes from (P10).

    Args:
        sessions: condition to one `Sessions` per seed, host arrays. Of `CONDITIONS`, `identity` acts on raw states, `shuffled` on
            other users' purified ones, `none` on a constant one and `dsrm` on purified ones.
        slate_size: K.
        max_len: T0.
        ad_penalty: extra temper lost for a slate at or above the bound, in steps.
        step_cap: sessions were cut after this many steps; 0: never.
        confidence: level of the intervals.
        reference: what the others are compared with.

    Returns:
        Condition to `length`, `reward` (R_each) and `broken` (p), each an interval, and `decomposition`: `decompose` of its
        length against the reference's.

    Raises:
        KeyError: there are no sessions of the reference.
    """
    results = {
        name: summarise_seeds(
            per_seed,
            slate_size=slate_size,
            max_len=max_len,
            confidence=confidence,
            ad_penalty=ad_penalty,
            step_cap=step_cap,
        )
        for name, per_seed in sessions.items()
    }
    base = _averages(results[reference])
    return {
        name: {metric: result[metric] for metric in ("length", "reward", "broken")}
        | {"decomposition": decompose(_averages(result), base, max_len=max_len, ad_penalty=ad_penalty)}
        for name, result in results.items()
    }


def decompose(
    means: Mapping[str, float], base: Mapping[str, float], *, max_len: int, ad_penalty: int = 1
) -> dict[str, float]:
    """Split a difference of mean session lengths into what reward, balance and neither of them explain.

    The closed form (T0 - 1) / (2 - R_each + p) + 1/2 is changed in one factor after the other, and both orders are averaged
    (Shapley), so that the parts add up exactly.

    Args:
        means: `length`, `reward` (R_each) and `broken` (p) of a condition.
        base: the same of the reference.
        max_len: T0.
        ad_penalty: extra temper lost for a slate at or above the bound, in steps.

    Returns:
        `total`, the difference in steps, and its parts `reward`, `broken` and `residual` (what the closed form misses).
    """

    def length(reward: Mapping[str, float], broken: Mapping[str, float]) -> float:
        return expected_length(max_len, reward["reward"], ad_penalty * broken["broken"])

    before, after = length(base, base), length(means, means)
    mixed = length(means, base) - length(base, means)
    change = after - before
    total = means["length"] - base["length"]
    return {
        "total": total,
        "reward": (change + mixed) / 2,
        "broken": (change - mixed) / 2,
        "residual": total - change,
    }


def _averages(result: Mapping[str, Any]) -> dict[str, float]:
    return {name: result[name]["mean"] for name in ("length", "reward", "broken")}
