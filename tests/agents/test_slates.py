"""Plackett-Luce slates against enumeration, a float64 loop over slots, and Gumbel-top-K draws."""

from functools import partial
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy import stats

from dsrm_jax.agents import slates

# Compiled once a shape: op by op, most of this file's time would go into tiny compilations.
sample_slate = jax.jit(slates.sample_slate, static_argnames="slate_size")
greedy_slate = jax.jit(slates.greedy_slate, static_argnames="slate_size")
slate_log_prob = jax.jit(slates.slate_log_prob)

POPULAR = np.array([True, False, True, False, True])
SCORES = np.array([0.3, -1.0, 1.2, 0.1, -0.4], np.float32)


def plackett_luce(scores, slate, is_popular, num_popular):
    """Slot by slot in float64, straight from the definition; one user, `num_popular` an int or None."""
    scores = np.asarray(scores, np.float64)
    left = np.ones(len(scores), bool)
    result = []
    for slot, item in enumerate(slate):
        allowed = left.copy()
        if num_popular is not None:
            allowed &= is_popular if slot < num_popular else ~is_popular
        rest = scores[allowed]
        log_mass = rest.max() + np.log(np.exp(rest - rest.max()).sum()) if allowed.any() else 0.0
        result.append(scores[item] - log_mass if allowed[item] else -np.inf)
        left[item] = False
    return np.array(result)


def batch_reference(scores, slate, is_popular, num_popular):
    quotas = [None] * len(scores) if num_popular is None else num_popular
    return np.stack([plackett_luce(s, i, is_popular, n) for s, i, n in zip(scores, slate, quotas, strict=True)])


def masked_log_prob(scores, slate, is_popular, num_popular):
    """The plain differentiable form: one masked logsumexp over the catalogue a slot."""
    rows = jnp.arange(scores.shape[0])
    left = jnp.ones(scores.shape, bool)
    result = []
    for slot in range(slate.shape[1]):
        allowed = left
        if num_popular is not None:
            allowed = left & jnp.where(slot < num_popular[:, None], is_popular, ~is_popular)
        log_mass = jax.nn.logsumexp(jnp.where(allowed, scores, -jnp.inf), axis=1)
        result.append(scores[rows, slate[:, slot]] - log_mass)
        left = left.at[rows, slate[:, slot]].set(False)
    return jnp.stack(result, axis=1)


@partial(jax.jit, static_argnames="function")
def weighted_gradient(scores, slate, is_popular, num_popular, weight, *, function):
    return jax.grad(lambda s: jnp.sum(weight * function(s, slate, is_popular, num_popular)))(scores)


def quotas(num_popular, batch):
    return None if num_popular is None else jnp.full(batch, num_popular, jnp.int32)


@pytest.mark.parametrize("num_popular", [None, 1, 2, 3])
def test_the_probabilities_of_all_ordered_slates_sum_to_one(num_popular):
    slates = np.array(list(permutations(range(5), 3)), np.int32)
    scores = jnp.tile(SCORES, (len(slates), 1))
    log_prob = slate_log_prob(scores, slates, POPULAR, quotas(num_popular, len(slates)))
    assert float(jnp.exp(log_prob.sum(1)).sum()) == pytest.approx(1.0, abs=2e-6)
    np.testing.assert_allclose(log_prob, [plackett_luce(SCORES, s, POPULAR, num_popular) for s in slates], atol=1e-6)


@pytest.mark.parametrize(("asked", "possible"), [(0, 1), (3, 3), (9, 3), (-4, 1)])
def test_a_quota_that_the_groups_cannot_fill_is_clipped(asked, possible):
    """Two long-tail items cannot fill three slots, so at least one slot is popular."""
    slates = np.array(list(permutations(range(5), 3)), np.int32)
    scores = jnp.tile(SCORES, (len(slates), 1))
    given_quota = slate_log_prob(scores, slates, POPULAR, quotas(asked, len(slates)))
    np.testing.assert_array_equal(given_quota, slate_log_prob(scores, slates, POPULAR, quotas(possible, len(slates))))
    slate, _ = sample_slate(jax.random.key(0), scores, POPULAR, quotas(asked, len(slates)), slate_size=3)
    np.testing.assert_array_equal(POPULAR[slate].sum(1), possible)


def slate_counts(slates):
    codes = np.asarray(slates) @ np.array([25, 5, 1])
    return np.array([(codes == np.dot(s, [25, 5, 1])).sum() for s in permutations(range(5), 3)])


@pytest.mark.parametrize("num_popular", [None, 1, 2, 3])
def test_samples_follow_the_exact_distribution(num_popular):
    draws = 40_000
    scores = jnp.tile(SCORES, (draws, 1))
    slate, _ = sample_slate(jax.random.key(5), scores, POPULAR, quotas(num_popular, draws), slate_size=3)
    expected = np.array(
        [np.exp(plackett_luce(SCORES, s, POPULAR, num_popular).sum()) for s in permutations(range(5), 3)]
    )
    counts = slate_counts(slate)
    assert counts[expected == 0].sum() == 0
    observed = counts[expected > 0]
    assert stats.chisquare(observed, draws * expected[expected > 0] / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("num_popular", [None, 2])
def test_items_that_share_a_block_are_drawn_without_replacement(num_popular):
    """Five items among 330 barred ones, the first four a multiple of the block count apart: one block."""
    draws = 40_000
    position = np.array([0, 64, 128, 192, 1])
    scores, is_popular = np.full(330, -np.inf, np.float32), np.zeros(330, bool)
    scores[position], is_popular[position] = SCORES, POPULAR
    slate, log_prob = sample_slate(
        jax.random.key(6), jnp.tile(scores, (draws, 1)), is_popular, quotas(num_popular, draws), slate_size=3
    )
    orders = list(permutations(range(5), 3))
    reference = np.array([plackett_luce(SCORES, s, POPULAR, num_popular) for s in orders])
    expected = np.exp(reference.sum(1))
    inverse = np.full(330, -1)
    inverse[position] = np.arange(5)
    drawn = [tuple(row) for row in inverse[np.asarray(slate)].tolist()]
    assert set(drawn) <= {order for order, p in zip(orders, expected, strict=True) if p > 0}
    lookup = dict(zip(orders, reference, strict=True))
    np.testing.assert_allclose(log_prob, [lookup[order] for order in drawn], atol=2e-6)
    counts = slate_counts(drawn)[expected > 0]
    assert stats.chisquare(counts, draws * expected[expected > 0] / expected.sum()).pvalue > 1e-3


def test_samples_agree_with_gumbel_top_k():
    draws = 40_000
    slate, _ = sample_slate(jax.random.key(1), jnp.tile(SCORES, (draws, 1)), POPULAR, None, slate_size=3)
    noise = np.random.default_rng(2).gumbel(size=(draws, 5))
    reference = np.argsort(-(SCORES + noise), axis=1)[:, :3]
    table = np.stack([slate_counts(slate), slate_counts(reference)])
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_a_large_catalogue_is_sampled_in_proportion():
    """First slot over several blocks: counts of 300 items, half of them barred, against the softmax."""
    rng = np.random.default_rng(3)
    scores = np.where(np.arange(300) % 2, -np.inf, rng.normal(size=300)).astype(np.float32)
    draws = 60_000
    slate, _ = sample_slate(jax.random.key(3), jnp.tile(scores, (draws, 1)), np.zeros(300, bool), None, slate_size=1)
    counts = np.bincount(np.asarray(slate)[:, 0], minlength=300)
    weight = np.exp(scores.astype(np.float64))
    assert counts[weight == 0].sum() == 0
    expected = draws * weight / weight.sum()
    assert stats.chisquare(counts[weight > 0], expected[weight > 0]).pvalue > 1e-3


@st.composite
def problems(draw):
    num_items, slate_size = draw(st.sampled_from([(4, 4), (70, 3)]))
    seed = draw(st.integers(0, 2**31 - 1))
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(6, num_items)) * draw(st.sampled_from([0.0, 1.0, 30.0, 1e4]))
    scores[:, draw(st.integers(0, num_items - 1))] += draw(st.sampled_from([0.0, 500.0, -500.0]))
    is_popular = rng.random(num_items) < draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    asked = rng.integers(0, slate_size + 1, 6).astype(np.int32) if draw(st.booleans()) else None
    return seed, scores.astype(np.float32), is_popular, asked, slate_size


@settings(max_examples=25, deadline=None)
@given(problems())
def test_any_sample_is_distinct_of_its_group_and_scored_as_the_reference_scores_it(problem):
    seed, scores, is_popular, asked, slate_size = problem
    slate, log_prob = sample_slate(jax.random.key(seed), scores, is_popular, asked, slate_size=slate_size)
    slate = np.asarray(slate)
    assert all(len(set(row)) == slate_size for row in slate.tolist())
    quota = asked
    if asked is not None:
        quota = np.maximum(np.minimum(asked, is_popular.sum()), slate_size - (~is_popular).sum())
        np.testing.assert_array_equal(is_popular[slate], np.arange(slate_size) < quota[:, None])
    reference = batch_reference(scores, slate, is_popular, quota)
    tolerance = {"rtol": 1e-5, "atol": 2e-6 * max(1.0, np.abs(scores).max())}
    np.testing.assert_allclose(log_prob, reference, **tolerance)
    np.testing.assert_allclose(slate_log_prob(scores, slate, is_popular, asked), reference, **tolerance)


@pytest.mark.parametrize("num_popular", [None, 3])
def test_the_whole_catalogue_can_be_one_slate(num_popular):
    scores = jnp.tile(SCORES, (64, 1))
    slate, log_prob = sample_slate(jax.random.key(7), scores, POPULAR, quotas(num_popular, 64), slate_size=5)
    np.testing.assert_array_equal(np.sort(slate, axis=1), np.tile(np.arange(5), (64, 1)))
    assert np.abs(log_prob[:, -1]).max() < 1e-6, "the last item left is certain"
    np.testing.assert_allclose(log_prob, slate_log_prob(scores, slate, POPULAR, quotas(num_popular, 64)), atol=1e-6)
    with pytest.raises(ValueError, match="slate_size"):
        sample_slate(jax.random.key(7), scores, POPULAR, quotas(num_popular, 64), slate_size=6)


def test_what_is_left_keeps_its_odds_after_a_dominant_item():
    """exp(-300) underflows, yet the second slot must still draw 3 to 1 between the two items that remain."""
    scores = jnp.tile(jnp.array([0.0, -300.0, -300.0 + np.log(3.0)]), (20_000, 1))
    slate, log_prob = sample_slate(jax.random.key(4), scores, np.zeros(3, bool), None, slate_size=2)
    np.testing.assert_array_equal(slate[:, 0], 0)
    assert stats.binomtest(int((slate[:, 1] == 2).sum()), 20_000, 0.75).pvalue > 1e-3
    second = np.where(np.asarray(slate)[:, 1] == 2, np.log(0.75), np.log(0.25))
    np.testing.assert_allclose(log_prob[:, 1], second, atol=3e-5)
    np.testing.assert_allclose(slate_log_prob(scores, slate, np.zeros(3, bool), None)[:, 1], second, atol=3e-5)


def test_barred_items_are_taken_only_when_nothing_else_is_left():
    scores = jnp.array([[0.0, -jnp.inf, 1.0, -jnp.inf, -jnp.inf]] * 50)
    slate, log_prob = sample_slate(jax.random.key(9), scores, POPULAR, None, slate_size=3)
    assert set(np.asarray(slate)[:, :2].ravel().tolist()) == {0, 2}
    assert {1, 3, 4} >= set(np.asarray(slate)[:, 2].tolist())
    assert np.isfinite(log_prob).all()
    two = slate[:, :2]
    gradient = jax.grad(lambda s: slate_log_prob(s, two, POPULAR, None).sum())(scores)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[:, jnp.array([1, 3, 4])], 0.0)


@pytest.mark.parametrize(("num_popular", "slate"), [(2, [0, 1, 3]), (1, [0, 1, 1]), (None, [2, 4, 2])])
def test_impossible_slots_have_probability_zero_and_no_gradient(num_popular, slate):
    scores, slate = jnp.asarray(SCORES)[None], jnp.array([slate])
    log_prob = slate_log_prob(scores, slate, POPULAR, quotas(num_popular, 1))
    np.testing.assert_allclose(log_prob, batch_reference(scores, slate, POPULAR, [num_popular]), atol=1e-6)
    bad = np.isneginf(log_prob)
    assert bad.sum() == 1
    weight = np.random.default_rng(0).normal(size=slate.shape).astype(np.float32)

    def gradient(weight, function):
        given = (scores, slate, POPULAR, quotas(num_popular, 1), weight)
        return weighted_gradient(*given, function=function)

    np.testing.assert_array_equal(gradient(jnp.where(bad, weight, 0.0), slates.slate_log_prob), 0.0)
    expected = gradient(jnp.where(bad, 0.0, weight), masked_log_prob)
    np.testing.assert_allclose(gradient(weight, slates.slate_log_prob), expected, atol=1e-6)


def test_an_item_that_a_slate_repeats_keeps_the_gradient_of_the_slot_that_took_it():
    """Of the first slot alone: one minus the item's share of the softmax over all five."""
    scores, slate = jnp.asarray(SCORES)[None], jnp.array([[2, 4, 2]])
    gradient = weighted_gradient(
        scores, slate, POPULAR, None, jnp.array([[1.0, 0.0, 0.0]]), function=slates.slate_log_prob
    )
    softmax = np.exp(SCORES) / np.exp(SCORES).sum()
    np.testing.assert_allclose(gradient[0], np.eye(5)[2] - softmax, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 200.0])
@pytest.mark.parametrize("quota", [False, True])
def test_gradients_equal_those_of_the_masked_logsumexp(quota, scale):
    rng = np.random.default_rng(11)
    scores = (scale * rng.normal(size=(8, 90))).astype(np.float32)
    is_popular = rng.random(90) < 0.3
    num_popular = jnp.asarray(rng.integers(0, 6, 8), jnp.int32) if quota else None
    slate, _ = sample_slate(jax.random.key(2), scores, is_popular, num_popular, slate_size=5)
    weight = jnp.asarray(rng.normal(size=(8, 5)), jnp.float32)

    def gradient(function):
        return weighted_gradient(scores, slate, is_popular, num_popular, weight, function=function)

    tolerance = 2e-5 if scale == 1.0 else 2e-4
    np.testing.assert_allclose(gradient(slates.slate_log_prob), gradient(masked_log_prob), atol=tolerance)


def test_gradients_equal_finite_differences():
    scores, slate = jnp.asarray(SCORES)[None], jnp.array([[2, 0, 1]])
    check_grads(
        lambda s: slate_log_prob(s, slate, POPULAR, jnp.array([2])), (scores,), 1, ["rev"], atol=2e-2, rtol=2e-2
    )


def test_gradients_stay_finite_and_right_when_the_pick_towers_over_the_rest():
    """The first pick outweighs the rest by exp(400), where total mass minus its own would leave nothing."""
    scores = jnp.array([[400.0, 0.0, 1.0, -2.0], [0.0, 400.0, -400.0, 1.0]])
    slate = jnp.array([[0, 2], [1, 2]])
    log_prob, pull = jax.vjp(lambda s: slate_log_prob(s, slate, np.zeros(4, bool), None), scores)
    np.testing.assert_allclose(log_prob, batch_reference(scores, slate, np.zeros(4, bool), None), rtol=1e-6, atol=1e-6)
    (gradient,) = pull(jnp.array([[0.0, 1.0], [0.0, 1.0]]))
    softmax = np.exp([0.0, 1.0, -2.0]) / np.exp([0.0, 1.0, -2.0]).sum()
    np.testing.assert_allclose(gradient[0], [0.0, -softmax[0], 1 - softmax[1], -softmax[2]], atol=1e-6)
    odds = 1 / (1 + np.exp(1.0))
    np.testing.assert_allclose(gradient[1], [-odds, 0.0, 1.0, odds - 1.0], atol=1e-6)


def test_the_score_function_has_mean_zero():
    """E[grad log p] = 0 over exact enumeration: the identity that policy gradients rest on."""
    slates = np.array(list(permutations(range(5), 3)), np.int32)

    def expectation(scores):
        log_prob = slate_log_prob(jnp.tile(scores, (len(slates), 1)), slates, POPULAR, None).sum(1)
        return jnp.sum(jax.lax.stop_gradient(jnp.exp(log_prob)) * log_prob)

    np.testing.assert_allclose(jax.grad(expectation)(jnp.asarray(SCORES)), 0.0, atol=1e-6)


def test_vmap_over_seeds_changes_nothing():
    scores = jax.random.normal(jax.random.key(0), (2, 3, 70))
    is_popular = np.arange(70) % 5 == 0
    num_popular = jnp.array([[0, 1, 2], [2, 0, 1]], jnp.int32)
    keys = jax.random.split(jax.random.key(1), 2)

    def run(key, scores, num_popular):
        slate, _ = sample_slate(key, scores, is_popular, num_popular, slate_size=2)
        gradient = jax.grad(lambda s: slate_log_prob(s, slate, is_popular, num_popular).sum())(scores)
        return slate, gradient, greedy_slate(scores, is_popular, num_popular, slate_size=2)

    together = jax.jit(jax.vmap(run))(keys, scores, num_popular)
    for seed in range(2):
        apart = jax.jit(run)(keys[seed], scores[seed], num_popular[seed])
        np.testing.assert_array_equal(together[0][seed], apart[0])
        np.testing.assert_allclose(together[1][seed], apart[1], atol=1e-6)
        np.testing.assert_array_equal(together[2][seed], apart[2])


@settings(max_examples=20, deadline=None)
@given(problems())
def test_greedy_takes_the_best_of_each_group_and_the_smaller_position_on_ties(problem):
    _, scores, is_popular, asked, slate_size = problem
    scores = np.round(scores)  # many exact ties
    slate = np.asarray(greedy_slate(scores, is_popular, asked, slate_size=slate_size))
    for row, items in enumerate(slate):
        order = np.argsort(-scores[row], kind="stable")
        if asked is None:
            expected = order[:slate_size]
        else:
            count = max(min(asked[row], is_popular.sum()), slate_size - (~is_popular).sum())
            popular, tail = order[is_popular[order]], order[~is_popular[order]]
            expected = np.concatenate([popular[:count], tail[: slate_size - count]])
        np.testing.assert_array_equal(items, expected)
