"""Rules for SARDINE's worlds against enumeration: what a slate risks, what clicks say of a user, who was bored."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from dsrm_jax.data.sources import load_log
from dsrm_jax.simulator.mechanism import with_mechanisms
from dsrm_jax.simulator.response import FactorResponse
from experiments.worlds import sardine
from tests.simulator.literal_sardine import Literal
from tests.simulator.worlds import make_world

NUM = 30
RNG = np.random.default_rng(0)
TOPICS = RNG.integers(0, 3, NUM)
RELEVANCE = RNG.random(NUM).astype(np.float32)


def chance_of_count(chances, number):
    """Return how likely exactly `number` of independent clicks happen, over all outcomes."""
    total = 0.0
    for clicks in product((0, 1), repeat=len(chances)):
        if sum(clicks) == number:
            total += np.prod([p if click else 1 - p for click, p in zip(clicks, chances, strict=True)])
    return total


@pytest.mark.parametrize("count", [(0, 0, 0), (3, 1, 4), (4, 4, 6)])
def test_a_slot_takes_the_best_chance_less_the_price_of_boredom(count):
    slate = np.asarray(jax.jit(sardine.priced(4.0))(RELEVANCE, jnp.asarray(count), jnp.asarray(TOPICS)))
    before = {topic: [] for topic in range(3)}
    left = list(range(NUM))
    for slot, item in enumerate(slate):
        examined = 0.85**slot
        bores = [chance_of_count(before[topic], 4 - count[topic]) for topic in range(3)]
        gain = np.array([RELEVANCE[j] * examined * (1 - 4 * bores[TOPICS[j]]) for j in left])
        assert gain[left.index(item)] > gain.max() - 1e-5
        left.remove(item)
        before[TOPICS[item]].append(RELEVANCE[item] * examined)


def test_a_capped_slate_is_the_best_whose_topics_expect_no_more_than_the_cap():
    count = (0, 1, 4)
    slate = np.asarray(jax.jit(sardine.capped(2.5))(RELEVANCE, jnp.asarray(count), jnp.asarray(TOPICS)))
    expected, left = np.array(count, float), list(range(NUM))
    for slot, item in enumerate(slate):
        chance = RELEVANCE * 0.85**slot
        open_ = [j for j in left if expected[TOPICS[j]] + chance[j] <= max(2.5, expected[TOPICS[j]]) + 1e-3]
        best = max(open_, key=lambda j: RELEVANCE[j]) if open_ else min(left, key=lambda j: RELEVANCE[j])
        assert item == best
        left.remove(item)
        expected[TOPICS[item]] += chance[item]
    assert len(open_) < len(left) / 2  # by then most items are out of the question
    assert np.all(expected < np.maximum(2.5, count) + 0.01)


def test_a_belief_is_bayes_rule_over_the_slates_of_a_user_who_is_not_bored():
    user, item, bias = RNG.normal(size=(7, 3)), RNG.normal(size=(NUM, 3)), RNG.normal(size=NUM)
    model = FactorResponse(*(jnp.asarray(x, jnp.float32) for x in (user, item, np.zeros(7), bias)))
    belief = sardine.make_belief(model, omega=1.0)
    world = make_world(model, num_items=NUM).replace(categories=jax.nn.one_hot(TOPICS, 3, dtype=bool))
    world = with_mechanisms(jax.random.key(0), world, [belief])
    step = jax.jit(lambda memory, slate, clicks: belief.step(jax.random.key(0), memory, (), slate, clicks, world))
    memory = belief.start(jax.random.key(0), (), world)
    literal = Literal(np.zeros(3), TOPICS, np.zeros((NUM, 3)), 1.0)
    log_weight, bored = np.zeros(7), 0
    for _ in range(30):
        slate, clicks = RNG.choice(NUM, 10, replace=False).astype(np.int32), RNG.random(10) < 0.2
        chance = np.clip(expit(user @ item[slate].T + bias[slate]), 0.02, 0.98) * 0.85 ** np.arange(10)
        if literal.bored.any():
            bored += 1
        else:
            log_weight += np.where(clicks, np.log(chance), np.log1p(-chance)).sum(1)
        memory = step(memory, slate, clicks)
        literal.step(slate, clicks)
        want = log_weight - np.logaddexp.reduce(log_weight)
        np.testing.assert_allclose(memory.log_weight, want, atol=1e-3)
    assert 5 < bored < 25


def test_bored_slates_of_a_log_are_the_transcriptions():
    log = load_log("sardine-topk-bored")
    slates, clicks = (x.reshape(2000, -1, 10)[:100] for x in (log.train.item, log.train.click))
    found = np.asarray(sardine.bored_slates(jnp.asarray(slates), jnp.asarray(clicks), log.categories))
    topics, nothing = log.categories.argmax(1), np.zeros((1000, 10))
    for u in range(100):
        literal = Literal(np.zeros(10), topics, nothing, 1.0)
        for t in range(slates.shape[1]):
            assert found[u, t] == literal.bored.any()
            literal.step(slates[u, t], clicks[u, t])
    assert found.mean() > 0.2
