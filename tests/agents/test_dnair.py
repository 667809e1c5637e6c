"""DNaIR: its rewards and targets against float64 NumPy, and a world so small that search finds its best policy."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsrm_jax.agents import dnair
from dsrm_jax.agents.agent import Rollout
from dsrm_jax.agents.dnair import DNaIRConfig, explore, make_dnair, novelty_bonus
from dsrm_jax.agents.hyper_action import item_features
from dsrm_jax.agents.networks import features
from dsrm_jax.agents.replay import Experience, Learner, Parts, ReplayConfig
from dsrm_jax.agents.settings import SharedConfig
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import Catalogue, View

USERS, ITEMS, D, K = 8, 12, 4, 2
KIND = np.arange(USERS) // 4
LIKED = np.array([[0, 4], [1, 5]])[KIND]  # what looks dullest to the frozen encoder

quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make_catalogue(seed=0):
    rng = np.random.default_rng(seed)
    exposure = rng.integers(0, 500, ITEMS)
    exposure[3] = 0
    return Catalogue(
        vectors=rng.normal(size=(ITEMS, D)).astype(np.float32),
        bias=np.where(np.isin(np.arange(ITEMS), LIKED), np.float32(-2.0), np.float32(0.5)),
        log_popularity=rng.normal(size=ITEMS).astype(np.float32),
        is_popular=np.arange(ITEMS) < 3,
        exposure=exposure.astype(np.float32),
        clicked=(exposure // 3).astype(np.float32),
    )


bonus_of = quick_jit(novelty_bonus)


def view_of(state, time=None):
    time = np.zeros(state.shape[:-1], np.int32) if time is None else time
    return View(state, state, time)


def settings_with(**own):
    own = {"discount": 0.5, "novelty_weight": 0.0, "exploration": 0.3} | own
    replay = {"capacity": 4096, "batch_size": 64, "gradient_steps": 8, "warm_up": 64, "tau": 0.05}
    return {"slate_size": K, "hidden": 16, "learning_rate": 2e-2} | replay | own


def test_the_bonus_is_smoothed_quality_over_log_popularity():
    catalogue = make_catalogue()
    exposure, clicked = (np.asarray(x, np.float64) for x in (catalogue.exposure, catalogue.clicked))
    popularity = (exposure - exposure.min()) / (exposure.max() - exposure.min())
    expected = 0.3 * (clicked + 1) / (exposure + 2) / np.log10(popularity + 1.1)
    np.testing.assert_allclose(bonus_of(catalogue, weight=0.3), expected, rtol=1e-5)
    assert expected[3] == pytest.approx(0.3 * 0.5 / np.log10(1.1))  # never shown, and still finite


def test_the_bonus_of_items_all_shown_equally_often_is_finite():
    sevens, threes = np.full((2, ITEMS), [[7.0], [3.0]], np.float32)
    flat = make_catalogue().replace(exposure=sevens, clicked=threes)
    np.testing.assert_allclose(bonus_of(flat, weight=1.0), 4 / 9 / np.log10(1.1), rtol=1e-5)


def test_a_catalogue_without_exposure_is_refused():
    catalogue = make_catalogue().replace(exposure=None)
    with pytest.raises(InputError, match=r"dnair needs Catalogue\.exposure"):
        make_dnair(**settings_with()).init(jax.random.key(0), catalogue)


explored = quick_jit(explore, static_argnames="num_items")


@pytest.fixture(scope="module")
def slates():
    """Slates of 3 of 6 items, replaced with probability .4."""
    kept = np.tile(np.array([4, 0, 2], np.int32), (20000, 1))
    return np.asarray(explored(jax.random.key(0), kept, num_items=6, probability=0.4))


def test_exploration_never_repeats_an_item(slates):
    assert (np.sort(slates, axis=1)[:, 1:] > np.sort(slates, axis=1)[:, :-1]).all()


def test_exploration_replaces_the_first_slot_as_often_as_asked_by_any_item_off_the_slate(slates):
    replaced = slates[:, 0] != 4
    assert stats.binomtest(int(replaced.sum()), len(slates), 0.4).pvalue > 1e-3
    counts = np.bincount(slates[replaced, 0], minlength=6)
    assert counts[[0, 2, 4]].sum() == 0
    assert stats.chisquare(counts[[1, 3, 5]]).pvalue > 1e-3


@pytest.mark.parametrize(("num_items", "probability"), [(3, 1.0), (9, 0.0)])
def test_exploration_leaves_slates_alone(num_items, probability):
    slate = np.array([[2, 0, 1]], np.int32)
    found = explored(jax.random.key(0), slate, num_items=num_items, probability=probability)
    assert found.tolist() == [[2, 0, 1]]


def random_params(parts, seed):
    params = jax.eval_shape(parts.networks["value"].init, jax.random.key(0), jnp.zeros((1, D + 1)))
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [rng.normal(size=x.shape).astype(np.float32) for x in leaves])


def test_targets_are_those_of_double_q_learning_with_the_target_networks_values():
    own = DNaIRConfig(discount=0.7, novelty_weight=0.1)
    parts = Parts(own, SharedConfig(), ReplayConfig(), K, {"value": dnair.ItemValues(16)}, {})
    catalogue, rng = make_catalogue(), np.random.default_rng(5)
    bonus = np.asarray(bonus_of(catalogue, weight=0.1))
    n = 6
    batch = Experience(
        features=np.zeros((n, D + 1), np.float32),
        action=np.array([rng.choice(ITEMS, K, replace=False) for _ in range(n)], np.int32),
        reward=rng.random((n, K)) < 0.5,
        terminated=np.arange(n) % 2 == 0,
        next_features=np.asarray(
            quick_jit(features)(rng.normal(size=(n, D)).astype(np.float32), np.arange(n, dtype=np.int32))
        ),
    )
    online, target = random_params(parts, 1), random_params(parts, 2)
    found = quick_jit(partial(dnair.item_targets, parts))(
        Learner({"value": online}, {"value": target}, {}), batch, catalogue, bonus
    )

    apply = quick_jit(partial(parts.apply, "value"))
    item = np.asarray(quick_jit(item_features)(catalogue))

    def values(params):
        weights = np.asarray(apply(params, batch.next_features), np.float64)
        logit = np.asarray(batch.next_features[:, :-1], np.float64) @ np.asarray(catalogue.vectors).T + catalogue.bias
        learnt = weights[:, :-1] @ item.T + weights[:, -1:]
        return 1 / (1 + np.exp(-np.asarray(logit))) + learnt + np.asarray(bonus)

    best = np.argsort(-values(online), axis=1)[:, :K]
    assert (np.sort(best) != np.sort(np.argsort(-values(target), axis=1)[:, :K])).any()
    following = np.take_along_axis(values(target), best, axis=1).mean(1)
    expected = np.asarray(batch.reward) + np.asarray(bonus)[np.asarray(batch.action)]
    expected = expected + 0.7 * (np.where(batch.terminated, 0.0, following))[:, None]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_untrained_values_are_the_encoders_clicks_and_the_bonus():
    catalogue = make_catalogue()
    state = np.random.default_rng(3).normal(size=(5, D)).astype(np.float32)
    agent = make_dnair(**settings_with(novelty_weight=0.05) | {"slate_size": 4})
    start = quick_jit(agent.init)(jax.random.key(0), catalogue)
    slate, _ = quick_jit(partial(agent.act, greedy=True))(start, None, view_of(state), catalogue)
    logit = np.asarray(state, np.float64) @ np.asarray(catalogue.vectors).T + np.asarray(catalogue.bias)
    value = 1 / (1 + np.exp(-logit)) + np.asarray(bonus_of(catalogue, weight=0.05))
    np.testing.assert_array_equal(slate, np.argsort(-value, axis=1)[:, :4])


def rollout_of(agent, agent_state, key, states, catalogue, probability):
    """T x B steps of users whose state never changes; a step ends a session with probability .2."""
    act_key, click_key, end_key = jax.random.split(key, 3)
    slate, record = agent.act(agent_state, act_key, view_of(states.reshape(-1, D)), catalogue)
    shape = states.shape[:2]
    slate = slate.reshape(*shape, K)
    clicks = jax.random.uniform(click_key, slate.shape) < jnp.take_along_axis(probability, slate, axis=2)
    ended = jax.random.uniform(end_key, shape) < 0.2
    return Rollout(
        view=view_of(states),
        slate=slate,
        record=record,
        clicks=clicks,
        reward=jnp.mean(clicks, axis=-1),
        popular_share=jnp.mean(catalogue.is_popular[slate], axis=-1),
        terminated=ended,
        truncated=jnp.zeros(shape, bool),
        final_view=None,
        last_view=view_of(states[-1]),
    )


def tiny_world():
    """8 users of two kinds that differ in the sign of one coordinate; each likes two items with .9 and no other."""
    rng = np.random.default_rng(7)
    states = rng.normal(size=(USERS, D)) * 0.3
    states[:, 0] = np.where(KIND == 0, 1.0, -1.0)
    probability = np.full((USERS, ITEMS), 0.1)
    probability[np.arange(USERS)[:, None], LIKED] = 0.9
    return states.astype(np.float32), probability.astype(np.float32)


def train(settings, num_updates):
    """Run updates of 16 steps of the 8 users; return the agent, its state after each, and the updates' metrics."""
    catalogue, (states, probability) = make_catalogue(), tiny_world()
    agent = make_dnair(**settings)
    steps = 16
    states, probability = (np.broadcast_to(x, (steps, *x.shape)) for x in (states, probability))

    @quick_jit
    def update(agent_state, key, catalogue, states, probability):
        act_key, update_key = jax.random.split(key)
        rollout = rollout_of(agent, agent_state, act_key, states, catalogue, probability)
        return agent.update(agent_state, update_key, rollout, catalogue)

    agent_states, metrics = [quick_jit(agent.init)(jax.random.key(0), catalogue)], []
    for key in jax.random.split(jax.random.key(1), num_updates):
        agent_state, found = update(agent_states[-1], key, catalogue, states, probability)
        agent_states.append(agent_state)
        metrics.append(found)
    return agent, agent_states, metrics


def greedy_value(agent, agent_state):
    states, probability = tiny_world()
    act = quick_jit(partial(agent.act, greedy=True))
    slate, _ = act(agent_state, None, view_of(states), make_catalogue())
    return float(np.take_along_axis(np.asarray(probability), np.asarray(slate), axis=1).mean())


def best_value():
    probability = np.asarray(tiny_world()[1])
    pairs = combinations(range(ITEMS), K)
    return np.max([probability[:, list(slate)].mean(1) for slate in pairs], axis=0).mean()


def test_it_learns_what_search_finds_best():
    agent, agent_states, metrics = train(settings_with(), 60)
    assert greedy_value(agent, agent_states[0]) < 0.25 * best_value()
    assert greedy_value(agent, agent_states[-1]) > 0.95 * best_value()
    # Every session ends with .2: V = r / (1 - .5 x .8) for what is shown, exploration aside.
    assert float(metrics[-1]["value"]) == pytest.approx(best_value() / 0.6, rel=0.25)


def test_nothing_is_learnt_before_the_warm_up_and_the_target_lags():
    replay = {"capacity": 512, "batch_size": 8, "gradient_steps": 1, "warm_up": 200, "tau": 0.25}
    _, found, _ = train(settings_with() | replay, 2)  # of 128 transitions each
    start, once, twice = jax.device_get([state.learner for state in found])
    for old, same, new, lagged in zip(
        *map(jax.tree.leaves, (start.params, once.params, twice.params, twice.target)), strict=True
    ):
        np.testing.assert_array_equal(old, same)
        np.testing.assert_allclose(lagged - old, 0.25 * (new - old), rtol=1e-3, atol=1e-7)
    moved = jax.tree.map(lambda new, old: np.abs(new - old).max(), twice.params, once.params)
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_clicks_and_terminations_reach_the_replay_unshaped():
    _, (_, once), _ = train(settings_with(novelty_weight=0.4), 1)
    held = once.replay.rows
    assert held.reward.dtype == bool
    states, _ = tiny_world()
    np.testing.assert_array_equal(held.features[:USERS, :-1], states)
    np.testing.assert_array_equal(held.next_features[: 128 - USERS], held.features[USERS:128])
    assert 0.1 < np.mean(held.terminated[:128]) < 0.3
