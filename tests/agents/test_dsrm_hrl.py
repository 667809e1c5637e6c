"""Both levels of the hierarchy against float64 loops, finite differences and enumeration of all slates and clicks."""

import dataclasses
from functools import partial
from itertools import permutations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from dsrm_jax.agents.agent import Rollout
from dsrm_jax.agents.dsrm_hrl import make_dsrm_hrl, manager_loss, worker_loss
from dsrm_jax.agents.goals import factored_scores, goal_from, popular_slots, slot_advantage
from dsrm_jax.agents.networks import Manager, Worker, lifted_vectors
from dsrm_jax.agents.settings import SharedConfig
from dsrm_jax.config import AgentConfig
from dsrm_jax.purify.view import Catalogue, View

J, D, K, T, B, HIDDEN = 9, 3, 3, 4, 5, 8
POPULAR = np.arange(J) < 4
# One minibatch an update, so that its metrics are those of the policy that acted.
CONFIG = AgentConfig(
    slate_mode="quota",
    hidden=HIDDEN,
    sharpness=3.0,
    epochs=1,
    minibatches=1,
    fairness_weight=0.7,
    manager_discount=0.9,
    worker_discount=0.4,
    entropy_weight=0.01,
    max_grad_norm=1e6,
)


@pytest.fixture(scope="module")
def catalogue():
    rng = np.random.default_rng(0)
    return Catalogue(
        vectors=rng.normal(size=(J, D)).astype(np.float32),
        bias=rng.normal(size=J).astype(np.float32),
        log_popularity=rng.normal(size=J).astype(np.float32),
        is_popular=POPULAR,
    )


def compiled(function):
    """Compile, which is what costs here, and not running; what is done to its results is NumPy's work.

    The configuration's floats are traced, so that one compilation a slate mode serves every test.
    """
    quick = jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})
    return lambda *arguments: jax.device_get(quick(*arguments))


def agent_of(config):
    """The agent of settings that a compiled function takes as an argument."""
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(SharedConfig)}
    own = {name: value for name, value in settings.items() if name != "head"}  # that is of methods without a goal
    return make_dsrm_hrl(slate_size=K, **own)


@compiled
def act(config, agent, key, view, catalogue):
    agent_act = partial(agent_of(config).act, agent, catalogue=catalogue)
    return jax.vmap(lambda key, view: agent_act(key, view))(jax.random.split(key, T), view)


@compiled
def update(config, agent, rollout, catalogue):
    return agent_of(config).update(agent, jax.random.key(7), rollout, catalogue)


def random_view(rng, *shape):
    state = rng.normal(size=(*shape, D)).astype(np.float32)
    return View(state, -state, rng.integers(0, 30, shape).astype(np.int32))


def make_rollout(config, catalogue, truncates=True):
    """An agent with random parameters and what it did, in an environment that answers at random."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(agent_of(config).init, jax.random.key(0), catalogue)
    agent = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    params = jax.tree.map(lambda x: (0.5 * rng.normal(size=x.shape)).astype(np.float32), agent.params)
    agent = dataclasses.replace(agent, params=params)
    view = random_view(rng, T, B)
    slate, record = act(config, agent, jax.random.key(3), view, catalogue)
    clicks = rng.random((T, B, K)) < 0.5
    ended = rng.random((2, T, B)) < 0.3
    return agent, Rollout(
        view=view,
        slate=slate,
        record=record,
        clicks=clicks,
        reward=clicks.mean(-1).astype(np.float32),
        popular_share=POPULAR[slate].mean(-1).astype(np.float32),
        terminated=ended[0],
        truncated=ended[1] & ~ended[0] & truncates,
        final_view=random_view(rng, T, B) if truncates else None,
        last_view=random_view(rng, B),
    )


@pytest.fixture(scope="module")
def acted(catalogue):
    return make_rollout(CONFIG, catalogue)


def test_scores_are_equation_six(catalogue):
    rng = np.random.default_rng(2)
    query, goal = rng.normal(size=(4, D + 2)).astype(np.float32), rng.normal(size=(4, 2)).astype(np.float32)
    vectors, result = compiled(
        lambda query, goal, catalogue: (
            lifted_vectors(catalogue),
            factored_scores(query, goal, jnp.float32(3.0), lifted_vectors(catalogue), catalogue).whole(),
        )
    )(query, goal, catalogue)
    for user, item in np.ndindex(4, J):
        q, e = query[user].astype(np.float64), np.asarray(vectors[item], np.float64)
        similarity = q @ e / (np.linalg.norm(q) * np.linalg.norm(e))
        w_acc, w_fair = goal[user].astype(np.float64)
        expected = 3.0 * (w_acc * similarity - w_fair * float(catalogue.log_popularity[item]))
        assert float(result[user, item]) == pytest.approx(expected, abs=2e-5)


def test_goals_start_at_full_accuracy_and_no_fairness_and_w_acc_stays_positive():
    output = np.array([[0.0, 0.0], [-9.0, 2.0], [30.0, -4.0]])
    expected = np.stack([np.logaddexp(0, output[:, 0]) / np.log(2), output[:, 1] / 4], axis=1)
    goal = compiled(goal_from)(output.astype(np.float32))
    np.testing.assert_allclose(goal, expected, rtol=1e-5)
    assert goal[0].tolist() == [1.0, 0.0]
    assert np.all(goal[:, 0] > 0)


slots_of = jax.jit(popular_slots, static_argnames="slate_size")


@pytest.mark.parametrize("slate_size", range(1, 11))
def test_popular_slots_are_half_at_no_fairness_monotone_and_within_the_slate(slate_size):
    w_fair = np.linspace(-5, 5, 2001)
    goal = np.stack([np.ones_like(w_fair), w_fair], axis=1)
    slots = jax.device_get(slots_of(goal.astype(np.float32), slate_size=slate_size))
    assert slots[1000] == slate_size // 2
    assert np.all(np.diff(slots) <= 0)
    assert (slots[0], slots[-1]) == (slate_size, 0)
    # every number of slots can be asked for, and each is the nearest to the share asked for
    assert set(slots.tolist()) == set(range(slate_size + 1))
    assert np.all(np.abs(slots - slate_size * expit(-4 * w_fair)) <= 0.5 + 1e-5)


def manager_loss_reference(log_prob, old, advantage, value, target, log_std, config):
    ratio = np.exp(log_prob - old)
    clipped = np.clip(ratio, 1 - config.clip, 1 + config.clip)
    surrogate = np.minimum(ratio * advantage, clipped * advantage).mean()
    entropy = np.sum(log_std + 0.5 * np.log(2 * np.pi * np.e))
    error = 0.5 * np.mean((value - target) ** 2)
    return -surrogate + config.value_weight * error - config.entropy_weight * entropy


def worker_loss_reference(log_prob, old, advantage, value, target, config):
    ratio = np.exp(log_prob - old)
    clipped = np.clip(ratio, 1 - config.clip, 1 + config.clip)
    surrogate = np.minimum(ratio * advantage, clipped * advantage).sum(-1).mean()
    entropy = -(ratio * log_prob).sum(-1).mean()
    error = 0.5 * np.mean((value - target) ** 2)
    return -surrogate + config.value_weight * error - config.entropy_weight * entropy


@pytest.mark.parametrize("level", ["manager", "worker"])
def test_losses_and_their_gradients_equal_float64_finite_differences(level):
    rng = np.random.default_rng(3)
    shape = (6,) if level == "manager" else (6, K)
    old = -1.0 - rng.random(shape)
    arguments = [old + 0.3 * rng.normal(size=shape), old, rng.normal(size=shape), *rng.normal(size=(2, 6))]
    loss, reference = worker_loss, worker_loss_reference
    if level == "manager":
        arguments.append(rng.normal(size=2))
        loss, reference = manager_loss, manager_loss_reference
    trained = (0, 3, 5)[: 3 if level == "manager" else 2]  # log-probability, value, log-deviation
    value, gradients = jax.jit(jax.value_and_grad(partial(loss, settings=CONFIG), argnums=trained))(
        *(x.astype(np.float32) for x in arguments)
    )
    assert float(value) == pytest.approx(reference(*arguments, CONFIG), rel=1e-5)
    for position, gradient in zip(trained, gradients, strict=True):
        for index in np.ndindex(arguments[position].shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [x.copy() for x in arguments]
                moved[position][index] += step
                ends.append(reference(*moved, CONFIG))
            assert float(gradient[index]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=2e-5)


def plackett_luce(scores, slate, is_popular=None):
    """Probability of a slate and the gradient of each slot's log-probability; slot 0 popular where groups are given."""
    taken, probability, gradient = [], 1.0, np.zeros((len(slate), len(scores)))
    for slot, item in enumerate(slate):
        left = [i for i in range(len(scores)) if i not in taken]
        if is_popular is not None:
            left = [i for i in left if is_popular[i] == (slot == 0)]
        if item not in left:
            return 0.0, gradient
        weight = np.exp(scores[left]) / np.exp(scores[left]).sum()
        probability *= weight[left.index(item)]
        gradient[slot, left] -= weight
        gradient[slot, item] += 1.0
        taken.append(item)
    return probability, gradient


def all_outcomes(is_popular=None):
    """Every slate of 2 of 4 items and its clicks: (probability, d log-probability, slate, clicks), and click rates."""
    rng = np.random.default_rng(4)
    scores, rate = rng.normal(size=4), np.array([0.9, 0.2, 0.6, 0.4])
    outcomes = []
    for slate in permutations(range(4), 2):
        chance, gradient = plackett_luce(scores, slate, is_popular)
        for clicks in product([0, 1], repeat=2):
            likelihood = np.prod(np.where(clicks, rate[list(slate)], 1 - rate[list(slate)]))
            outcomes.append((chance * likelihood, gradient, slate, clicks))
    weight, gradient, slate, clicks = (np.array(x) for x in zip(*outcomes, strict=True))
    return weight, gradient, clicks, rate[slate]


def policy_gradient(weight, gradient, advantage):
    """Mean and total variance over all outcomes of sum_k advantage_k d log pi_k."""
    samples = np.einsum("nkj,nk->nj", gradient, np.asarray(advantage, np.float64))
    mean = weight @ samples
    return mean, weight @ np.sum((samples - mean) ** 2, axis=1)


def test_slot_advantages_differ_from_the_slates_by_the_other_slots_surprise_alone():
    rng = np.random.default_rng(5)
    advantage, clicks = rng.normal(size=6).astype(np.float32), (rng.random((6, K)) < 0.5).astype(np.float32)
    expected = rng.random((6, K)).astype(np.float32)
    slots = compiled(slot_advantage)(advantage, clicks, expected)
    for row, slot in np.ndindex(6, K):
        others = sum(clicks[row, j] - expected[row, j] for j in range(K) if j != slot)
        assert float(slots[row, slot]) == pytest.approx(advantage[row] - others / K, abs=1e-6)
    # their mean is the slate's advantage less (K - 1) / K of the surprise of its mean click
    surprise = clicks.mean(1) - expected.mean(1)
    np.testing.assert_allclose(slots.mean(1), advantage - (K - 1) / K * surprise, atol=1e-6)


def test_with_each_items_own_click_rate_the_policy_gradient_is_unbiased_and_less_noisy():
    weight, gradient, clicks, rate = all_outcomes()
    reward = clicks.mean(1)
    truth, noise = policy_gradient(weight, gradient, np.tile(reward[:, None] - 0.5, 2))
    slots = compiled(slot_advantage)(reward - 0.5, clicks, rate)
    mean, less_noise = policy_gradient(weight, gradient, slots)
    np.testing.assert_allclose(mean, truth, atol=1e-6)
    assert less_noise < 0.8 * noise


def advantage_reference(reward, value, following, terminated, truncated, discount, lam):
    advantage = np.zeros((T, B))
    for user in range(B):
        later = 0.0
        for step in reversed(range(T)):
            delta = reward[step, user] - value[step, user]
            if not terminated[step, user]:
                delta += discount * following[step, user]
            goes_on = not (terminated[step, user] or truncated[step, user])
            later = delta + (discount * lam * later if goes_on else 0.0)
            advantage[step, user] = later
    return advantage


@compiled
def values_of(params, view):
    """Both values where the manager acts by its mean."""
    mean, _, manager_value = Manager(HIDDEN).apply(params["manager"], view.state, view.time)
    worker = Worker(HIDDEN).apply(params["worker"], view.state, goal_from(mean), view.time, CONFIG.sharpness)
    return {
        "manager": manager_value / (1 - CONFIG.manager_discount),
        "worker": worker[2] / (1 - CONFIG.worker_discount),
    }


@pytest.mark.parametrize("level", ["manager", "worker"])
def test_each_level_learns_from_its_own_reward_and_bootstraps_where_sessions_were_cut(catalogue, acted, level):
    """The manager's reward is Eq. (4), the worker's the clicks alone; both seen in losses and explained variance."""
    agent, rollout = acted
    _, metrics = update(CONFIG, agent, rollout, catalogue)
    reward = np.asarray(rollout.reward, np.float64)
    if level == "manager":
        reward = reward - CONFIG.fairness_weight * np.abs(2 * np.asarray(rollout.popular_share) - 1)
    value = np.asarray(getattr(rollout.record, f"{level}_value"), np.float64)
    following = np.concatenate([value[1:], np.asarray(values_of(agent.params, rollout.last_view)[level])[None]])
    final = values_of(agent.params, rollout.final_view)[level]
    following = np.where(rollout.truncated, final, following)
    discount = {"manager": CONFIG.manager_discount, "worker": CONFIG.worker_discount}[level]
    ends = np.asarray(rollout.terminated), np.asarray(rollout.truncated)
    assert ends[0].any()
    assert ends[1].any()
    target = value + advantage_reference(reward, value, following, *ends, discount, CONFIG.gae_lambda)
    explained = 1 - np.var(target - value) / np.var(target)
    assert float(metrics[f"{level}_explained"]) == pytest.approx(explained, abs=1e-4)
    # The policy that acted has ratio 1 and normalised advantages of mean 0: value error and entropy are left.
    log_prob = np.asarray(rollout.record.worker_log_prob, np.float64)
    entropy = -log_prob.sum(-1).mean()
    if level == "manager":
        entropy = np.sum(np.asarray(agent.params["manager"]["params"]["log_std"]) + 0.5 * np.log(2 * np.pi * np.e))
    expected = CONFIG.value_weight * np.mean((value - target) ** 2) / 2 - CONFIG.entropy_weight * entropy
    assert float(metrics[f"{level}_loss"]) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert float(metrics["fairness"]) == pytest.approx(-np.mean(np.abs(2 * rollout.popular_share - 1)), abs=1e-6)


def test_fairness_moves_the_manager_and_never_the_worker(catalogue, acted):
    agent, rollout = acted
    fairer = dataclasses.replace(rollout, popular_share=rollout.popular_share[::-1])
    heavier = dataclasses.replace(CONFIG, fairness_weight=3.0)
    first, _ = update(CONFIG, agent, rollout, catalogue)
    for config, seen in ((CONFIG, fairer), (heavier, rollout)):
        second, _ = update(config, agent, seen, catalogue)
        jax.tree.map(np.testing.assert_array_equal, first.params["worker"], second.params["worker"])
        manager = jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), first.params, second.params))
        assert max(map(float, manager)) > 1e-5


def test_last_views_of_users_who_stayed_or_left_for_good_are_never_looked_at(catalogue, acted):
    agent, rollout = acted
    poisoned = jax.tree.map(
        lambda x: np.where(rollout.truncated[..., None], x, np.float32(np.nan)) if x.ndim == 3 else x,
        rollout.final_view,
    )
    first, second = (
        update(CONFIG, agent, dataclasses.replace(rollout, final_view=view), catalogue)
        for view in (rollout.final_view, poisoned)
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_policy_that_acts_is_the_one_that_is_updated(catalogue, acted):
    """Log-probabilities computed again at the first minibatch equal the stored ones: every ratio is 1."""
    penalty = dataclasses.replace(CONFIG, slate_mode="penalty")
    for config, (agent, rollout) in ((CONFIG, acted), (penalty, make_rollout(penalty, catalogue, False))):
        _, metrics = update(config, agent, rollout, catalogue)
        # KL is half the mean square of the log-ratio's error
        assert float(metrics["worker_kl"]) < 1e-9
        assert float(metrics["manager_kl"]) < 1e-9
        other = dataclasses.replace(agent, params=jax.tree.map(lambda x: np.float32(1.1) * x, agent.params))
        _, metrics = update(config, other, rollout, catalogue)
        assert min(float(metrics["worker_kl"]), float(metrics["manager_kl"])) > 1e-4


@compiled
def granted_by(output):
    """Popular slots of the goals that a manager's outputs stand for."""
    return popular_slots(goal_from(output), slate_size=K)


def test_quota_slates_hold_as_many_popular_items_as_the_goal_grants(acted):
    _, rollout = acted
    granted = granted_by(rollout.record.output)
    np.testing.assert_array_equal(POPULAR[np.asarray(rollout.slate)].sum(-1), granted)
    assert len(np.unique(granted)) > 2


def test_a_quota_that_rounds_otherwise_at_the_update_does_no_harm(catalogue, acted):
    """Two compilations may round a share of exactly a half slot differently: what was shown counts."""
    agent, rollout = acted
    output = rollout.record.output + np.array([0, 1], np.float32)
    assert np.any(granted_by(output) != K * rollout.popular_share)
    record = dataclasses.replace(rollout.record, output=output)
    learnt, metrics = update(CONFIG, agent, dataclasses.replace(rollout, record=record), catalogue)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((learnt, metrics)))
