"""The learners' study: its sessions against the library's own, its rules and intervals against NumPy, its controls in effect."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsrm_jax.agents.dsrm_hrl import make_dsrm_hrl
from dsrm_jax.agents.methods import AgentConfig
from dsrm_jax.errors import InputError
from dsrm_jax.evaluation.sessions import run_sessions
from dsrm_jax.purify.view import View
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.platform import make_platform
from dsrm_jax.simulator.satisfaction import make_satisfaction
from dsrm_jax.simulator.settings import ToleranceConfig
from experiments.worlds import learners, report, search, small_worlds, state_rules
from experiments.worlds.goal_controls import CONTROLS, controlled
from experiments.worlds.learners_table import goal_use, interval
from experiments.worlds.paired import play_paired
from experiments.worlds.running import play_running
from tests.experiments.catalogues import drawn_catalogue
from tests.simulator.worlds import NUM_ITEMS, remembering_world

K, N = 4, 30


def test_paired_sessions_are_those_of_the_library_slate_by_slate():
    environment = make_environment(slate_size=K, max_len=9, history_length=6, mechanisms=[make_satisfaction()])
    world = remembering_world(environment.mechanisms)

    def act(key, env, observation):
        slates = jax.vmap(lambda key: jax.random.permutation(key, NUM_ITEMS)[:K])(jax.random.split(key, N))
        return slates.astype(jnp.int32), ()

    key = jax.random.key(3)
    found = jax.jit(lambda key: play_paired(key, act, environment, world, num_sessions=N))(jax.random.split(key, 1)[0])
    other = jax.jit(lambda key: run_sessions(key, act, environment, world, num_sessions=N, num_users=N))(key)
    np.testing.assert_array_equal(found.length, other.length)
    np.testing.assert_allclose(found.returned, other.clicks / K, rtol=1e-6)
    present = np.asarray(found.counts) >= 0
    np.testing.assert_array_equal(present.sum(axis=0), other.length)
    np.testing.assert_array_equal(np.where(present, found.counts, 0).sum(axis=0), other.popular)


def test_myopic_shows_the_likeliest_of_all():
    rng = np.random.default_rng(0)
    popular, tail = (-np.sort(-rng.normal(size=(20, K))) for _ in range(2))
    found = state_rules.myopic(jnp.asarray(popular), jnp.asarray(tail), None)
    least = np.sort(np.concatenate([popular, tail], axis=1))[:, K]
    np.testing.assert_array_equal(found, (popular >= least[:, None]).sum(axis=1))


def test_what_a_count_costs_given_choices_is_bayes_rule():
    """Against a million users drawn from the prior, of whom those with the same choices are kept."""
    config = ToleranceConfig(choices=6)
    rng = np.random.default_rng(0)
    centre = np.clip(config.mean + config.spread * rng.standard_normal(1_000_000), 0, 1)
    chosen = rng.binomial(config.choices, centre)
    cost = K * (np.abs(np.arange(K + 1) / K - centre[:, None]) >= config.bound)
    for read in (None, 1, 4):
        told = None if read is None else jnp.array([read / config.choices])
        found = np.ravel(state_rules._tolerance_cost(config, K, told))
        expected = cost[chosen == read if read is not None else chosen >= 0].mean(axis=0)
        np.testing.assert_allclose(found, expected, atol=0.08)


def test_an_interval_is_as_wide_as_data_seeds_differ():
    rng = np.random.default_rng(0)
    values = [rng.normal(mean, 0.1, (2, 50)) for mean in (1.0, 2.0, 4.0)]
    means = [x.mean() for x in values]
    found = interval(values)
    half = stats.t.ppf(0.975, 2) * np.std(means, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose([found["mean"], found["high"] - found["mean"]], [np.mean(means), half])
    ratio = interval(values, [2 * x[:1] + 2 * (x.mean() - x[:1].mean()) for x in values])
    np.testing.assert_allclose([ratio[name] for name in ("mean", "low", "high")], 0.5, atol=0.02)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("manager_discount=0.8,high", "expected field=value,value"),
        ("manager_discount", "expected field=value,value"),
        ("discount=0.8,0.9", "manager_discount"),
        ("hidden=32,64", "setting to search"),
    ],
)
def test_a_search_of_what_is_no_setting_is_refused_before_any_work(asked, said):
    with pytest.raises(InputError, match=said):
        searched(asked)


def searched(asked):
    field, values = search.setting_of(asked)
    tiny = {
        "env": "kuairand",
        "worlds": ["mood"],
        "seeds": [101],
        "methods": ["flat"],
        "state": "gaussian",
        "tiny": True,
    }
    return search.search(**tiny, field=field, values=values, json="", say=print)


def test_a_running_platform_goes_on_with_its_price_whoever_leaves():
    """Nothing but popular items: the price rises by a tenth of one half a step; sessions are as many as have ended."""
    environment = make_environment(slate_size=K, max_len=5, history_length=6, mechanisms=[make_platform(gain=0.1)])
    world = remembering_world(environment.mechanisms)
    popular = jnp.argsort(~world.is_popular)[:K]
    assert bool(world.is_popular[popular].all())

    def act(key, env, observation):
        return jnp.broadcast_to(popular, (N, K)), ()

    found = jax.jit(lambda: play_running(jax.random.key(0), act, environment, world, num_users=N, num_steps=20))()
    np.testing.assert_array_equal(found.share, 1.0)
    np.testing.assert_allclose(found.price, 0.05 * np.arange(20), atol=1e-5)
    assert found.ended.sum() >= 3 * N
    assert 0 < found.returned.sum() <= 20 * N


def test_how_a_goal_is_used():
    """Two sessions, of three and of one slate: 3, 3, 0 and 6 popular of 6."""
    counts = np.array([[[3, 6], [3, -1], [0, -1]]])
    found = goal_use(counts)
    assert found["changed"] == 0.5  # of four slates, whose mean is 3
    assert found["between"] == 2.0  # means 2 and 6
    np.testing.assert_allclose(found["within"], np.sqrt((1 + 1 + 4 + 0) / 4))
    np.testing.assert_allclose(found["ad"], (2 * abs(2 * 9 / 12 - 1) + 0 + 1) / 4)
    assert found["platform_ad"] == 0.0


def test_controls_change_whom_a_goal_is_for_and_nothing_else():
    rng = np.random.default_rng(1)
    users, dim = 12, 3
    catalogue = drawn_catalogue(rng, dim=dim, context_size=2)
    state = jnp.asarray(rng.normal(size=(users, dim)), jnp.float32)
    view = View(
        state, state, jnp.zeros(users, jnp.int32), context=jnp.asarray(rng.normal(size=(users, 2)), jnp.float32)
    )
    config = AgentConfig(hidden=8, slate_mode="share")
    plain = make_dsrm_hrl(slate_size=6, hidden=8, slate_mode="share")
    policy = plain.init(jax.random.key(0), catalogue)
    # a manager that tells users apart: the output layer starts at zero
    params = jax.tree.map(lambda x: x + 0.5 * jax.random.normal(jax.random.key(x.size), x.shape), policy.params)
    policy = SimpleNamespace(params=params)

    def counts(agent):
        slate = agent.act(policy, jax.random.key(0), view, catalogue, True)[0]
        return np.asarray(jnp.sum(catalogue.is_popular[slate], axis=1)), np.asarray(slate)

    own, slates = counts(plain)
    assert len(set(own.tolist())) > 2
    as_it_is = counts(controlled(jnp.int32(0), config, slate_size=6))
    np.testing.assert_array_equal(as_it_is[1], slates)
    changed = {name: counts(controlled(jnp.int32(i + 1), config, slate_size=6))[0] for i, name in enumerate(CONTROLS)}
    assert set(changed["half"].tolist()) == {3}
    assert len(set(changed["alike"].tolist())) == 1
    np.testing.assert_array_equal(np.sort(changed["shuffled"]), np.sort(own))
    assert (changed["shuffled"] != own).any()
    assert set(changed["random"].tolist()) <= set(own.tolist())


def test_who_pays_for_leaving_knows_which_items_drive_users_away():
    environment, world = small_worlds.small_world("quit")
    categories = np.asarray(world.categories)
    alike = np.flatnonzero(categories[:, 0])

    @jax.jit
    def outcome(state):
        charge = small_worlds.SMALL["quit"].charge(state, jnp.zeros(small_worlds.ITEMS), world)
        left = jax.vmap(lambda item: environment.step(jax.random.key(0), state, item[None], world)[3])
        return charge, left(jnp.arange(small_worlds.ITEMS, dtype=jnp.int32))

    step = jax.jit(environment.step)
    state, drove = environment.reset(jax.random.key(0), world)[1], 0
    for t in range(4):
        charge, left = map(np.asarray, outcome(state))
        np.testing.assert_array_equal(charge, left.astype(float))
        drove += left.sum()
        item = alike[t] if t < 2 else np.flatnonzero(~left)[0]
        state = step(jax.random.key(t), state, jnp.array([item], jnp.int32), world)[1]
    assert drove >= len(alike)


def test_cells_of_one_data_set_or_size_are_not_taken_for_anothers(tmp_path, monkeypatch):
    made = []

    def measured(setting, cell, say):
        made.append((setting.config.data.env, setting.budget.steps, cell.what))
        return {cell.what: {"x": np.zeros(1)}}

    monkeypatch.setattr(learners, "measured", measured)
    monkeypatch.setattr(report, "collect", lambda folder, **wanted: {})
    asked = {"worlds": ["mood"], "seeds": [11], "methods": ["flat"], "state": "gaussian", "json": "", "say": str}
    for env, tiny in (("kuairand", True), ("kuairand", False), ("kuairec", False), ("kuairand", False)):
        report.report(tmp_path, env=env, tiny=tiny, **asked)
    sizes = [("kuairand", learners.TINY.steps), *((env, 200_000) for env in ("kuairand", "kuairec"))]
    assert made == [(*size, what) for size in sizes for what in ("rules", "bound", "flat")]
