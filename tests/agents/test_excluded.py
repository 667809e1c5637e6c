"""What a slate may not hold is in none: the one place where masks are honoured, and every method that goes through it."""

from dataclasses import replace
from functools import partial
from inspect import signature

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.agents import actor_critic, sac4ir, slates
from dsrm_jax.agents.agent import LoggedData, Transition
from dsrm_jax.agents.block_slates import FactoredScores
from dsrm_jax.agents.dnair import explore
from dsrm_jax.agents.methods import METHODS, make_agent
from dsrm_jax.agents.sac4ir import softmax_policy
from dsrm_jax.config import AgentConfig
from dsrm_jax.purify.view import Catalogue, View

sample_slate = jax.jit(slates.sample_slate, static_argnames="slate_size")
greedy_slate = jax.jit(slates.greedy_slate, static_argnames=("slate_size", "block_size"))
B, J, K, D = 16, 12, 4, 3


@st.composite
def problems(draw):
    """Scores with ties, barred and excluded items, at least K of a row not excluded; quotas or none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31 - 1)))
    scores = np.round(rng.normal(size=(B, J)), draw(st.sampled_from([0, 6]))).astype(np.float32)
    scores[rng.random((B, J)) < draw(st.sampled_from([0.0, 0.5]))] = -np.inf
    is_popular = rng.random(J) < draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    num_excluded = rng.integers(0, J - K + 1, B) if draw(st.booleans()) else np.full(B, J - K)
    excluded = np.argsort(rng.random((B, J)), axis=1) < num_excluded[:, None]
    asked = rng.integers(-1, K + 2, B).astype(np.int32) if draw(st.booleans()) else None
    return scores, is_popular, excluded, asked, draw(st.integers(0, 2**31 - 1))


def quota_of(is_popular, excluded, asked):
    """How many slots of a row are the popular group's: as asked, as far as both groups have items for it."""
    popular, tail = (is_popular & ~excluded).sum(), (~is_popular & ~excluded).sum()
    return max(min(asked, popular, K), K - tail, 0)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_greedy_takes_the_best_that_is_left_of_each_group(problem):
    scores, is_popular, excluded, asked, _ = problem
    found = np.asarray(greedy_slate(scores, is_popular, asked, slate_size=K, excluded=excluded))
    for row in range(B):
        order = [i for i in np.argsort(-scores[row], kind="stable") if not excluded[row, i]]
        expected = order[:K]
        if asked is not None:
            count = quota_of(is_popular, excluded[row], asked[row])
            tail = [i for i in order if not is_popular[i]]
            expected = [i for i in order if is_popular[i]][:count] + tail[: K - count]
        assert found[row].tolist() == expected


@settings(max_examples=40, deadline=None)
@given(problems())
def test_no_draw_holds_an_excluded_item_or_leaves_its_quota(problem):
    scores, is_popular, excluded, asked, seed = problem
    slate = np.asarray(
        sample_slate(jax.random.key(seed), scores, is_popular, asked, slate_size=K, excluded=excluded)[0]
    )
    assert not np.take_along_axis(excluded, slate, axis=1).any()
    for row in range(B):
        assert len(set(slate[row].tolist())) == K
        if asked is not None:
            assert is_popular[slate[row]].sum() == quota_of(is_popular, excluded[row], asked[row])


@settings(max_examples=10, deadline=None)
@given(problems())
def test_excluding_nothing_changes_no_bit(problem):
    scores, is_popular, _, asked, seed = problem
    nothing = np.zeros((B, J), bool)
    for draw in (greedy_slate, partial(sample_slate, jax.random.key(seed))):
        plain = draw(scores, is_popular, asked, slate_size=K)
        masked = draw(scores, is_popular, asked, slate_size=K, excluded=nothing)
        jax.tree.map(np.testing.assert_array_equal, masked, plain)


def test_the_chances_of_what_is_left_are_those_of_the_scores_without_the_rest():
    """A draw from five items of which two are excluded is the draw from the other three."""
    scores = np.tile(np.array([0.3, 9.0, 1.2, -9.0, 0.4], np.float32), (20_000, 1))
    excluded = np.tile([False, True, False, True, False], (20_000, 1))
    slate, log_prob = sample_slate(jax.random.key(0), scores, np.zeros(5, bool), None, slate_size=1, excluded=excluded)
    chance = np.exp([0.3, 1.2, 0.4]) / np.exp([0.3, 1.2, 0.4]).sum()
    share = np.bincount(np.asarray(slate)[:, 0], minlength=5)[[0, 2, 4]] / len(scores)
    np.testing.assert_allclose(share, chance, atol=4 * np.sqrt(0.25 / len(scores)))
    np.testing.assert_allclose(np.exp(log_prob[:, 0]), chance[np.searchsorted([0, 2, 4], slate[:, 0])], rtol=1e-5)


def test_factors_are_masked_as_their_product_is():
    rng = np.random.default_rng(0)
    factors = FactoredScores(*(rng.normal(size=s).astype(np.float32) for s in ((B, D), (J, D), (J,))))
    excluded = rng.random((B, J)) < 0.5
    options = {"slate_size": K, "excluded": excluded}
    found = greedy_slate(factors, np.arange(J) < 3, None, block_size=5, **options)
    product = factors.query @ factors.vectors.T + factors.bias
    np.testing.assert_array_equal(found, greedy_slate(product, np.arange(J) < 3, None, **options))


def test_exploring_draws_nothing_that_is_excluded():
    slate, excluded = np.tile(np.arange(K, dtype=np.int32), (500, 1)), np.tile(np.arange(J) >= 2 * K, (500, 1))
    found = jax.jit(explore, static_argnames="num_items")(
        jax.random.key(0), slate, num_items=J, probability=1.0, excluded=excluded
    )
    assert set(np.unique(found)) == set(range(2 * K))


take_turns = jax.jit(slates.take_turns)


@pytest.mark.parametrize("num_popular", range(7))
def test_when_groups_take_turns_any_start_of_a_slate_is_as_balanced_as_it_is(num_popular):
    slate, size = np.arange(20, 26, dtype=np.int32)[None], 6
    is_popular = np.arange(30) < 20 + num_popular
    found = np.asarray(take_turns(slate, is_popular))[0]
    popular = found[found < 20 + num_popular]
    assert popular.tolist() == list(range(20, 20 + num_popular))
    assert found[found >= 20 + num_popular].tolist() == list(range(20 + num_popular, 26))
    for first in range(1, size + 1):
        assert abs((found[:first] < 20 + num_popular).sum() - first * num_popular / size) < 1


def catalogue_and_log():
    rng = np.random.default_rng(1)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    position = np.arange(J, dtype=np.int32)
    counts = rng.integers(1, 50, J).astype(np.float32)
    catalogue = Catalogue(normal(J, D), normal(J), normal(J), position < 3, counts, counts / 2, position)
    state, zeros = normal(B, D), np.zeros(B, np.float32)
    view = View(state, state, np.zeros(B, np.int32))
    shown = rng.integers(0, J, (B, K)).astype(np.int32)
    steps = Transition(view, shown, (), shown % 2 == 0, zeros, zeros, zeros > 0, view)
    return catalogue, LoggedData(steps, shown[:, 0], np.zeros(B, np.int32)), normal(512, D)


OPTIONS = [
    *((name, {}) for name, method in METHODS.items() if method.make and method.state == "identity"),
    ("hrl", {"slate_mode": "penalty"}),
    ("flat", {}),
    ("bcq", {"mode": "continuous"}),
]


def started_config(name, options, **settings):
    """The settings of a small agent."""
    settings |= {key: value for key, value in options.items() if hasattr(AgentConfig, key)}
    config = AgentConfig(method=name, hidden=4, **settings)
    return replace(config, bcq=type(config.bcq)(**options)) if "mode" in options else config


def started_agent(name, options, catalogue, logged, **settings):
    """An agent and a state with parameters at random."""
    agent = make_agent(started_config(name, options, **settings), slate_size=K)
    shapes = jax.eval_shape(agent.init, jax.random.key(0), catalogue, logged)
    rng = np.random.default_rng(4)
    return agent, jax.tree.map(lambda x: (0.5 * rng.normal(size=x.shape)).astype(x.dtype), shapes)


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda x: str(x))
def test_no_method_shows_what_is_excluded(name, options):
    """512 users, each with masks that leave K to J items, some of them one group alone."""
    catalogue, logged, state = catalogue_and_log()
    agent, started = started_agent(name, options, catalogue, logged)
    rng = np.random.default_rng(2)
    excluded = np.argsort(rng.random((len(state), J)), axis=1) < rng.integers(0, J - K + 1, len(state))[:, None]
    excluded[:9] = np.arange(J) >= J - (J - K)
    excluded[9:18] = np.arange(J) < J - K
    view = View(state, state, np.zeros(len(state), np.int32), excluded=excluded)

    @jax.jit
    def act(view, catalogue):
        return [agent.act(started, jax.random.key(1), view, catalogue, greedy)[0] for greedy in (True, False)]

    for slate in map(np.asarray, act(view, catalogue)):
        assert not np.take_along_axis(excluded, slate, axis=1).any()
        assert (np.sort(slate, axis=1)[:, 1:] > np.sort(slate, axis=1)[:, :-1]).all()


WITHOUT_GOAL = [
    *((name, {}) for name, method in METHODS.items() if "head" in signature(method.make or make_agent).parameters),
    ("bcq", {"mode": "continuous"}),
]


@pytest.mark.parametrize(("name", "options"), WITHOUT_GOAL, ids=lambda x: str(x))
def test_under_the_head_every_slate_is_half_popular_and_ranked_as_the_method_ranks(name, options):
    """Greedy: of each group the first K/2 of that group in a slate as long as the catalogue, without the head."""
    catalogue, logged, state = catalogue_and_log()
    view = View(state, state, np.zeros(len(state), np.int32))
    agent, started = started_agent(name, options, catalogue, logged, head="half")
    free = make_agent(started_config(name, options), slate_size=J)
    assert agent.grouped

    @jax.jit
    def act(view, catalogue):
        key = jax.random.key(1)
        slates = [agent.act(started, key, view, catalogue, greedy)[0] for greedy in (True, False)]
        return *slates, free.act(started, key, view, catalogue, True)[0]

    greedy, drawn, order = map(np.asarray, act(view, catalogue))
    popular = np.asarray(catalogue.is_popular)
    for slate in (greedy, drawn):
        assert (popular[slate].sum(axis=1) == K // 2).all()
        assert (np.sort(slate, axis=1)[:, 1:] > np.sort(slate, axis=1)[:, :-1]).all()
    for row, slate in zip(order, greedy, strict=True):
        best = [[i for i in row if popular[i] == group][: K // 2] for group in (True, False)]
        assert slate.tolist() == best[0] + best[1]


def test_the_head_is_in_the_probabilities_that_methods_learn_by():
    catalogue, logged, state = catalogue_and_log()
    view = View(state, state, np.zeros(len(state), np.int32))
    agent, started = started_agent("a2c", {}, catalogue, logged, head="half")
    slate, record = jax.jit(partial(agent.act, started, jax.random.key(1)))(view, catalogue)
    free = make_agent(started_config("a2c", {}), slate_size=J)
    scores = jax.jit(partial(actor_critic.item_logits, free.act.args[0]))(started.params, view, catalogue)
    popular = np.asarray(catalogue.is_popular)
    # a slot's chance is a softmax over what its own group has left
    weight, expected = np.exp(np.asarray(scores, np.float64)), []
    for row, items in zip(weight, np.asarray(slate), strict=True):
        left = row.copy()
        for item in items:
            expected.append(left[item] / left[popular == popular[item]].sum())
            left[item] = 0
    np.testing.assert_allclose(np.exp(record.log_prob).ravel(), expected, rtol=1e-3)
    agent, started = started_agent("sac4ir", {}, catalogue, logged, head="half")
    parts = agent.act.args[0]
    policy = jax.jit(lambda params, *seen: softmax_policy(sac4ir._logits(parts, params, *seen)).probability)
    chance = np.asarray(policy(started.learner.params["actor"], state, catalogue))
    np.testing.assert_allclose(chance[:, popular].sum(axis=1), 0.5, atol=1e-5)
