"""SAC4IR: its losses against float64 NumPy, the temperature's sign, and a world whose best policy search finds."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dsrm_jax.agents import sac4ir
from dsrm_jax.agents.agent import Rollout
from dsrm_jax.agents.hyper_action import item_features
from dsrm_jax.agents.networks import features
from dsrm_jax.agents.replay import Experience, Learner, Parts, ReplayConfig
from dsrm_jax.agents.sac4ir import SAC4IRConfig, make_sac4ir, softmax_policy, temperature_loss
from dsrm_jax.agents.settings import SharedConfig
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import Catalogue, View

USERS, ITEMS, D, K = 8, 12, 4, 2
KIND = np.arange(USERS) // 4
LIKED = np.array([[0, 4], [1, 5]])[KIND]  # what looks dullest to the frozen encoder
RATIO = 0.6

quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make_catalogue():
    rng = np.random.default_rng(0)
    return Catalogue(
        vectors=jnp.asarray(rng.normal(size=(ITEMS, D)), jnp.float32),
        bias=jnp.asarray(np.where(np.isin(np.arange(ITEMS), LIKED), -2.0, 0.5), jnp.float32),
        log_popularity=jnp.asarray(rng.normal(size=ITEMS), jnp.float32),
        is_popular=jnp.arange(ITEMS) < 3,
        exposure=jnp.asarray(rng.integers(0, 500, ITEMS), jnp.float32),
        clicked=jnp.zeros(ITEMS),
    )


def settings_with(**own):
    own = {"discount": 0.5, "entropy_ratio": RATIO, "initial_temperature": 0.1} | own
    replay = {"capacity": 4096, "batch_size": 64, "gradient_steps": 16, "warm_up": 64, "tau": 0.05}
    return {"slate_size": K, "hidden": 16, "learning_rate": 1e-2, "sharpness": 5.0} | replay | own


def view_of(state):
    return View(state, state, jnp.zeros(state.shape[:-1], jnp.int32))


def make_parts(**own):
    own = SAC4IRConfig(discount=0.5, entropy_ratio=RATIO, **own)
    networks = {"actor": sac4ir.SlatePolicy(16), "critic": sac4ir.ItemValues(16)}
    return Parts(own, SharedConfig(sharpness=5.0), ReplayConfig(), K, networks, {})


def random_like(tree, seed):
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    drawn = [jnp.asarray(0.5 * rng.normal(size=x.shape), jnp.float32) for x in leaves]
    return jax.tree.unflatten(structure, drawn)


@pytest.fixture(scope="module")
def example():
    """A batch, random parameters, and a target critic unlike the online one."""
    parts, catalogue, rng = make_parts(propensity_power=0.5), make_catalogue(), np.random.default_rng(5)
    n = 6
    batch = Experience(
        features=features(jnp.asarray(rng.normal(size=(n, D)), jnp.float32), jnp.arange(n)),
        action=jnp.asarray([rng.choice(ITEMS, K, replace=False) for _ in range(n)]),
        reward=jnp.asarray(rng.random((n, K)) < 0.5),
        terminated=jnp.arange(n) % 2 == 0,
        next_features=features(jnp.asarray(rng.normal(size=(n, D)), jnp.float32), jnp.arange(n) + 1),
    )
    agent = make_sac4ir(**settings_with(propensity_power=0.5))
    start = jax.eval_shape(agent.init, jax.random.key(0), catalogue)
    return parts, catalogue, batch, random_like(start.learner.params, 1), random_like(start.learner.target, 2)


def reference_policy(parts, params, seen, catalogue):
    action, sharpness = parts.apply("actor", params["actor"], seen[:, :-1], 5.0)
    logits = float(sharpness) * np.asarray(action, np.float64) @ np.asarray(item_features(catalogue)).T
    return special.softmax(logits, axis=1), special.log_softmax(logits, axis=1)


def reference_values(parts, critic, seen, catalogue):
    """Q of both critics, (2, N, J)."""
    logit = np.asarray(seen[:, :-1], np.float64) @ np.asarray(catalogue.vectors).T
    logit = logit + np.asarray(catalogue.bias)
    item, found = np.asarray(item_features(catalogue), np.float64), []
    for j in range(2):
        weights = np.asarray(parts.apply("critic", jax.tree.map(lambda x, j=j: x[j], critic), seen))
        found.append(special.expit(logit) + weights[:, :-1] @ item.T + weights[:, -1:])
    return np.stack(found)


def reference_weights(catalogue, slate):
    exposure = np.asarray(catalogue.exposure, np.float64) + 1
    weight = np.clip((exposure / np.median(exposure)) ** -0.5, 0.1, 10)[np.asarray(slate)]
    return weight / weight.mean()


def test_targets_are_the_exact_soft_values_of_the_target_critics(example):
    parts, catalogue, batch, params, target = example
    found = quick_jit(partial(sac4ir.soft_targets, parts))(Learner(params, target, {}), batch, catalogue)
    probability, log_probability = reference_policy(parts, params, batch.next_features, catalogue)
    value = reference_values(parts, target["critic"], batch.next_features, catalogue).min(0)
    temperature = np.exp(float(params["log_temperature"]))
    following = (probability * (value - temperature * log_probability)).sum(1)
    expected = np.asarray(batch.reward) * reference_weights(catalogue, batch.action)
    expected = expected + 0.5 * np.where(batch.terminated, 0.0, following)[:, None]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_the_three_losses_by_hand(example):
    parts, catalogue, batch, params, _ = example
    goal = jnp.asarray(np.random.default_rng(9).normal(size=(6, K)), jnp.float32)

    @quick_jit
    def errors(params):
        losses = sac4ir._losses(parts, params, goal, batch, catalogue)
        return {name: loss(params[name])[0] for name, loss in losses.items()}

    found = errors(params)
    values = reference_values(parts, params["critic"], batch.features, catalogue)
    at_slate = np.take_along_axis(values, np.asarray(batch.action)[None], axis=2)
    error = np.abs(at_slate - np.asarray(goal))
    huber = np.where(error < 1, error**2 / 2, error - 0.5)
    critic_loss = huber.sum(0).mean()
    probability, log_probability = reference_policy(parts, params, batch.features, catalogue)
    log_temperature = float(params["log_temperature"])
    entropy = -(probability * log_probability).sum(1)
    actor_loss = -((probability * values.min(0)).sum(1) + np.exp(log_temperature) * entropy).mean()
    warming = log_temperature * (entropy.mean() - RATIO * np.log(ITEMS))
    np.testing.assert_allclose(found["critic"], critic_loss, rtol=1e-4)
    np.testing.assert_allclose(found["actor"], actor_loss, rtol=1e-4)
    np.testing.assert_allclose(found["log_temperature"], warming, rtol=1e-4)


def test_each_part_moves_its_own_parameters_alone(example):
    parts, catalogue, batch, params, _ = example
    goal = jnp.zeros((6, K))

    def own(name):
        return lambda part: sac4ir._losses(parts, params, goal, batch, catalogue)[name](part)

    policy = reference_policy(parts, params, batch.features, catalogue)
    entropy = -(policy[0] * policy[1]).sum(1).mean()
    slope = quick_jit(jax.grad(own("log_temperature"), has_aux=True))(params["log_temperature"])[0]
    np.testing.assert_allclose(slope, entropy - RATIO * np.log(ITEMS), rtol=1e-3)
    # the critics' gradient is that of the regression: it vanishes where the targets are met
    values = jnp.asarray(reference_values(parts, params["critic"], batch.features, catalogue), jnp.float32)
    same = jax.tree.map(lambda x: jnp.stack([x[0], x[0]]), params["critic"])
    goal = jnp.take_along_axis(values[0], batch.action, axis=1)
    gradient = quick_jit(jax.grad(own("critic"), has_aux=True))(same)[0]
    assert max(float(np.abs(x).max()) for x in jax.tree.leaves(gradient)) > 0.0
    met = quick_jit(jax.grad(lambda c: sac4ir._losses(parts, params, goal, batch, catalogue)["critic"](c)[0]))(same)
    assert max(float(np.abs(x).max()) for x in jax.tree.leaves(met)) < 1e-3


@pytest.mark.parametrize(("entropy", "rises"), [(1.0, True), (2.5, False)])
def test_the_temperature_rises_when_entropy_is_below_its_target(entropy, rises):
    slope = jax.grad(lambda x: temperature_loss(x, jnp.full(3, entropy), target=2.0))(jnp.float32(-1.0))
    assert (-slope > 0) == rises
    assert abs(slope) == pytest.approx(abs(entropy - 2.0))


def test_the_policy_is_a_stable_softmax():
    logits = np.random.default_rng(1).normal(size=(5, 30)) * np.array([[1.0], [10.0], [100.0], [1e3], [0.0]])
    policy = softmax_policy(jnp.asarray(logits, jnp.float32))
    log_probability = special.log_softmax(logits.astype(np.float32).astype(np.float64), axis=1)
    probability = np.exp(log_probability)
    np.testing.assert_allclose(policy.probability, probability, rtol=1e-3, atol=1e-6)
    expected = special.entr(probability).sum(1)
    np.testing.assert_allclose(policy.entropy, expected, rtol=1e-3, atol=1e-5)


def test_weighted_clicks_need_exposure():
    catalogue = make_catalogue().replace(exposure=None)
    with pytest.raises(InputError, match=r"sac4ir with a propensity_power needs Catalogue\.exposure"):
        make_sac4ir(**settings_with(propensity_power=1.0)).init(jax.random.key(0), catalogue)
    plain = make_sac4ir(**settings_with())
    jax.eval_shape(plain.init, jax.random.key(0), catalogue)


def tiny_world():
    """8 users of two kinds that differ in the sign of one coordinate; each likes two items with .9 and no other."""
    rng = np.random.default_rng(7)
    states = rng.normal(size=(USERS, D)) * 0.3
    states[:, 0] = np.where(KIND == 0, 1.0, -1.0)
    probability = np.full((USERS, ITEMS), 0.1)
    probability[np.arange(USERS)[:, None], LIKED] = 0.9
    return jnp.asarray(states, jnp.float32), jnp.asarray(probability, jnp.float32)


def rollout_of(agent, agent_state, key, states, catalogue, probability):
    """T x B steps of users whose state never changes; a step ends a session with probability .2."""
    act_key, click_key, end_key = jax.random.split(key, 3)
    slate, record = agent.act(agent_state, act_key, view_of(states.reshape(-1, D)), catalogue)
    shape = states.shape[:2]
    slate = slate.reshape(*shape, K)
    clicks = jax.random.uniform(click_key, slate.shape) < jnp.take_along_axis(probability, slate, axis=2)
    return Rollout(
        view=view_of(states),
        slate=slate,
        record=record,
        clicks=clicks,
        reward=jnp.mean(clicks, axis=-1),
        popular_share=jnp.mean(catalogue.is_popular[slate], axis=-1),
        terminated=jax.random.uniform(end_key, shape) < 0.2,
        truncated=jnp.zeros(shape, bool),
        final_view=None,
        last_view=view_of(states[-1]),
    )


@pytest.fixture(scope="module")
def trained():
    """The agent, its state before and after 60 updates of 16 steps of the 8 users, and the updates' metrics."""
    catalogue, (states, probability) = make_catalogue(), tiny_world()
    agent = make_sac4ir(**settings_with())
    states, probability = (jnp.broadcast_to(x, (16, *x.shape)) for x in (states, probability))

    def update(agent_state, key):
        act_key, update_key = jax.random.split(key)
        rollout = rollout_of(agent, agent_state, act_key, states, catalogue, probability)
        return agent.update(agent_state, update_key, rollout, catalogue)

    start = quick_jit(agent.init)(jax.random.key(0), catalogue)
    keys = jax.random.split(jax.random.key(1), 60)
    end, metrics = quick_jit(lambda start, keys: jax.lax.scan(update, start, keys))(start, keys)
    return agent, start, end, metrics


def greedy_value(agent, agent_state):
    states, probability = tiny_world()
    act = quick_jit(partial(agent.act, greedy=True))
    slate, _ = act(agent_state, None, view_of(states), make_catalogue())
    return float(np.take_along_axis(np.asarray(probability), np.asarray(slate), axis=1).mean())


def test_it_learns_what_search_finds_best(trained):
    agent, start, end, _ = trained
    probability = np.asarray(tiny_world()[1])
    pairs = combinations(range(ITEMS), K)
    best = np.max([probability[:, list(slate)].mean(1) for slate in pairs], axis=0).mean()
    assert greedy_value(agent, start) < 0.25 * best
    assert greedy_value(agent, end) > 0.95 * best


def test_its_entropy_settles_at_the_target(trained):
    *_, metrics = trained
    assert float(np.mean(metrics["entropy"][-10:])) == pytest.approx(RATIO * np.log(ITEMS), rel=0.15)
    assert bool(np.isfinite(metrics["temperature"]).all())


def test_the_target_critics_lag_behind(trained):
    _, start, end, _ = trained
    apart = jax.tree.map(
        lambda x, y: float(np.abs(x - y).max()), end.learner.target["critic"], end.learner.params["critic"]
    )
    moved = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), end.learner.target, start.learner.target)
    assert max(jax.tree.leaves(apart)) > 0.0
    assert max(jax.tree.leaves(moved)) > 0.1
    # twins that started apart stay apart
    first = jax.tree.leaves(end.learner.params["critic"])
    assert any(float(np.abs(x[0] - x[1]).max()) > 1e-3 for x in first)
