"""The paper's metrics from complete sessions, with confidence intervals over seeds and sessions."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from dsrm_jax.data.statistics import gini
from dsrm_jax.evaluation.sessions import Sessions
from dsrm_jax.evaluation.settings import EvaluationConfig
from dsrm_jax.simulator.leave import expected_length
from dsrm_jax.simulator.settings import EnvironmentConfig
from dsrm_jax.types import Json

RATES = ("reward", "slate_ad", "broken")  # per slate: a session's sum over its length
PER_SESSION = ("length", "return", *RATES)
METRICS = (*PER_SESSION, "ad", "gini", "coverage")
# per session too, where the environment has them: a reward of its own; sessions of a user who comes back
OWN_RETURN, VISITS = OPTIONAL = ("own_return", "visits")


def session_metrics(
    sessions: Sessions,
    *,
    slate_size: int = EnvironmentConfig.slate_size,
    max_len: int = 0,
    ad_penalty: int = EnvironmentConfig.ad_penalty,
    step_cap: int = EnvironmentConfig.step_cap,
) -> dict[str, float]:
    """Return the metrics of one seed's sessions.

    Args:
        sessions: of one seed, as host arrays.
        slate_size: K.
        max_len: T0, for the closed form; 0: something else than the paper's temper says when users leave, and there is none.
        ad_penalty: extra temper lost for a slate at or above the bound, in steps, for the closed form.
        step_cap: sessions were cut after this many steps; 0: never.

    Returns:
        * `length` (Len): mean steps of a session;
        * `reward` (R_each): clicks per shown item, over all slates;
        * `return` (R_cum): mean over sessions of their summed rewards;
        * `ad` (Absolute Difference): abs(2p - 1) of the share p of popular items in all that a batch shows in
          one step, averaged over steps with the slates shown as weights. Where slates are balanced only on
          average it falls with the batch as 1 / sqrt(num_users);
        * `slate_ad`: mean over slates of abs(2s - 1);
        * `broken` (p): share of slates at or above the bound;
        * `gini`: of item exposure over the catalogue, unshown items included;
        * `coverage`: share of the catalogue shown at least once;
        * `own_return`: mean over sessions of their summed own rewards, where the environment has one;
        * `visits`: mean number of sessions of a user, where users come back; `length` and `return` are then of all of them;
        * `closed_form`: the length that reward and p predict (`leave.expected_length`), at most `step_cap`.
    """
    shown = np.asarray(sessions.step_slates, np.float64)
    share = np.asarray(sessions.step_popular) / np.maximum(shown * slate_size, 1)
    counts = np.asarray(sessions.item_count)
    means = _means(_session_sums(sessions, slate_size))
    found = {
        **means,
        "ad": float(np.sum(shown * np.abs(2 * share - 1)) / np.sum(shown)),
        "gini": gini(counts),
        "coverage": float(np.mean(counts > 0)),
    }
    if max_len:
        expected = expected_length(max_len, means["reward"], ad_penalty * means["broken"])
        found["closed_form"] = float(min(expected, step_cap or np.inf))
    return found


def interval(per_seed: Sequence[float], session_error: float, *, confidence: float) -> dict[str, float]:
    """Return the mean over seeds with an interval that neither seeds nor sessions make too narrow.

    The half-width is the larger of Student's t interval over the seeds' means (they vary with the seed and with
    their sessions) and the normal interval of the sessions pooled over seeds; with one seed only the second is
    there, and says nothing about other seeds.

    Args:
        per_seed: the metric of each seed.
        session_error: root mean square over seeds of the standard error that sessions alone give a seed's
            metric; NaN where it is not known.
        confidence: level, in (0, 1).

    Returns:
        `mean`, `low` and `high`; the bounds are NaN where neither kind of spread is known.
    """
    values = np.asarray(per_seed, np.float64)
    upper = (1 + confidence) / 2
    half = stats.norm.ppf(upper) * session_error
    if len(values) > 1:
        half = np.fmax(half, stats.t.ppf(upper, len(values) - 1) * np.std(values, ddof=1))
    mean, half = float(np.mean(values)), float(half / np.sqrt(len(values)))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def influences(
    sessions: Sessions, *, slate_size: int = EnvironmentConfig.slate_size
) -> dict[str, Float[np.ndarray, "N"]]:
    """Return by how much each session moves a seed's metrics, to first order and times N.

    For a mean it is the session's distance from it; for a ratio of sums, rate = sum(x) / sum(length), it is (x - rate * length) /
    mean(length), the delta method. Their standard deviation over sqrt(N) is the metric's standard error.

    Args:
        sessions: of one seed, host arrays.
        slate_size: K.

    Returns:
        Of each metric of `PER_SESSION`, and of those of `OPTIONAL` that there are, `(N,)` float64 with mean 0. The others belong
        to the whole set of sessions: only their spread over seeds is known.
    """
    sums = _session_sums(sessions, slate_size)
    means, length = _means(sums), sums["length"]
    result = {"length": length - means["length"], "return": sums["reward"] - means["return"]}
    result |= {name: sums[name] - means[name] for name in OPTIONAL if name in sums}
    for name in RATES:
        result[name] = (sums[name] - means[name] * length) / means["length"]
    return result


def summarise(
    per_seed: Sequence[Sessions],
    *,
    slate_size: int = EnvironmentConfig.slate_size,
    confidence: float = EvaluationConfig.confidence,
    max_len: int = 0,
    ad_penalty: int = EnvironmentConfig.ad_penalty,
    step_cap: int = EnvironmentConfig.step_cap,
) -> Json:
    """Return a method's result: intervals per metric, the closed form of Len, and each seed's own numbers.

    Args:
        per_seed: one `Sessions` per seed, host arrays.
        slate_size: K.
        confidence: level of the intervals, in (0, 1).
        max_len: as in `session_metrics`.
        ad_penalty: as in `session_metrics`.
        step_cap: as in `session_metrics`.

    Returns:
        Metric name to `{"mean", "low", "high"}` (`interval`); `closed_form`, if any, to a number; `seeds` to a list of
        `session_metrics`; `sessions`, how many there were in all; and `confidence`.
    """
    seeds = [
        session_metrics(s, slate_size=slate_size, max_len=max_len, ad_penalty=ad_penalty, step_cap=step_cap)
        for s in per_seed
    ]
    errors = _session_errors([influences(s, slate_size=slate_size) for s in per_seed])
    result: Json = {
        name: interval([s[name] for s in seeds], errors.get(name, np.nan), confidence=confidence)
        for name in (*METRICS, *OPTIONAL)
        if name in seeds[0]
    }
    if max_len:
        result["closed_form"] = float(np.mean([s["closed_form"] for s in seeds]))
    sessions = sum(len(s.length) for s in per_seed)
    return result | {"seeds": seeds, "sessions": sessions, "confidence": confidence}


def difference(
    method: Sequence[Sessions],
    other: Sequence[Sessions],
    *,
    slate_size: int = EnvironmentConfig.slate_size,
    confidence: float = EvaluationConfig.confidence,
) -> dict[str, dict[str, float]]:
    """Return the paired difference of two methods, `method` minus `other`, over the same seeds and users.

    Seeds are paired, and so are sessions: run under the same key, the n-th session of both is the same user
    with the same history, so what the users differ by cancels.

    Args:
        method: one `Sessions` per seed, host arrays.
        other: of the other method, same seeds, keys and number of sessions.
        slate_size: K.
        confidence: level of the intervals, in (0, 1).

    Returns:
        Of each metric of `PER_SESSION`, `{"mean", "low", "high"}` as `interval` gives it.

    Raises:
        ValueError: if the two do not have the same number of seeds, or of sessions.
    """
    pairs = list(zip(method, other, strict=True))
    gaps = []
    for a, b in pairs:
        first, second = influences(a, slate_size=slate_size), influences(b, slate_size=slate_size)
        if len(a.length) != len(b.length):
            raise ValueError(f"{len(a.length)} sessions cannot be paired with {len(b.length)}")
        gaps.append({name: first[name] - second[name] for name in PER_SESSION})
    errors = _session_errors(gaps)
    means = [[_means(_session_sums(s, slate_size)) for s in pair] for pair in pairs]
    return {
        name: interval([a[name] - b[name] for a, b in means], errors[name], confidence=confidence)
        for name in PER_SESSION
    }


def _session_sums(sessions: Sessions, slate_size: int) -> dict[str, Float[np.ndarray, "N"]]:
    """Return each session's length, and its sums of rewards, of abs(2s - 1) and of slates off balance."""
    sums = {
        "length": np.asarray(sessions.length, np.float64),
        "reward": np.asarray(sessions.clicks) / slate_size,
        "slate_ad": np.asarray(sessions.imbalance) / slate_size,
        "broken": np.asarray(sessions.broken, np.float64),
    }
    more = {OWN_RETURN: sessions.total, VISITS: sessions.visits}
    return sums | {name: np.asarray(sum_, np.float64) for name, sum_ in more.items() if sum_ is not None}


def _means(sums: Mapping[str, Float[np.ndarray, "N"]]) -> dict[str, float]:
    """Return the metrics of `PER_SESSION`, and those of `OPTIONAL` that there are."""
    length = float(np.mean(sums["length"]))
    rates = {name: float(np.mean(sums[name])) / length for name in RATES}
    own = {name: float(np.mean(sums[name])) for name in sums if name in OPTIONAL}
    return {"length": length, "return": float(np.mean(sums["reward"])), **rates, **own}


def _session_errors(per_seed: Sequence[Mapping[str, Float[np.ndarray, "N"]]]) -> dict[str, float]:
    """Return, of each metric's influences, the root mean square over seeds of their standard errors."""

    def squared(influence: Float[np.ndarray, "N"]) -> float:
        num_sessions = len(influence)
        return float(np.var(influence, ddof=1) / num_sessions) if num_sessions > 1 else np.nan

    return {name: float(np.sqrt(np.mean([squared(s[name]) for s in per_seed]))) for name in per_seed[0]}
