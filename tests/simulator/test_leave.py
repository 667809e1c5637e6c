"""Temper against exact rational arithmetic and exhaustive enumeration."""

import math
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.simulator.leave import expected_length, make_temper, unbalanced_slates
from dsrm_jax.simulator.presets import make
from tests.simulator.closed_forms import constant_length


def rational_length(max_len, reward, penalty):
    """KuaiSim's rule as printed: temper += clip(r - 2, -2, 0), minus the penalty, until temper < 1."""
    temper, length = Fraction(max_len), 0
    while temper >= 1:
        temper += max(min(reward - 2, Fraction(0)), Fraction(-2)) - penalty
        length += 1
    return length


def test_ten_thousand_random_sessions_end_where_kuaisims_rule_ends_them():
    """Clicks of users of every patience, against its arithmetic in exact fractions."""
    rng = np.random.default_rng(0)
    clicks = rng.random((10_000, 20, 6)) < rng.random((10_000, 1, 1)) ** 0.5
    clicks[:100] = True  # whose temper is 1 exactly after 19 steps: floats decide that either way
    rule = make("kuaisim").leave

    def session(clicks):
        left = jax.lax.scan(lambda temper, seen: rule.step(temper, seen, jnp.int32(0)), rule.start(), clicks)[1]
        return jnp.argmax(left) + 1

    want = []
    for session_clicks in clicks.sum(axis=2):
        temper, length = Fraction(20), 0
        while temper >= 1:
            temper += max(min(Fraction(int(session_clicks[length]), 6) - 2, Fraction(0)), Fraction(-2))
            length += 1
        want.append(length)
    assert len(set(want)) > 8
    np.testing.assert_array_equal(jax.jit(jax.vmap(session))(jnp.asarray(clicks)), want)


def exact_expected_length(max_len, slate_size, click, broken):
    """E[Len] by dynamic programming over temper: Binomial(K, click) clicks, Bernoulli(broken) slates."""
    losses = {}
    for clicks in range(slate_size + 1):
        p = math.comb(slate_size, clicks) * click**clicks * (1 - click) ** (slate_size - clicks)
        for penalty, q in ((0, 1 - broken), (slate_size, broken)):
            loss = 2 * slate_size - clicks + penalty
            losses[loss] = losses.get(loss, 0.0) + p * q
    mean = {}
    for temper in range(slate_size, slate_size * max_len + 1):
        mean[temper] = 1 + sum(p * mean.get(temper - loss, 0.0) for loss, p in losses.items())
    return mean[slate_size * max_len]


@pytest.mark.parametrize(
    ("slate_size", "bound", "free"),
    [
        (6, 0.3, {3}),
        (10, 0.3, {4, 5, 6}),
        (10, 0.2, {5}),
        (5, 0.3, {2, 3}),
        (5, 0.2, set()),
        (1, 0.3, set()),
        (6, 0.0, set()),
        (6, 1.0, {1, 2, 3, 4, 5}),
    ],
)
def test_published_thresholds(slate_size, bound, free):
    assert set(np.flatnonzero(~np.asarray(unbalanced_slates(slate_size, bound)))) == free


def test_bound_is_the_decimal_as_written_for_every_two_decimal_bound():
    flips = 0
    for slate_size in range(1, 61):
        imbalance = [abs(2 * n - slate_size) for n in range(slate_size + 1)]
        for hundredths in range(101):
            expected = [Fraction(v) >= Fraction(hundredths, 100) * slate_size for v in imbalance]
            # The float that a command line would hand over.
            bound = float(f"0.{hundredths:02d}") if hundredths < 100 else 1.0
            actual = [v >= bound * slate_size for v in imbalance]
            flips += actual != expected
            if actual != expected or hundredths % 50 == 0:
                np.testing.assert_array_equal(unbalanced_slates(slate_size, bound), expected)
    assert flips > 0, "plain float comparison should have failed somewhere, else this test proves nothing"


def test_a_traced_or_float32_bound_gives_the_same_table():
    bounds = [0.0, 0.07, 0.14, 0.2, 0.28, 0.3, 0.55, 0.999, 1.0]
    for slate_size in (6, 10, 25, 50, 100):
        swept = jax.jit(jax.vmap(partial(unbalanced_slates, slate_size)))(np.float32(bounds))
        for bound, row in zip(bounds, swept, strict=True):
            exact = unbalanced_slates(slate_size, bound)
            np.testing.assert_array_equal(row, exact)
            np.testing.assert_array_equal(unbalanced_slates(slate_size, jnp.float32(bound)), exact)


def test_loss_is_kuaisims_rule_in_units_of_one_kth():
    """A bound of 1 is broken by slates of one group alone."""
    for slate_size in (1, 4, 6, 10):
        for penalty in (0, 1, 2):
            rule = make_temper(slate_size=slate_size, max_len=30, ad_bound=1.0, ad_penalty=penalty)
            clicked = np.tri(slate_size + 1, slate_size, -1, dtype=bool)  # 0, 1, ..., K clicks
            step = jax.jit(jax.vmap(rule.step, in_axes=(None, 0, None)))
            for num_popular in (1, slate_size):
                temper, _ = step(rule.start(), clicked, np.int32(num_popular))
                assert temper.dtype == jnp.int32
                for clicks, left in enumerate(np.asarray(temper)):
                    steps = 2 - Fraction(clicks, slate_size) + penalty * (num_popular == slate_size)
                    assert 30 - Fraction(int(left), slate_size) == steps


def test_leaves_below_one_step_and_not_at_one():
    rule = make_temper(slate_size=6, max_len=30, ad_bound=0.3, ad_penalty=0)
    assert int(rule.start()) == 180
    before = 6 + np.array([7, 6, 5, 0, -12])  # all items clicked: one step's worth is lost
    _, left = jax.jit(jax.vmap(rule.step, in_axes=(0, None, None)))(before, np.ones(6, bool), np.int32(3))
    np.testing.assert_array_equal(left, [False, False, True, True, True])


@given(st.integers(1, 60), st.integers(1, 12), st.floats(0, 1), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_constant_length_is_the_rational_simulation(max_len, slate_size, share, penalty):
    clicks = round(share * slate_size)
    expected = rational_length(max_len, Fraction(clicks, slate_size), penalty)
    assert constant_length(max_len, clicks, slate_size, penalty) == expected


def test_constant_length_at_the_corners():
    for max_len in (1, 2, 20, 29, 30, 50):
        assert constant_length(max_len, 6, 6) == max_len
        assert constant_length(max_len, 0, 6) == math.ceil(max_len / 2)
        for clicks in range(7):
            reward = Fraction(clicks, 6)
            assert constant_length(max_len, clicks, 6, 1) == math.floor((max_len - 1) / (3 - reward)) + 1


@pytest.mark.parametrize("max_len", [20, 30, 50])
@pytest.mark.parametrize("slate_size", [6, 10])
def test_closed_form_of_the_mean_is_within_three_tenths_of_a_step_of_dynamic_programming(max_len, slate_size):
    for reward in (0.3, 0.5, 0.65, 0.85, 0.92):
        for rate in (0.0, 0.08, 0.35, 0.7, 1.0):
            exact = exact_expected_length(max_len, slate_size, reward, rate)
            assert abs(expected_length(max_len, reward, rate) - exact) < 0.3, (reward, rate, exact)


@pytest.mark.parametrize(
    ("reward", "formula", "published"),
    [(0.6476, 14.55, 14.63), (0.5950, 14.02, 14.02), (0.6841, 14.94, 14.89), (0.6895, 15.00, 14.98)],
)
def test_kuaisims_published_lengths(reward, formula, published):
    """TD3, A2C, DDPG and HAC of KuaiSim's table: T0 = 20, K = 6, no fairness rule ."""
    assert expected_length(20, reward, 0) == pytest.approx(formula, abs=0.006)
    assert exact_expected_length(20, 6, reward, 0) == pytest.approx(published, abs=0.2)
