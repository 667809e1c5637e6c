"""Slates drawn from factored scores, block by block, against enumeration and against `slates` on the whole product."""

import dataclasses
from functools import partial
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend import core
from scipy import special, stats

from dsrm_jax.agents import block_slates, slates
from dsrm_jax.agents.agent import Rollout
from dsrm_jax.agents.block_slates import FactoredScores
from dsrm_jax.agents.dsrm_hrl import make_dsrm_hrl
from dsrm_jax.purify.view import Catalogue, View

# Compiling is what costs here, not running.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
static = ("slate_size", "block_size")
sample_slate = jax.jit(slates.sample_slate, static_argnames=static)
greedy_slate = quick_jit(slates.greedy_slate, static_argnames=static)
slate_log_prob = quick_jit(slates.slate_log_prob, static_argnames="block_size")

POPULAR = np.array([True, False, True, False, True])
SCORES = np.array([0.3, -1.0, 1.2, 0.1, -0.4])
ORDERS = np.array(list(permutations(range(5), 3)), np.int32)


def plackett_luce(scores, slate, is_popular, num_popular):
    """Slot by slot in float64, straight from the definition; one user, `num_popular` an int or None."""
    left = np.ones(len(scores), bool)
    result = []
    for slot, item in enumerate(slate):
        allowed = left.copy()
        if num_popular is not None:
            allowed &= is_popular if slot < num_popular else ~is_popular
        result.append(scores[item] - np.logaddexp.reduce(scores[allowed]) if allowed[item] else -np.inf)
        left[item] = False
    return np.array(result)


def factors_of(scores, batch):
    """The given scores for each of `batch` users, as a product of rank 2 and a bias."""
    query = np.tile(np.array([[2.0, -1.0]], np.float32), (batch, 1))
    vectors = np.stack([0.75 * scores, scores], axis=1)  # 1.5 s - s = s / 2
    return FactoredScores(query, vectors.astype(np.float32), (scores / 2).astype(np.float32))


def quotas(num_popular, batch):
    return None if num_popular is None else np.full(batch, num_popular, np.int32)


@pytest.mark.parametrize("num_popular", [None, 1, 2, 3])
def test_the_probabilities_of_all_ordered_slates_sum_to_one(num_popular):
    scores = factors_of(SCORES, len(ORDERS))
    log_prob = slate_log_prob(scores, ORDERS, POPULAR, quotas(num_popular, len(ORDERS)), block_size=2)
    assert special.logsumexp(np.asarray(log_prob).sum(1)) == pytest.approx(0.0, abs=2e-6)
    reference = [plackett_luce(SCORES, order, POPULAR, num_popular) for order in ORDERS]
    np.testing.assert_allclose(log_prob, reference, atol=1e-6)


@pytest.mark.parametrize(("num_popular", "block_size"), [(None, 2), (2, 2), (1, 3), (None, 5)])
def test_samples_follow_the_exact_distribution(num_popular, block_size):
    draws = 40_000
    slate, log_prob = sample_slate(
        jax.random.key(5),
        factors_of(SCORES, draws),
        POPULAR,
        quotas(num_popular, draws),
        slate_size=3,
        block_size=block_size,
    )
    reference = np.array([plackett_luce(SCORES, order, POPULAR, num_popular) for order in ORDERS])
    code = np.array([25, 5, 1])
    index = np.searchsorted(ORDERS @ code, np.asarray(slate) @ code)
    np.testing.assert_array_equal(ORDERS[index], slate)
    np.testing.assert_allclose(log_prob, reference[index], atol=2e-6)
    expected, counts = np.exp(reference.sum(1)), np.bincount(index, minlength=len(ORDERS))
    assert counts[expected == 0].sum() == 0
    assert stats.chisquare(counts[expected > 0], draws * expected[expected > 0] / expected.sum()).pvalue > 1e-3


def test_many_blocks_are_sampled_in_proportion():
    """The last of three slots, of 300 items of which every second one is barred: counts against the exact marginal."""
    rng = np.random.default_rng(3)
    scores = np.where(np.arange(300) % 2, -np.inf, rng.normal(size=300)) + np.where(np.arange(300) < 40, 2.0, 0.0)
    draws = 60_000
    zeros, ones = np.zeros((draws, 1), np.float32), np.ones((300, 1), np.float32)
    factors = FactoredScores(zeros, ones, scores.astype(np.float32))
    slate, _ = sample_slate(jax.random.key(3), factors, np.zeros(300, bool), None, slate_size=2, block_size=7)
    counts = np.bincount(np.asarray(slate)[:, 1], minlength=300)
    weight = np.exp(scores) / np.exp(scores).sum()
    second = np.array([np.sum(np.delete(weight / (1 - weight), j)) * weight[j] for j in range(300)])
    assert counts[weight == 0].sum() == 0
    assert stats.chisquare(counts[weight > 0], draws * second[weight > 0] / second.sum()).pvalue > 1e-3


@st.composite
def problems(draw):
    num_items, slate_size, block_size = draw(st.sampled_from([(60, 4, 10), (5, 5, 2)]))
    seed = draw(st.integers(0, 2**31 - 1))
    rng = np.random.default_rng(seed)
    scale = draw(st.sampled_from([0.0, 1.0, 30.0, 1e4]))
    bias = rng.normal(size=num_items)
    bias[draw(st.integers(0, num_items - 1))] += draw(st.sampled_from([0.0, 500.0, -500.0]))
    factors = FactoredScores(
        query=(scale * rng.normal(size=(6, 4))).astype(np.float32),
        vectors=rng.normal(size=(num_items, 4)).astype(np.float32),
        bias=bias.astype(np.float32),
    )
    is_popular = rng.random(num_items) < draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    asked = rng.integers(0, slate_size + 1, 6).astype(np.int32) if draw(st.booleans()) else None
    return seed, factors, is_popular, asked, slate_size, block_size


@partial(quick_jit, static_argnames="block_size")
def gradients(factors, slate, is_popular, asked, weight, block_size):
    """Log-probabilities and the gradient of their weighted sum by sharpness and factors; `block_size` None: of the product."""

    def objective(factors, sharpness):
        factors = dataclasses.replace(factors, query=sharpness * factors.query)
        if block_size is None:
            log_prob = slates.slate_log_prob(factors.whole(), slate, is_popular, asked)
        else:
            log_prob = slates.slate_log_prob(factors, slate, is_popular, asked, block_size=block_size)
        return jnp.sum(weight * log_prob), log_prob

    gradient, log_prob = jax.grad(objective, argnums=(0, 1), has_aux=True)(factors, 1.0)
    return log_prob, gradient


@settings(max_examples=30, deadline=None)
@given(problems())
def test_draws_log_probabilities_and_gradients_agree_with_the_whole_product(problem):
    seed, factors, is_popular, asked, slate_size, block_size = problem
    slate, log_prob = sample_slate(
        jax.random.key(seed), factors, is_popular, asked, slate_size=slate_size, block_size=block_size
    )
    slate = np.asarray(slate)
    assert all(len(set(row)) == slate_size for row in slate.tolist())
    if asked is not None:
        count = np.maximum(np.minimum(asked, is_popular.sum()), slate_size - (~is_popular).sum())
        np.testing.assert_array_equal(is_popular[slate], np.arange(slate_size) < count[:, None])
    weight = np.random.default_rng(seed).normal(size=slate.shape).astype(np.float32)
    reference, gradient = gradients(factors, slate, is_popular, asked, weight, None)
    found, own_gradient = gradients(factors, slate, is_popular, asked, weight, block_size)
    magnitude = max(1.0, float(np.abs(factors.query @ factors.vectors.T + factors.bias).max()))
    np.testing.assert_allclose(log_prob, reference, rtol=1e-5, atol=2e-6 * magnitude)
    np.testing.assert_allclose(found, reference, rtol=1e-5, atol=2e-6 * magnitude)
    # the rounding error of a score, 1e-7 of its size, is a relative error of the item's share of the mass
    limit = 4e-6 * magnitude * max(1.0, float(np.abs(factors.query).max()))
    for mine, other in zip(jax.tree.leaves(own_gradient), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(mine, other, atol=limit, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(problems())
def test_greedy_slates_equal_those_of_the_whole_product_ties_included(problem):
    _, factors, is_popular, asked, slate_size, block_size = problem
    factors = jax.tree.map(np.round, factors)  # whole numbers: exact sums, and many ties
    product = factors.query @ factors.vectors.T + factors.bias
    expected = greedy_slate(product, is_popular, asked, slate_size=slate_size)
    slate = greedy_slate(factors, is_popular, asked, slate_size=slate_size, block_size=block_size)
    np.testing.assert_array_equal(slate, expected)


def test_what_is_left_keeps_its_odds_after_a_dominant_item_of_its_block():
    """exp(-300) underflows, yet the second slot must still draw 3 to 1 between the two items that remain."""
    scores = np.array([0.0, -300.0, -300.0 + np.log(3.0)])
    factors = FactoredScores(np.ones((20_000, 1), np.float32), scores.astype(np.float32)[:, None])
    slate, log_prob = jax.device_get(
        sample_slate(jax.random.key(4), factors, np.zeros(3, bool), None, slate_size=2, block_size=2)
    )
    np.testing.assert_array_equal(slate[:, 0], 0)
    assert stats.binomtest(int((slate[:, 1] == 2).sum()), 20_000, 0.75).pvalue > 1e-3
    second = np.where(np.asarray(slate)[:, 1] == 2, np.log(0.75), np.log(0.25))
    np.testing.assert_allclose(log_prob[:, 1], second, atol=3e-5)
    found = np.asarray(slate_log_prob(factors, slate, np.zeros(3, bool), None, block_size=2))
    np.testing.assert_allclose(found[:, 1], second, atol=3e-5)


def test_barred_items_are_taken_only_when_nothing_else_is_left():
    bias = np.array([0.0, -np.inf, 1.0, -np.inf, -np.inf], np.float32)
    factors = FactoredScores(np.ones((50, 1), np.float32), np.zeros((5, 1), np.float32), bias)
    drawn = sample_slate(jax.random.key(9), factors, POPULAR, None, slate_size=3, block_size=2)
    slate, log_prob = jax.device_get(drawn)
    assert set(np.asarray(slate)[:, :2].ravel().tolist()) == {0, 2}
    assert {1, 3, 4} >= set(np.asarray(slate)[:, 2].tolist())
    assert np.isfinite(log_prob).all()
    best = greedy_slate(factors, POPULAR, None, slate_size=3, block_size=2)
    np.testing.assert_array_equal(best, np.tile([2, 0, 1], (50, 1)))
    two = slate[:, :2]
    _, found = gradients(factors, two, POPULAR, None, np.ones(two.shape, np.float32), 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    np.testing.assert_array_equal(np.asarray(found[0].bias)[[1, 3, 4]], 0.0)


@pytest.mark.parametrize(("num_popular", "slate"), [(2, [0, 1, 3]), (1, [0, 1, 1]), (None, [2, 4, 2])])
def test_impossible_slots_have_probability_zero_and_no_gradient(num_popular, slate):
    factors, slate = factors_of(SCORES, 1), np.array([slate], np.int32)
    log_prob = np.asarray(slate_log_prob(factors, slate, POPULAR, quotas(num_popular, 1), block_size=2))
    np.testing.assert_allclose(log_prob[0], plackett_luce(SCORES, slate[0], POPULAR, num_popular), atol=1e-6)
    bad = np.isneginf(log_prob)
    assert bad.sum() == 1
    weight = np.random.default_rng(0).normal(size=slate.shape).astype(np.float32)
    masked_weight = np.where(bad, weight, np.float32(0))
    _, found = jax.device_get(gradients(factors, slate, POPULAR, quotas(num_popular, 1), masked_weight, 2))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(found))

    def masked(bias):  # the plain form, by the bias alone: a score's own gradient
        scores, left, total = factors.query[0] @ factors.vectors.T + bias, jnp.ones(5, bool), 0.0
        for slot, item in enumerate(slate[0]):
            group = True if num_popular is None else jnp.asarray((slot < num_popular) == POPULAR)
            log_mass = jax.nn.logsumexp(jnp.where(left & group, scores, -jnp.inf))
            total += jnp.where(bad[0, slot], 0.0, weight[0, slot]) * (scores[item] - log_mass)
            left = left.at[item].set(False)
        return total

    expected = np.asarray(quick_jit(jax.grad(masked))(factors.bias))
    _, (found, _) = jax.device_get(gradients(factors, slate, POPULAR, quotas(num_popular, 1), weight, 2))
    np.testing.assert_allclose(found.bias, expected, atol=1e-6)
    np.testing.assert_allclose(found.vectors, expected[:, None] * factors.query, atol=2e-6)
    np.testing.assert_allclose(found.query[0], expected @ factors.vectors, atol=2e-6)


def test_vmap_over_seeds_changes_nothing():
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, 3, 4)).astype(np.float32)
    vectors, is_popular = rng.normal(size=(70, 4)).astype(np.float32), np.arange(70) % 5 == 0
    asked = np.array([[0, 1, 2], [2, 0, 1]], np.int32)

    def run(seed, query, asked):
        key = jax.random.key(seed)
        factors, options = FactoredScores(query, vectors), {"slate_size": 2, "block_size": 16}
        slate, _ = slates.sample_slate(key, factors, is_popular, asked, **options)
        gradient = jax.grad(
            lambda q: slates.slate_log_prob(FactoredScores(q, vectors), slate, is_popular, asked, block_size=16).sum()
        )(query)
        return slate, gradient, slates.greedy_slate(factors, is_popular, asked, **options)

    together = jax.device_get(quick_jit(jax.vmap(run))(np.arange(2), query, asked))
    alone = quick_jit(run)
    for seed in range(2):
        apart = alone(np.int64(seed), query[seed], asked[seed])
        np.testing.assert_array_equal(together[0][seed], apart[0])
        np.testing.assert_allclose(together[1][seed], apart[1], atol=1e-6)
        np.testing.assert_array_equal(together[2][seed], apart[2])


def largest_array(jaxpr):
    """Elements of the largest array that a traced program makes, in whatever it calls, loops over or differentiates."""
    sizes = [variable.aval.size for equation in jaxpr.eqns for variable in equation.outvars]
    inner = [largest_array(body) for equation in jaxpr.eqns for body in core.jaxprs_in_params(equation.params)]
    return max([0, *sizes, *inner])


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("what", ["sample", "log_prob", "gradient", "greedy"])
def test_no_program_holds_a_score_for_every_user_and_item(what, groups):
    """A catalogue above `LARGEST_WHOLE`, all defaults, E as DSRM-HRL has it: 20 numbers an item, fewer than the 64 users."""
    users, items, factors, slate_size = 64, 20_000, 20, 6
    factors = FactoredScores(np.zeros((users, factors), np.float32), np.zeros((items, factors), np.float32))
    is_popular, slate = np.zeros(items, bool), np.zeros((users, slate_size), np.int32)
    asked = np.zeros(users, np.int32) if groups else None

    def log_prob(factors):
        return slates.slate_log_prob(factors, slate, is_popular, asked).sum()

    program = {
        "sample": lambda f: slates.sample_slate(jax.random.key(0), f, is_popular, asked, slate_size=slate_size),
        "log_prob": log_prob,
        "gradient": jax.grad(log_prob),
        "greedy": lambda f: slates.greedy_slate(f, is_popular, asked, slate_size=slate_size),
    }[what]
    assert largest_array(jax.make_jaxpr(program)(factors).jaxpr) <= users * items / 2


def test_the_walk_over_programs_sees_into_loops():
    def program(x):
        return jax.lax.scan(lambda c, _: (c + jnp.sum(jnp.outer(x, x)), None), 0.0, length=2)[0]

    assert largest_array(jax.make_jaxpr(program)(np.zeros(100, np.float32)).jaxpr) == 10_000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_dsrm_hrl_acts_and_learns_alike_in_blocks(monkeypatch):
    rng = np.random.default_rng(1)
    items, dim, slate_size, steps, users = 23, 3, 3, 4, 5

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    catalogue = Catalogue(normal(items, dim), normal(items), normal(items), jnp.arange(items) < 9)
    agent = make_dsrm_hrl(slate_size=slate_size, hidden=8, sharpness=3.0, epochs=1, minibatches=1)
    state = agent.init(jax.random.key(0), catalogue)
    state = dataclasses.replace(state, params=jax.tree.map(lambda x: 0.5 * normal(*x.shape), state.params))
    view = View(normal(steps, users, dim), normal(steps, users, dim), jnp.zeros((steps, users), jnp.int32))
    last = jax.tree.map(lambda x: x[0], view)

    def both(act_key, view):
        slate, record = jax.vmap(lambda k, v: agent.act(state, k, v, catalogue))(jax.random.split(act_key, steps), view)
        clicks = slate % 2 == 0
        reward = clicks.mean(-1)
        never = jnp.zeros((steps, users), bool)
        rollout = Rollout(view, slate, record, clicks, reward, reward, never, never, None, last)
        greedy, _ = agent.act(state, act_key, last, catalogue, True)
        return rollout, greedy

    def learn(rollout):
        learnt, metrics = agent.update(state, jax.random.key(7), rollout, catalogue)
        return learnt.params, metrics

    rollout, greedy = quick_jit(both)(jax.random.key(3), view)
    expected = quick_jit(learn)(rollout)
    monkeypatch.setattr(slates, "LARGEST_WHOLE", 1)
    monkeypatch.setattr(block_slates, "BLOCK_SIZE", 4)
    # functions that JAX has not seen, so that it traces them again
    in_blocks, greedy_in_blocks = quick_jit(lambda *args: both(*args))(jax.random.key(3), view)
    np.testing.assert_array_equal(greedy_in_blocks, greedy)
    learn_in_blocks = quick_jit(lambda rollout: learn(rollout))
    found = learn_in_blocks(rollout)
    for mine, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-5)
    kl = learn_in_blocks(in_blocks)[1]["worker_kl"]  # before the step: what was recorded is what is computed again
    assert abs(float(kl)) < 1e-6
