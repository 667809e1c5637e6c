"""One program for all methods: each acts by its own rule and state, seeds stay apart, users are shared."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents.agent import Agent
from dsrm_jax.config import Config, DataConfig, EnvironmentConfig, EvaluationConfig, TrainingConfig
from dsrm_jax.errors import InputError
from dsrm_jax.purify.encoder import Embeddings, EncoderParams
from dsrm_jax.purify.perception import Perception
from dsrm_jax.purify.view import View
from dsrm_jax.runs import evaluate
from dsrm_jax.runs.evaluate import compared_methods, evaluate_all, evaluate_methods, rule_of
from dsrm_jax.runs.pieces import agent_of
from dsrm_jax.simulator.build import Worlds
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World

NUM_USERS, NUM_ITEMS, K = 5, 40, 4
IS_POPULAR = np.arange(NUM_ITEMS) < 8
CONFIG = replace(
    Config(),
    data=DataConfig(env="kuairand"),
    environment=EnvironmentConfig(slate_size=K, max_len=10, history_length=2),
    training=TrainingConfig(seeds=(1, 2)),
    evaluation=EvaluationConfig(num_sessions=20, num_users=8),
)
# What the learner of each seed learnt to show: an unbalanced slate, a balanced one.
LEARNT = np.array([[0, 1, 2, 30], [0, 1, 30, 31]], np.int32)


def make_world(preference=None):
    rows = jnp.arange(NUM_USERS, dtype=jnp.int32)
    keen = jnp.arange(NUM_USERS) % 2 == 0  # click everything, or nothing
    return World(
        response=TableResponse(jnp.repeat(keen[:, None].astype(jnp.float32), NUM_ITEMS, axis=1)),
        starts=SessionStarts(rows, rows, keen, jnp.arange(NUM_USERS + 1, dtype=jnp.int32)),
        item=jnp.arange(NUM_ITEMS, dtype=jnp.int32),
        is_popular=jnp.asarray(IS_POPULAR),
        log_popularity=jnp.zeros(NUM_ITEMS),
        preference=preference,
    )


def make_perception():
    """Every user looks the same, and the last items of each group look best."""
    embeddings = Embeddings(jnp.zeros((NUM_ITEMS, 2)), jnp.arange(NUM_ITEMS, dtype=jnp.float32))
    return Perception(EncoderParams(embeddings, ()), jnp.zeros((2, 1)))


def learner_that_shows_its_state(config, method):
    if method != "dsrm_hrl":
        return agent_of(config, method)

    slate_size = config.environment.slate_size

    def act(state, key, view, catalogue, greedy=False):
        return jnp.broadcast_to(state, (view.state.shape[0], slate_size)), ()

    return Agent(init=None, act=act, update=None)


def perceive_nothing(config):
    def perceive(perception, key, observation):
        state = jnp.zeros((*observation.time.shape, 2))
        return View(state=state, observed=state, time=observation.time)

    return perceive


@pytest.fixture(scope="module")
def found():
    """`(results, sessions, lines said)` of one evaluation."""
    said, kept = [], {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "agent_of", learner_that_shows_its_state)
        patch.setattr(evaluate, "perceive_of", perceive_nothing)
        patch.setattr(evaluate, "evaluate_methods", lambda *a: kept.update(evaluate_methods(*a)) or kept)
        world = make_world()
        results = evaluate_all(CONFIG, LEARNT, Worlds(world, world, None, None, {}), make_perception(), said.append)
    return results, kept, said


def test_the_trained_method_comes_first_and_every_yardstick_follows(found):
    results, _, said = found
    assert list(results) == ["dsrm_hrl", "random", "quota_random", "quota_greedy", "quota_greedy_purified"]
    assert all(any(method in line for line in said) for method in results)


def test_every_seed_acts_by_its_own_state(found):
    """The first seed's slates are all off balance: its keen users leave after 5 steps and not 10."""
    results, sessions, _ = found
    for seed, (lengths, slate) in enumerate(zip([{3 + 1, 5}, {5, 10}], LEARNT, strict=True)):
        mine = sessions["dsrm_hrl"][seed]
        assert set(mine.length.tolist()) == lengths
        assert np.flatnonzero(mine.item_count).tolist() == slate.tolist()
    assert [seed["broken"] for seed in results["dsrm_hrl"]["seeds"]] == [1.0, 0.0]


def test_every_yardstick_acts_by_its_own_rule(found):
    results, sessions, _ = found
    for method in ("quota_greedy", "quota_greedy_purified"):
        for mine in sessions[method]:
            assert np.flatnonzero(mine.item_count).tolist() == [6, 7, 38, 39]
    for mine in sessions["quota_random"]:
        assert mine.item_count[IS_POPULAR].sum() * 2 == mine.item_count.sum()
        assert np.count_nonzero(mine.item_count) > 30
    assert results["random"]["broken"]["mean"] > 0.5
    assert np.all(sum(mine.item_count for mine in sessions["random"]) > 0)


def test_all_methods_meet_the_same_users_and_seeds_do_not(found):
    _, sessions, _ = found
    first = [mine.length for mine in sessions["quota_greedy"]]
    for mine, length in zip(sessions["quota_random"], first, strict=True):
        np.testing.assert_array_equal(mine.length, length)
    assert not np.array_equal(*first)


def test_differences_are_the_trained_methods_minus_the_others(found):
    results, sessions, _ = found
    assert list(results["dsrm_hrl"]["difference"]) == list(results)[1:]
    gap = results["dsrm_hrl"]["difference"]["quota_greedy"]["length"]
    lost = [np.mean(b.length - a.length) for a, b in zip(sessions["dsrm_hrl"], sessions["quota_greedy"], strict=True)]
    assert lost[0] > 0
    assert lost[1] == 0
    assert gap["mean"] == pytest.approx(-np.mean(lost))


def test_summaries_use_the_environments_numbers(found):
    results, sessions, _ = found
    greedy = results["quota_greedy"]
    assert greedy["sessions"] == 40
    assert greedy["confidence"] == CONFIG.evaluation.confidence
    clicks, length = (sum(getattr(s, name).sum() for s in sessions["quota_greedy"]) for name in ("clicks", "length"))
    assert greedy["return"]["mean"] == pytest.approx(clicks / 40 / K)
    assert greedy["length"]["mean"] == pytest.approx(length / 40)
    rates = [seed["reward"] for seed in greedy["seeds"]]
    assert greedy["closed_form"] == pytest.approx(np.mean([9 / (2 - rate) + 0.5 for rate in rates]))


def test_the_oracle_is_compared_only_where_the_truth_is_known():
    known = make_world((jnp.zeros((NUM_USERS, 1)), jnp.zeros((NUM_ITEMS, 1)), jnp.zeros(NUM_ITEMS)))
    assert compared_methods(known, "dsrm_hrl")[-1] == "oracle"
    assert "oracle" not in compared_methods(make_world(), "dsrm_hrl")
    assert compared_methods(known, "quota_greedy") == [
        "quota_greedy",
        "random",
        "quota_random",
        "quota_greedy_purified",
        "oracle",
    ]
    assert callable(rule_of(CONFIG, "oracle", (), known, make_perception()))


def test_asking_for_the_oracle_on_real_data_says_what_is_missing_and_what_runs():
    with pytest.raises(InputError) as error:
        rule_of(CONFIG, "oracle", (), make_world(), make_perception())
    message = str(error.value)
    for part in ("oracle", "true preference", "data.env='kuairand'", "data.path"):
        assert part in message
    for method in compared_methods(make_world(), CONFIG.agent.method):
        assert method in message
        assert callable(rule_of(CONFIG, method, (), make_world(), make_perception()))
    with pytest.raises(InputError, match="true preference"):
        evaluate_methods(CONFIG, ["random", "oracle"], None, make_world(), make_perception(), print)


def test_a_misspelt_method_gets_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'quota_greedy'"):
        rule_of(CONFIG, "quota_gredy", (), make_world(), make_perception())
