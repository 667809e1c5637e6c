"""The ladder takes a rung where left-out users' later clicks speak for it, and no other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, log_expit

from dsrm_jax.purify import choice
from dsrm_jax.purify.encoder import Embeddings, gather_evidence, make_encoder
from dsrm_jax.purify.perception import Perception, make_perceive
from dsrm_jax.purify.purifier import Purifier
from dsrm_jax.purify.windows import Windows
from dsrm_jax.simulator.environment import Observation
from dsrm_jax.simulator.world import SessionStarts


def make_starts(counts: list[int], seed: int = 0) -> SessionStarts:
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(len(counts)), counts)
    item, click = rng.integers(0, 7, len(user)), rng.random(len(user)) < 0.5
    first = np.concatenate([[0], np.cumsum(counts)])
    return SessionStarts(*jax.device_put((user.astype(np.int32), item.astype(np.int32), click, first.astype(np.int32))))


@given(st.integers(1, 40_000))
@settings(max_examples=25, deadline=None)
def test_nobody_is_on_both_sides(num_users):
    learnt, left = choice.leave_out(jax.random.key(num_users), num_users)
    both = np.concatenate([learnt, left])
    assert len(left) == max(1, min(round(0.1 * num_users), 2_000))
    if num_users > 1:
        np.testing.assert_array_equal(np.sort(both), np.arange(num_users))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=9), st.data())
@settings(max_examples=40, deadline=None)
def test_rows_stay_with_their_users(counts, data):
    starts = jax.device_get(make_starts(counts))
    users = np.array(sorted(data.draw(st.sets(st.sampled_from(range(len(counts))), min_size=1))))
    found = jax.device_get(choice.starts_of_users(starts, users))
    for new, old in enumerate(users):
        here, there = slice(*found.first[new : new + 2]), slice(*starts.first[old : old + 2])
        np.testing.assert_array_equal(found.item[here], starts.item[there])
        np.testing.assert_array_equal(found.click[here], starts.click[there])
        np.testing.assert_array_equal(found.user[here], new)


def test_likelihood_of_what_came_later_is_that_of_the_rows():
    starts, rng = make_starts([12, 9]), np.random.default_rng(1)
    embeddings = Embeddings(*(jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((7, 3), 7)))
    later = choice.draw_later(jax.random.key(0), Windows(starts, 4, 2), number=30)
    state = rng.normal(size=(30, 3))
    found = choice.later_log_likelihood(jnp.asarray(state, jnp.float32), embeddings, later)
    for n in range(30):
        length, user = int(later.history.length[n]), int(later.user[n])
        events = np.asarray(later.history.item[n])[4 - length :]
        rows = np.arange(*starts.first[user : user + 2])
        # where the history ends: the row after its last event, if it has one
        ends = [r for r in rows if length <= r - rows[0] and np.array_equal(starts.item[r - length : r], events)]
        options = []
        for end in ends:
            index = np.arange(end, rows[-1] + 1)
            item, click = np.asarray(starts.item)[index], np.asarray(starts.click)[index]
            p = expit(np.asarray(embeddings.vectors, np.float64)[item] @ state[n] + np.asarray(embeddings.bias)[item])
            options.append(stats.bernoulli.logpmf(click, p).mean())
        assert np.min(np.abs(np.array(options) - found[n])) < 1e-5


def test_a_rung_is_taken_beyond_its_interval_alone():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(100), 5)
    base = rng.normal(size=500)
    rungs = {
        "observed": base,
        "noise": base + rng.normal(size=500),
        "better": base + 0.2 + 0.3 * rng.normal(size=500),
        "same": base + 0.2 + 0.3 * rng.normal(size=500),
    }
    found = choice.climb(rungs, user)
    assert found["chosen"] == "better"
    assert [found["rungs"][name]["over"] for name in ("noise", "better", "same")] == ["observed", "observed", "better"]
    gap = (rungs["better"] - base).reshape(100, 5).mean(axis=1)
    low, high = stats.t.interval(0.95, 99, gap.mean(), stats.sem(gap))
    gain = found["rungs"]["better"]["gain"]
    np.testing.assert_allclose([gain["low"], gain["high"]], [low, high])
    assert choice.in_words(found).startswith("state: better, by the log-likelihood of the later clicks of 100 left-out")


def test_one_user_speaks_for_nothing():
    found = choice.climb({"observed": np.zeros(4), "other": np.ones(4)}, np.zeros(4, int))
    assert found["chosen"] == "observed"
    assert "[" not in choice.in_words(found)


def test_a_user_of_many_histories_counts_once():
    user = np.repeat(np.arange(20), [200] + [1] * 19)
    gap = np.where(user == 0, 1.0, -0.1)  # of the rows most are better, of the users all but one are worse
    assert choice.climb({"observed": np.zeros(len(user)), "other": gap}, user)["chosen"] == "observed"
    assert choice.climb({"observed": gap, "other": np.zeros(len(user))}, user)["rungs"]["other"]["gain"]["mean"] > 0


def taste_log() -> tuple[SessionStarts, Embeddings]:
    """Users of one liking each, in a log that shows everybody the same seven items over and over."""
    starts, rng = make_starts([60] * 40), np.random.default_rng(2)
    vectors = np.concatenate([rng.normal(size=(7, 2)), np.ones((7, 1))], axis=1)
    taste = 2 * rng.normal(size=(40, 3))
    logit = np.sum(taste[np.asarray(starts.user)] * vectors[np.asarray(starts.item)], axis=1)
    click = rng.random(len(logit)) < expit(logit)
    embeddings = Embeddings(jnp.asarray(vectors, jnp.float32), jnp.zeros(7))
    return SessionStarts(starts.user, starts.item, jnp.asarray(click), starts.first), embeddings


def leaning(params, key, state, evidence):
    """What was clicked less what was not, times the one parameter."""
    sign = jnp.where(evidence.click, 1.0, -1.0) * evidence.shown
    return params * jnp.einsum("...h,...hd->...d", sign, evidence.vectors) / 10


def test_a_state_is_measured_against_the_items_own_appeal():
    """Against NumPy: the observed state but for its last coordinate ranks alike for everybody."""
    starts, embeddings = taste_log()
    embeddings = embeddings.replace(bias=jnp.linspace(-1.0, 1.0, 7))
    encoder = make_encoder(dim=2)
    params = encoder.init(jax.random.key(0), embeddings)
    params = params.replace(network=jax.tree.map(lambda x: 0.3 * jnp.ones(x.shape), params.network))
    later = choice.draw_later(jax.random.key(1), Windows(starts, 16, 8), number=200)
    evidence = gather_evidence(embeddings, later.history)
    rate = np.asarray(encoder.encode(params, evidence.summary))[:, -1]
    item, click = np.asarray(later.label.item), np.asarray(later.label.click)
    logit = np.asarray(embeddings.bias)[item] + rate[:, None]  # of vectors that end in 1
    told = np.where(click, log_expit(logit), log_expit(-logit)) * np.asarray(later.label.present)
    alike = told.sum(axis=1) / np.asarray(later.label.present).sum(axis=1)
    purified = np.asarray(
        choice.later_log_likelihood(leaning(0.5, None, None, evidence), embeddings, later), np.float64
    )
    gain = choice.over_popularity(encoder, params, later, purified)
    users = np.unique(later.user)
    means = [(purified - alike)[np.asarray(later.user) == user].mean() for user in users]
    assert gain["mean"] == pytest.approx(np.mean(means), abs=1e-5)
    nothing = choice.over_popularity(encoder, params, later, alike)
    assert nothing["low"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("strength", "chosen"), [(1.0, "own"), (-1.0, "observed")])
def test_agents_are_given_the_state_that_was_chosen(strength, chosen):
    starts, embeddings = taste_log()
    encoder = make_encoder(dim=2)
    params = encoder.init(jax.random.key(0), embeddings)
    off = jax.tree.map(lambda x: 0.3 * jax.random.normal(jax.random.key(1), x.shape), params.network)
    purifier = Purifier(None, None, leaning, plainer={"halved": lambda x: x / 2})
    perception = Perception(params.replace(network=off), jnp.full(2, strength))
    windows = Windows(starts, 16, 8)
    found, said = choice.choose(
        jax.random.key(2), perception, encoder, purifier, windows, windows, kind="own", iterations=1
    )
    assert said["chosen"] == chosen
    assert list(said["rungs"]) == ["observed", "halved", "own"]
    assert np.isclose(said["with_skips"], np.log(0.5), atol=0.05)  # an encoder that learnt nothing
    history = jax.tree.map(lambda x: x[:5], choice.draw_later(jax.random.key(3), windows, number=5).history)
    one = found.replace(purifier=found.purifier[0])
    view = make_perceive(encoder, purifier)(one, None, Observation(history, jnp.zeros(5), jnp.zeros(5, jnp.int32)))
    evidence = gather_evidence(embeddings, history)
    observed = encoder.encode(found.encoder, evidence.summary)
    expected = {"own": leaning(strength, None, None, evidence), "observed": observed}
    np.testing.assert_allclose(view.state, expected[chosen], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(view.observed, observed, rtol=1e-5, atol=1e-6)
