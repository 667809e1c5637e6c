"""Metrics against pure Python over raw steps; intervals against simulation and the bootstrap."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dsrm_jax.evaluation.metrics import (
    METRICS,
    PER_SESSION,
    difference,
    influences,
    interval,
    session_metrics,
    summarise,
)
from dsrm_jax.evaluation.sessions import Sessions

K, NUM_ITEMS, MAX_LEN, BOUND = 6, 30, 30, Fraction(3, 10)
LANES = 7


@dataclass
class Step:
    """One slate that a user saw."""

    batch: int
    time: int
    items: list[int]
    clicks: list[bool]


def draw_traces(seed, num_sessions=20, popular_share=0.4):
    """Raw steps of sessions of random length, items 0..5 being the popular ones."""
    rng = np.random.default_rng(seed)
    weight = np.where(np.arange(NUM_ITEMS) < 6, popular_share / 6, (1 - popular_share) / 24)
    return [
        [
            Step(
                batch=index // LANES,
                time=t,
                items=rng.choice(NUM_ITEMS - 2, K, replace=False, p=weight[:-2] / weight[:-2].sum()).tolist(),
                clicks=(rng.random(K) < rng.random()).tolist(),
            )
            for t in range(rng.integers(1, 12))
        ]
        for index in range(num_sessions)
    ]


def popular_in(step):
    return sum(item < 6 for item in step.items)


def is_broken(step):
    return abs(Fraction(2 * popular_in(step), K) - 1) >= BOUND


def to_sessions(traces):
    num_batches = traces[-1][0].batch + 1
    step_popular, step_slates = np.zeros((2, num_batches, 12), np.int32)
    item_count = np.zeros(NUM_ITEMS, np.int32)
    for step in (step for trace in traces for step in trace):
        step_popular[step.batch, step.time] += popular_in(step)
        step_slates[step.batch, step.time] += 1
        item_count[step.items] += 1

    def total(count):
        return np.array([sum(count(step) for step in trace) for trace in traces], np.int32)

    return Sessions(
        length=total(lambda step: 1),
        clicks=total(lambda step: sum(step.clicks)),
        popular=total(popular_in),
        imbalance=total(lambda step: abs(2 * popular_in(step) - K)),
        broken=total(is_broken),
        step_popular=step_popular,
        step_slates=step_slates,
        item_count=item_count,
    )


def mean(values):
    values = list(values)
    return Fraction(sum(values), len(values))


def reference(traces):
    """Every metric from its definition, in rationals."""
    steps = [step for trace in traces for step in trace]
    moments = {(step.batch, step.time) for step in steps}
    ad = Fraction(0)
    for moment in moments:
        shown = [step for step in steps if (step.batch, step.time) == moment]
        share = Fraction(sum(popular_in(step) for step in shown), K * len(shown))
        ad += Fraction(len(shown), len(steps)) * abs(2 * share - 1)
    counts = [sum(step.items.count(item) for step in steps) for item in range(NUM_ITEMS)]
    pairs = sum(abs(a - b) for a in counts for b in counts)
    reward, broken = mean(mean(step.clicks) for step in steps), mean(is_broken(step) for step in steps)
    return {
        "length": mean(len(trace) for trace in traces),
        "return": mean(sum(mean(step.clicks) for step in trace) for trace in traces),
        "reward": reward,
        "ad": ad,
        "slate_ad": mean(abs(Fraction(2 * popular_in(step), K) - 1) for step in steps),
        "broken": broken,
        "gini": Fraction(pairs, 2 * NUM_ITEMS * sum(counts)),  # half the relative mean absolute difference
        "coverage": mean(count > 0 for count in counts),
        "closed_form": (MAX_LEN - 1) / (2 - reward + broken) + Fraction(1, 2),
    }


@pytest.mark.parametrize("seed", range(3))
def test_every_metric_equals_its_definition_over_raw_steps(seed):
    traces = draw_traces(seed)
    found = session_metrics(to_sessions(traces), slate_size=K, max_len=MAX_LEN)
    expected = reference(traces)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), abs=1e-12), name


def test_the_return_is_length_times_reward():
    found = session_metrics(to_sessions(draw_traces(4)), slate_size=K, max_len=MAX_LEN)
    assert found["return"] == pytest.approx(found["length"] * found["reward"], rel=1e-12)


@pytest.mark.parametrize(("penalty", "cap"), [(0, 0), (2, 0), (1, 5)])
def test_the_closed_form_knows_the_penalty_and_the_cap(penalty, cap):
    sessions = to_sessions(draw_traces(0))
    found = session_metrics(sessions, slate_size=K, max_len=MAX_LEN, ad_penalty=penalty, step_cap=cap)
    expected = 29 / (2 - found["reward"] + penalty * found["broken"]) + 0.5
    assert found["closed_form"] == pytest.approx(min(expected, cap or 99))


def test_an_interval_is_the_wider_of_seeds_and_sessions():
    values = np.array([1.0, 1.4, 1.5])
    t = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = interval(values, 0.01, confidence=0.9)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((1.3, t.low, t.high))
    normal = stats.norm(1.3, 2.0 / np.sqrt(3)).interval(0.9)
    found = interval(values, 2.0, confidence=0.9)
    assert (found["low"], found["high"]) == pytest.approx(normal)


def test_one_seed_knows_its_sessions_alone():
    found = interval([1.0], 0.5, confidence=0.95)
    assert (found["low"], found["high"]) == pytest.approx(stats.norm(1.0, 0.5).interval(0.95))
    assert np.isnan(interval([1.0], np.nan, confidence=0.95)["low"])
    t = interval([1.0, 2.0], np.nan, confidence=0.95)
    assert t["high"] - t["mean"] == pytest.approx(stats.t(1).ppf(0.975) * np.std([1, 2], ddof=1) / np.sqrt(2))


def random_sessions(rng, num_sessions, *, reward=0.6, shared=None):
    """Sessions whose users differ in taste, so that length and clicks are correlated; `shared` fixes the tastes."""
    taste = np.clip(reward + (rng.normal(0, 0.15, num_sessions) if shared is None else shared), 0.02, 0.98)
    length = np.ceil(29 / (2 - taste) + rng.uniform(0, 1, num_sessions)).astype(np.int32)
    clicks = rng.binomial(K * length, taste).astype(np.int32)
    broken = rng.binomial(length, 0.3).astype(np.int32)
    return Sessions(
        length=length,
        clicks=clicks,
        popular=clicks,
        imbalance=(2 * broken).astype(np.int32),
        broken=broken,
        step_popular=np.full((1, 2), 3 * num_sessions, np.int32),
        step_slates=np.full((1, 2), num_sessions, np.int32),
        item_count=np.arange(9, dtype=np.int32),
    )


def test_standard_errors_equal_the_bootstraps():
    sessions = random_sessions(np.random.default_rng(0), 400)
    columns = {
        "length": (sessions.length,),
        "return": (sessions.clicks / K,),
        "reward": (sessions.clicks / K, sessions.length),
        "slate_ad": (sessions.imbalance / K, sessions.length),
        "broken": (sessions.broken, sessions.length),
    }

    def statistic(total, length=None, axis=-1):
        return np.mean(total, axis) / (1 if length is None else np.mean(length, axis))

    found = influences(sessions, slate_size=K)
    assert set(found) == set(columns) == set(PER_SESSION)
    for name, data in columns.items():
        result = stats.bootstrap(
            data, statistic, paired=True, n_resamples=4000, method="basic", rng=np.random.default_rng(1)
        )
        error = np.std(found[name], ddof=1) / np.sqrt(400)
        assert error == pytest.approx(result.standard_error, rel=0.05), name
        assert abs(np.mean(found[name])) < 1e-12


@pytest.mark.parametrize(("num_seeds", "seed_spread"), [(1, 0.0), (3, 0.0), (3, 0.05)])
def test_nominal_coverage_holds_with_and_without_seed_variance(num_seeds, seed_spread):
    """1,000 experiments: 95 % intervals hold the truth in at least 93 %."""
    rng = np.random.default_rng(num_seeds)
    truth, sessions_per_seed, hits = 20.0, 60, 0
    for _ in range(1000):
        level = truth * (1 + rng.normal(0, seed_spread, (num_seeds, 1)))
        lengths = level * rng.gamma(9.0, 1 / 9.0, (num_seeds, sessions_per_seed))
        error = np.sqrt(np.mean(np.var(lengths, axis=1, ddof=1) / sessions_per_seed))
        found = interval(lengths.mean(axis=1), error, confidence=0.95)
        hits += found["low"] <= truth <= found["high"]
    assert hits >= 930


def test_summaries_hold_seeds_intervals_and_the_number_of_sessions():
    traces = [draw_traces(seed) for seed in (1, 2, 3)]
    sessions = [to_sessions(trace) for trace in traces]
    found = summarise(sessions, slate_size=K, max_len=MAX_LEN, confidence=0.9)
    expected = [reference(trace) for trace in traces]
    assert found["sessions"] == 60
    assert found["confidence"] == 0.9
    for name in METRICS:
        values = [float(seed[name]) for seed in expected]
        assert found[name]["mean"] == pytest.approx(np.mean(values), abs=1e-12)
        half = stats.t(2).ppf(0.95) * np.std(values, ddof=1) / np.sqrt(3)
        if name in PER_SESSION:
            errors = [np.std(influences(s, slate_size=K)[name], ddof=1) / np.sqrt(20) for s in sessions]
            half = max(half, stats.norm.ppf(0.95) * np.sqrt(np.mean(np.square(errors)) / 3))
        assert found[name]["high"] - found[name]["low"] == pytest.approx(2 * half), name
    assert found["closed_form"] == pytest.approx(np.mean([float(seed["closed_form"]) for seed in expected]))
    assert found["seeds"][1] == session_metrics(sessions[1], slate_size=K, max_len=MAX_LEN)


def test_a_difference_is_between_the_two_means():
    a = [to_sessions(draw_traces(seed)) for seed in (1, 2)]
    b = [to_sessions(draw_traces(seed)) for seed in (3, 4)]
    found = difference(a, b, slate_size=K, confidence=0.95)
    own = [summarise(x, slate_size=K, max_len=MAX_LEN, confidence=0.95) for x in (a, b)]
    assert set(found) == set(PER_SESSION)
    for name, value in found.items():
        assert value["mean"] == pytest.approx(own[0][name]["mean"] - own[1][name]["mean"], abs=1e-12)
        mirrored = difference(b, a, slate_size=K, confidence=0.95)[name]
        assert (mirrored["low"], mirrored["high"]) == pytest.approx((-value["high"], -value["low"]))


def test_a_method_differs_from_itself_by_exactly_nothing():
    sessions = [random_sessions(np.random.default_rng(seed), 50) for seed in (1, 2)]
    found = difference(sessions, sessions, slate_size=K, confidence=0.95)
    assert all(value == {"mean": 0, "low": 0, "high": 0} for value in found.values())


def test_pairing_users_narrows_the_interval_and_keeps_its_coverage():
    """500 experiments on the same users, the second method better by .05 in taste."""
    rng = np.random.default_rng(0)
    truth = difference(
        [random_sessions(rng, 200_000, reward=0.65)], [random_sessions(rng, 200_000)], slate_size=K, confidence=0.95
    )["length"]["mean"]
    hits, ratio = 0, []
    for _ in range(500):
        taste = rng.normal(0, 0.15, 100)
        a = random_sessions(rng, 100, reward=0.65, shared=taste)
        b = random_sessions(rng, 100, shared=taste)
        paired = difference([a], [b], slate_size=K, confidence=0.95)["length"]
        apart = difference([a], [random_sessions(rng, 100)], slate_size=K, confidence=0.95)["length"]
        hits += paired["low"] <= truth <= paired["high"]
        ratio.append((paired["high"] - paired["low"]) / (apart["high"] - apart["low"]))
    assert hits >= 465
    assert np.mean(ratio) < 0.5


def test_unequal_numbers_of_sessions_or_seeds_cannot_be_paired():
    a, b = (random_sessions(np.random.default_rng(0), n) for n in (50, 49))
    with pytest.raises(ValueError, match="50 sessions cannot be paired with 49"):
        difference([a], [b], slate_size=K, confidence=0.95)
    with pytest.raises(ValueError, match="zip"):
        difference([a, a], [a], slate_size=K, confidence=0.95)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=5), st.floats(0, 10), st.floats(0.5, 0.99), st.floats(-50, 50)
)
def test_intervals_move_and_scale_with_the_metric(values, error, confidence, shift):
    found = interval(values, error, confidence=confidence)
    moved = interval([3 * v + shift for v in values], 3 * error, confidence=confidence)
    for bound in ("mean", "low", "high"):
        assert moved[bound] == pytest.approx(3 * found[bound] + shift, abs=1e-6, rel=1e-6)
    assert found["low"] <= found["mean"] <= found["high"]
