"""Closed forms: what the leave rule must do to policies whose effect is known.

Users click with a constant probability; thousands of complete sessions run in one compiled scan.
"""

import math
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsrm_jax.config import Config, EnvironmentConfig
from dsrm_jax.runs.pieces import environment_of
from dsrm_jax.simulator.leave import expected_length
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World
from tests.simulator.closed_forms import constant_length

NUM_SESSIONS = 1000
NUM_STEPS = 50
GROUP = 250
"""Items that are popular or not and certain or impossible to be clicked, by fours of this size."""
PAPER = EnvironmentConfig(history_length=2)


def make_world(probability, is_popular):
    zero = jnp.zeros(1, jnp.int32)
    starts = SessionStarts(user=zero, item=zero, click=jnp.zeros(1, bool), first=jnp.array([0, 1], jnp.int32))
    size = len(is_popular)
    table = jnp.broadcast_to(jnp.asarray(probability, jnp.float32), (1, size))
    return World(
        response=TableResponse(table),
        starts=starts,
        item=jnp.arange(size, dtype=jnp.int32),
        is_popular=jnp.asarray(is_popular),
        log_popularity=jnp.zeros(size),
    )


IS_POPULAR = np.repeat([True, True, False, False], GROUP)
IS_CLICKED = np.repeat([True, False, True, False], GROUP)


class Outcome(NamedTuple):
    length: np.ndarray
    reward: np.ndarray
    broken: np.ndarray
    shares: np.ndarray


@cache
def runner(config):
    """`(keys (T, B), state, slates (T, B, K), world) -> trace`, compiled once per leave rule."""
    step = jax.vmap(environment_of(Config(environment=config)).step, (0, 0, 0, None))

    def run(keys, state, slates, world):
        def body(state, inputs):
            _, state, _, terminated, _, info = step(inputs[0], state, inputs[1], world)
            return state, (terminated, info)

        return jax.lax.scan(body, state, (keys, slates))[1]

    return jax.jit(run)


@cache
def arrivals():
    """One arrival per session; every world here has one user with one row and so no history."""
    world = make_world(0.5, IS_POPULAR)
    reset = jax.jit(jax.vmap(environment_of(Config(environment=PAPER)).reset, (0, None)))
    return reset(jax.random.split(jax.random.key(0), NUM_SESSIONS), world)[1]


def simulate(config, slates, world, seed=0):
    """Run every user to the end, on `(T, n, K)` slates repeated to NUM_STEPS steps of NUM_SESSIONS users.

    A user who has left stays left, so the first end counts. `max_len` only decides the first temper.
    """
    num_steps, num_given = slates.shape[:2]
    slates = slates[np.arange(NUM_STEPS) % num_steps][:, np.arange(NUM_SESSIONS) % num_given]
    temper = jnp.full(NUM_SESSIONS, config.slate_size * config.max_len, jnp.int32)
    keys = jax.random.split(jax.random.key(seed), (NUM_STEPS, NUM_SESSIONS))
    run = runner(replace(config, max_len=NUM_STEPS))
    trace = run(keys, arrivals().replace(temper=temper), jnp.asarray(slates, jnp.int32), world)
    terminated, info = jax.device_get(trace)
    assert terminated[config.max_len - 1].all(), "max_len steps end every session"
    last = np.argmax(terminated, axis=0), np.arange(NUM_SESSIONS)
    length = info["session_length"][last]
    np.testing.assert_array_equal(length, 1 + np.sum(~terminated, axis=0))
    return Outcome(
        length=length,
        reward=info["session_return"][last] / length,
        broken=info["session_broken_share"][last],
        shares=info["popular_share"],
    )


def absolute_difference(shares):
    """AD of each batch step: abs(2p - 1), p the popular share of what the whole batch was shown."""
    return np.abs(2 * shares.mean(axis=1) - 1)


def constant_slate(config, num_popular, num_clicks):
    """One slate with so many popular items and so many certain clicks, at every step of one session."""
    both = max(0, num_popular + num_clicks - config.slate_size)
    counts = (both, num_popular - both, num_clicks - both)
    counts = (*counts, config.slate_size - sum(counts))
    slate = np.concatenate([block * GROUP + np.arange(n) for block, n in enumerate(counts)])
    return np.broadcast_to(slate, (config.max_len, 1, config.slate_size))


def mixed_slates(config, num_popular):
    """Slates of distinct items with `num_popular` `(T, B)` popular ones each."""
    rng = np.random.default_rng(7)
    first = rng.integers(0, 2 * GROUP, (*num_popular.shape, 1))
    place = np.arange(config.slate_size)
    group = np.where(place < num_popular[..., None], 0, 2 * GROUP)
    return group + (first + place) % (2 * GROUP)


@pytest.mark.parametrize("max_len", [20, 30, 50])
def test_a_and_b_constant_slates_have_the_closed_form_length(max_len):
    """(a) all popular: AD 1, the penalty at every step; (b) exact quota: AD 0 and none."""
    config = replace(PAPER, max_len=max_len)
    world = make_world(IS_CLICKED, IS_POPULAR)
    for num_popular, ad, penalty in ((6, 1.0, 1), (0, 1.0, 1), (3, 0.0, 0)):
        cases = [constant_slate(config, num_popular, c) for c in range(7)]
        outcome = simulate(config, np.concatenate(cases, axis=1), world)
        for clicks in range(7):
            reward = clicks / 6
            expected = math.floor((max_len - 1) / (2 + penalty - reward) + 1e-9) + 1
            assert outcome.length[clicks] == expected == constant_length(max_len, clicks, 6, penalty)
            assert outcome.reward[clicks] == pytest.approx(reward)
            assert outcome.broken[clicks] == penalty
        assert np.all(absolute_difference(outcome.shares) == ad)


def uniform_slates(slate_size, num_items):
    """Uniformly drawn slates of distinct items: drawn with repeats, the slates with a repeat thrown away."""
    drawn = np.random.default_rng(1).integers(0, num_items, (2 * NUM_STEPS * NUM_SESSIONS, slate_size))
    distinct = drawn[np.all(np.diff(np.sort(drawn, axis=1), axis=1) > 0, axis=1)]
    return distinct[: NUM_STEPS * NUM_SESSIONS].reshape(NUM_STEPS, NUM_SESSIONS, slate_size)


@pytest.mark.parametrize(
    ("slate_size", "free", "published"), [(6, [3], 0.918), (10, [4, 5, 6], 0.880)], ids=["K=6", "K=10"]
)
def test_c_uniform_slates_over_a_fifth_popular_have_ad_point_six(slate_size, free, published):
    config = replace(PAPER, slate_size=slate_size)
    num_items = 4 * GROUP
    world = make_world(0.5, np.arange(num_items) < num_items // 5)
    outcome = simulate(config, uniform_slates(slate_size, num_items), world)
    law = stats.hypergeom(num_items, num_items // 5, slate_size)
    item_error = 2 * math.sqrt(0.2 * 0.8 / (outcome.shares.size * slate_size))
    assert abs(absolute_difference(outcome.shares).mean() - 0.6) < 4 * item_error
    per_slate = np.abs(2 * outcome.shares - 1) >= 0.3 - 1e-6
    broken = 1 - sum(law.pmf(n) for n in free)
    assert broken == pytest.approx(published, abs=0.001)
    error = math.sqrt(broken * (1 - broken) / per_slate.size)
    assert abs(per_slate.mean() - broken) < 4 * error
    steps = np.sum(outcome.length)
    counted = np.sum(outcome.broken * outcome.length) / steps
    assert abs(counted - broken) < 4 * math.sqrt(broken * (1 - broken) / steps)


@pytest.mark.parametrize(("slate_size", "bound", "published"), [(6, 0.3, 0.688), (10, 0.3, 0.344), (10, 0.2, 0.754)])
def test_d_coin_flip_slates_are_balanced_as_a_batch_and_penalised_one_by_one(slate_size, bound, published):
    config = replace(PAPER, slate_size=slate_size, ad_bound=bound)
    rng = np.random.default_rng(5)
    popular = rng.binomial(slate_size, 0.5, (NUM_STEPS, NUM_SESSIONS))
    outcome = simulate(config, mixed_slates(config, popular), make_world(0.6, IS_POPULAR))
    # abs(2p - 1) of B K fair coins has mean sqrt(2 / (pi B K)).
    noise = math.sqrt(2 / (math.pi * NUM_SESSIONS * slate_size))
    assert absolute_difference(outcome.shares).mean() == pytest.approx(noise, rel=0.6)
    steps = np.sum(outcome.length)
    broken = np.sum(outcome.broken * outcome.length) / steps
    assert broken == pytest.approx(published, abs=0.0005 + 4 * math.sqrt(published * (1 - published) / steps))


@pytest.mark.parametrize("max_len", [1, 2, 20, 29, 30, 50])
def test_e_without_penalty_all_clicks_last_max_len_and_none_last_half(max_len):
    config = replace(PAPER, max_len=max_len, ad_penalty=0)
    world = make_world(IS_CLICKED, IS_POPULAR)
    cases = [constant_slate(config, 6, clicks) for clicks in (0, 6)]
    outcome = simulate(config, np.concatenate(cases, axis=1), world)
    assert outcome.length[:2].tolist() == [math.ceil(max_len / 2), max_len]


def exact_mean_length(config, click, broken):
    """E[Len] by dynamic programming over the temper in units of 1/K (SciPy's binomial for the clicks)."""
    size = config.slate_size
    clicks = stats.binom(size, click).pmf(np.arange(size + 1))
    mean = np.zeros(size * config.max_len + 1)
    for temper in range(size, len(mean)):
        mean[temper] = 1
        for k, p in enumerate(clicks):
            for extra, q in ((0, 1 - broken), (size, broken)):
                mean[temper] += p * q * mean[max(temper - (2 * size - k) - extra, 0)]
    return mean[-1]


@pytest.mark.parametrize("max_len", [20, 30, 50])
def test_mean_length_agrees_with_dynamic_programming_and_the_closed_form(max_len):
    config = replace(PAPER, max_len=max_len)
    rng = np.random.default_rng(9)
    policies = [(0.3, 0.0), (0.62, 0.86), (0.75, 0.63), (0.85, 0.08), (0.917, 0.03)]
    for seed, (click, broken) in enumerate(policies):
        popular = np.where(rng.random((max_len, NUM_SESSIONS)) < broken, 6, 3)
        outcome = simulate(config, mixed_slates(config, popular), make_world(click, IS_POPULAR), seed)
        error = outcome.length.std() / math.sqrt(NUM_SESSIONS)
        mean = outcome.length.mean()
        assert abs(mean - exact_mean_length(config, click, broken)) < 4 * error
        assert abs(mean - expected_length(max_len, click, broken)) < 4 * error + 0.3


def test_kuaisims_td3_row_is_reproduced_from_its_reward():
    """Published: reward .6476, depth 14.63 with T0 = 20; closed form 14.55, independent clicks 14.62."""
    config = replace(PAPER, max_len=20, ad_penalty=0)
    slates = mixed_slates(config, np.full((20, NUM_SESSIONS), 6))
    length = simulate(config, slates, make_world(0.6476, IS_POPULAR)).length
    assert exact_mean_length(config, 0.6476, 0) == pytest.approx(14.62, abs=0.005)
    assert abs(length.mean() - 14.63) < 4 * length.std() / math.sqrt(NUM_SESSIONS)
    assert expected_length(20, 0.6476, 0) == pytest.approx(14.55, abs=0.005)
