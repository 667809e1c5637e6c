"""The ruler: its interval against simulation, its oracle against least squares, its arrivals and records against hand counts."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from rich.console import Console

from dsrm_jax.agents.yardsticks import make_quota_greedy_purified
from dsrm_jax.config import (
    Config,
    EncoderConfig,
    EnvironmentConfig,
    EvaluationConfig,
    PurifierConfig,
    SyntheticConfig,
    TrainingConfig,
)
from dsrm_jax.errors import InputError
from dsrm_jax.evaluation.recovered import gained, recovered
from dsrm_jax.purify.encoder import Embeddings, EncoderParams, make_encoder
from dsrm_jax.purify.perception import Perception, make_perceive
from dsrm_jax.purify.purifier import identity_purifier
from dsrm_jax.runs.pieces import environment_of
from dsrm_jax.simulator.environment import Observation
from dsrm_jax.simulator.response import FactorResponse, TableResponse
from dsrm_jax.simulator.world import History, SessionStarts, World
from experiments.headroom.ruler import contaminated, headroom
from experiments.headroom.sessions import arriving_with, keep_last, oracle_perceive, oracle_states, record_sessions
from experiments.headroom.table import headroom_table, share_cell

USERS, ITEMS, FACTORS, D, ROWS, H = 9, 24, 5, 4, 20, 12
ENCODER = make_encoder(dim=D - 1)
ENVIRONMENT = environment_of(Config(environment=EnvironmentConfig(history_length=H, max_len=6)))


@pytest.fixture(scope="module")
def world():
    generator = np.random.default_rng(0)
    response = FactorResponse(
        user=jnp.float32(generator.normal(size=(USERS, FACTORS))),
        item=jnp.float32(generator.normal(size=(ITEMS, FACTORS))),
        user_bias=jnp.float32(generator.normal(size=USERS)),
        item_bias=jnp.float32(generator.normal(size=ITEMS)),
    )
    rows = USERS * ROWS
    starts = SessionStarts(
        jnp.repeat(jnp.arange(USERS, dtype=jnp.int32), ROWS),
        jnp.asarray(generator.integers(1, 30, rows), jnp.int32),
        jnp.asarray(generator.uniform(size=rows) < 0.5),
        jnp.arange(0, rows + 1, ROWS, dtype=jnp.int32),
    )
    return World(
        response=response,
        starts=starts,
        item=jnp.arange(3, 3 + ITEMS, dtype=jnp.int32),
        is_popular=jnp.arange(ITEMS) < 8,
        log_popularity=jnp.zeros(ITEMS),
        exposure=jnp.ones(ITEMS),
        clicked=jnp.ones(ITEMS),
    )


@pytest.fixture(scope="module")
def embeddings():
    generator = np.random.default_rng(1)
    vectors = np.c_[generator.normal(size=(30, D - 1)), np.ones(30)]
    return Embeddings(jnp.float32(vectors), jnp.float32(generator.normal(size=30)))


def paired_sessions(generator, sessions):
    """Lengths and clicks of three states on the same users: rates .7, .8 and .9 plus a user effect that all three share."""
    effect = generator.normal(size=sessions) * 0.05
    parts = []
    for rate in (0.7, 0.8, 0.9):
        length = generator.integers(20, 31, sessions)
        own = np.clip(rate + effect + 0.02 * generator.normal(size=sessions), 0, 1)
        parts.append([(generator.binomial(6 * length, own) * 1.0, 6.0 * length)])
    return parts


def test_interval_of_the_recovered_share_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    shares, widths, hits = [], [], 0
    for _ in range(400):
        found = recovered(*paired_sessions(generator, 150), confidence=0.9)
        shares.append(found["mean"])
        widths.append((found["high"] - found["low"]) / 2)
        hits += found["low"] <= 0.5 <= found["high"]
    # lengths are independent of effects, so that the ratio of sums is centred on (.8 - .7) / (.9 - .7)
    np.testing.assert_allclose(np.mean(shares), 0.5, atol=0.01)
    np.testing.assert_allclose(np.mean(widths), 1.645 * np.std(shares), rtol=0.15)
    assert 0.86 < hits / 400 < 0.94


def test_ends_of_the_scale_are_exact():
    raw, middle, top = paired_sessions(np.random.default_rng(3), 50)
    assert recovered(raw, raw, top, confidence=0.9) == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert recovered(raw, top, top, confidence=0.9)["mean"] == 1.0
    assert recovered(top, middle, raw, confidence=0.9)["mean"] is None  # no headroom
    gain = gained(raw, middle, confidence=0.9)
    rates = [np.sum(p[0][0]) / np.sum(p[0][1]) for p in (raw, middle)]
    np.testing.assert_allclose(gain["mean"], rates[1] - rates[0])
    assert gain["low"] < gain["mean"] < gain["high"]


def test_oracle_state_is_the_nearest_to_the_true_click_chances(world, embeddings):
    """Against SciPy's minimum of the same objective in float64."""
    r = jax.tree.map(lambda x: np.asarray(x, np.float64), world.response)
    chance = scipy.special.expit(r.user @ r.item.T + r.user_bias[:, None] + r.item_bias)
    items = np.asarray(world.item)
    vectors, bias = (np.asarray(x, np.float64)[items] for x in (embeddings.vectors, embeddings.bias))
    found = jax.jit(lambda e, w: oracle_states(e, w, ridge=0.7))(embeddings, world)
    for p, state in zip(chance, found, strict=True):

        def distance(s, p=p):
            logit = vectors @ s + bias
            return np.sum(np.logaddexp(0, logit) - p * logit) + 0.35 * s @ s

        np.testing.assert_allclose(state, scipy.optimize.minimize(distance, np.zeros(D)).x, atol=2e-3)


def test_oracle_state_needs_a_known_truth(world, embeddings):
    table = replace(world, response=TableResponse(jnp.full((USERS, ITEMS), 0.5)))
    with pytest.raises(InputError, match="synthetic worlds"):
        oracle_states(embeddings, table)


def test_only_the_last_events_are_kept():
    history = History(jnp.arange(1, 7), jnp.ones(6, bool), jnp.int32(5))
    kept = keep_last(history, 2)
    np.testing.assert_array_equal(kept.item, [0, 0, 0, 0, 5, 6])
    np.testing.assert_array_equal(kept.click, [0, 0, 0, 0, 1, 1])
    assert kept.length == 2
    assert keep_last(history, 40).length == 5


def test_users_arrive_with_few_events_and_collect_those_of_the_session(world, embeddings):
    environment = arriving_with(ENVIRONMENT, (3,))
    reset, plain_reset = jax.jit(environment.reset), jax.jit(ENVIRONMENT.reset)
    for seed in range(20):
        key = jax.random.key(seed)
        observation, state = reset(key, world)
        assert state.history.length <= 3
        _, full = plain_reset(jax.random.split(key)[0], world)
        assert state.user == full.user
        length = int(state.history.length)
        np.testing.assert_array_equal(state.history.item[H - length :], full.history.item[H - length :])
        if length == 3:
            break
    slate = jnp.arange(6)
    observation, _, *_ = jax.jit(environment.step)(jax.random.key(9), state, slate, world)
    assert observation.history.length == 9
    np.testing.assert_array_equal(observation.history.item[-6:], world.item[slate])
    plain = Observation(observation.history, observation.time, observation.unlogged)
    perceive = jax.jit(make_perceive(ENCODER, identity_purifier()))
    params = Perception(ENCODER.init(jax.random.key(1), embeddings), {})
    seen, expected = (perceive(params, None, jax.tree.map(lambda x: x[None], o)) for o in (observation, plain))
    jax.tree.map(np.testing.assert_array_equal, seen, expected)
    view = oracle_perceive(Perception(None, jnp.arange(USERS * D).reshape(USERS, D)), None, observation)
    np.testing.assert_array_equal(view.state, jnp.arange(D) + D * state.user)


def test_record_counts_what_greedy_slates_of_the_oracle_earn(world, embeddings):
    """Against the expectation over users of the click probabilities of the slate that each must be shown."""
    environment = arriving_with(ENVIRONMENT, (3,))
    table = jax.jit(oracle_states)(embeddings, world)
    perception = Perception(EncoderParams(embeddings, None), table)
    agent = make_quota_greedy_purified(slate_size=6)
    run = jax.jit(
        lambda key: record_sessions(key, agent, (), oracle_perceive, environment, world, perception, num_sessions=3000)
    )
    recorded = jax.device_get(run(jax.random.key(0)))
    score = np.asarray(table @ embeddings.vectors[world.item].T + embeddings.bias[world.item])
    r = jax.tree.map(np.asarray, world.response)
    chance = 1 / (1 + np.exp(-(r.user @ r.item.T + r.user_bias[:, None] + r.item_bias)))
    best = [np.r_[np.argsort(-s[:8])[:3], 8 + np.argsort(-s[8:])[:3]] for s in score]
    expected = np.mean([chance[u, best[u]].mean() for u in range(USERS)])
    first = recorded.clicks[:, 0].mean() / 6
    np.testing.assert_allclose(first, expected, atol=0.01)
    assert np.all(recorded.popular[recorded.present] == 3)
    assert not np.any(recorded.clicks[~recorded.present])
    # patience of 6 steps goes down by 2 - reward: integer replay of the leave rule
    temper = 6 * 6 - np.cumsum(12 - recorded.clicks, axis=1)
    np.testing.assert_array_equal(recorded.present[:, 1:], (temper[:, :-1] >= 6) & recorded.present[:, :-1])


TINY = Config(
    synthetic=SyntheticConfig(history_scale=0.1),
    environment=EnvironmentConfig(history_length=H, max_len=8),
    encoder=EncoderConfig(dim=4, embedding_epochs=3, iterations=300),
    purifier=PurifierConfig(kind="guided", diffusion_steps=4, iterations=20, hidden=8),
    training=TrainingConfig(seeds=(1, 2), steps=32, num_users=8, rollout_length=16),
    evaluation=EvaluationConfig(num_sessions=400),
)


@pytest.mark.timeout(400)
@pytest.mark.slow
@pytest.mark.parametrize("policy", ["trained", "greedy"])
def test_ruler_reports_every_state_length_and_step(policy):
    config = contaminated(TINY, "strong", seed=3)
    assert (config.synthetic.popularity_lift, config.synthetic.popularity_bend) == (1.0, 0.5)
    raw = replace(config.purifier, kind="identity")
    purifiers = {"guided": config.purifier, "none": raw}
    result = headroom(config, purifiers=purifiers, lengths=(2, 12), policy=policy, say=lambda line: None)
    assert list(result["states"]) == ["raw", "guided", "none", "oracle"]
    # a purifier that does nothing recovers nothing, whatever is trained on it: same keys, same policy
    for n in ("2", "12"):
        assert result["states"]["none"][n] == result["states"]["raw"][n]
        assert result["recovered"]["none"][n]["reward"]["mean"] == 0
        lost = [result["states"][name][n]["length"]["mean"] for name in ("none", "guided")]
        np.testing.assert_allclose(result["ahead"]["none"][n]["length"]["mean"], lost[0] - lost[1], atol=1e-9)
        assert result["states"]["oracle"][n]["reward"]["mean"] > result["states"]["raw"][n]["reward"]["mean"]
    # greedy slates of the oracle never look at the history
    if policy == "greedy":
        assert result["states"]["oracle"]["2"]["steps"][0] == result["states"]["oracle"]["12"]["steps"][0]
    as_written = json.loads(json.dumps(result, allow_nan=False))
    assert as_written == result
    console = Console(width=100, record=True)
    console.print(headroom_table(as_written))
    assert "guided" in console.export_text()


def test_share_cells_say_what_is_known():
    assert share_cell({"mean": 0.745, "low": 0.72, "high": 0.77}) == "74 % [72, 77]"
    assert share_cell({"mean": 0.7, "low": None, "high": None}) == "70 %"
    assert share_cell({"mean": None, "low": None, "high": None}) == "-"
