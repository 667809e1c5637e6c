"""TD3: targets and schedules against hand computations in float64, and a tiny world whose optimum is known."""

from dataclasses import replace
from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents.agent import Rollout
from dsrm_jax.agents.hyper_action import hyper_networks
from dsrm_jax.agents.replay import Experience, ReplayConfig, sample
from dsrm_jax.agents.replay import make_parts as make_parts_of
from dsrm_jax.agents.td3 import TD3Config, _gradient_step, make_td3, td_target
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import Catalogue, View

USERS, ITEMS, DIM, SLATE = 8, 12, 4, 2
OWN = TD3Config(discount=0.8, actor_learning_rate=3e-3, exploration=0.3, target_noise=0.2)
REPLAY = ReplayConfig(capacity=2048, batch_size=64, gradient_steps=16, warm_up=128, tau=0.02)
SETTINGS = {"slate_size": SLATE, "hidden": 16, "learning_rate": 5e-3, "max_grad_norm": 100.0}
SETTINGS |= vars(OWN) | vars(REPLAY)


INIT = jax.jit(make_td3(**SETTINGS).init)


def make_catalogue():
    """Items 0 to 3 look best to the encoder and 4 and 5 worst; 0 to 2 are popular."""
    rng = np.random.default_rng(3)
    bias = np.where(np.arange(ITEMS) < 4, 1.5, 0.0) - np.where(np.isin(np.arange(ITEMS), [4, 5]), 1.0, 0.0)
    return Catalogue(
        vectors=jnp.asarray(rng.normal(size=(ITEMS, DIM)), jnp.float32),
        bias=jnp.asarray(bias, jnp.float32),
        log_popularity=jnp.asarray(rng.normal(size=ITEMS), jnp.float32),
        is_popular=jnp.arange(ITEMS) < 3,
    )


def make_users():
    """States of two kinds of users, and what each clicks: items 4 and 6, or 5 and 7."""
    kind = np.arange(USERS) // 4
    state = 0.1 * np.random.default_rng(4).normal(size=(USERS, DIM))
    state[:, 0] += 2.0 * kind - 1.0
    clicks = np.full((USERS, ITEMS), 0.1)
    clicks[np.arange(USERS)[:, None], np.array([[4, 6], [5, 7]])[kind]] = 0.9
    return jnp.asarray(state, jnp.float32), jnp.asarray(clicks, jnp.float32)


def make_player(agent, catalogue, state, clicks, *, stay=0.8, length=16, updates=25):
    """Build `(agent_state, key) -> agent_state`: rollouts of 16 users who leave with probability 1 - stay, and updates."""

    def step(agent_state, user, key):
        act_key, click_key, leave_key, arrive_key = jax.random.split(key, 4)
        view = View(state[user], state[user], jnp.zeros(user.shape, jnp.int32))
        slate, record = agent.act(agent_state, act_key, view, catalogue)
        clicked = jax.random.uniform(click_key, slate.shape) < clicks[user[:, None], slate]
        left = jax.random.uniform(leave_key, user.shape) >= stay
        following = jnp.where(left, jax.random.randint(arrive_key, user.shape, 0, USERS), user)
        share = jnp.mean(catalogue.is_popular[slate], axis=1, dtype=jnp.float32)
        reward = jnp.mean(clicked, axis=1, dtype=jnp.float32)
        return following, Rollout(view, slate, record, clicked, reward, share, left, jnp.zeros_like(left), None, None)

    def iterate(carry, key):
        agent_state, user = carry
        keys = jax.random.split(key, length + 1)
        user, rollout = jax.lax.scan(partial(step, agent_state), user, keys[:-1])
        last = View(state[user], state[user], jnp.zeros(user.shape, jnp.int32))
        agent_state, metrics = agent.update(agent_state, keys[-1], replace(rollout, last_view=last), catalogue)
        return (agent_state, user), metrics

    @jax.jit
    def play(agent_state, key):
        users = jnp.arange(16) % USERS
        (agent_state, _), metrics = jax.lax.scan(iterate, (agent_state, users), jax.random.split(key, updates))
        return agent_state, metrics

    return play


def value_of(slate, clicks):
    return float(np.take_along_axis(np.asarray(clicks), np.asarray(slate), axis=1).mean())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_finds_the_slates_that_exhaustive_search_finds():
    catalogue, (state, clicks) = make_catalogue(), make_users()
    agent = make_td3(**SETTINGS)
    pairs = list(combinations(range(ITEMS), SLATE))
    best = np.mean([max(np.asarray(clicks)[u, list(pair)].mean() for pair in pairs) for u in range(USERS)])
    view = View(state, state, jnp.zeros(USERS, jnp.int32))
    agent_state = agent.init(jax.random.key(0), catalogue)
    slate, _ = agent.act(agent_state, jax.random.key(0), view, catalogue, True)
    assert value_of(slate, clicks) < 0.5 * best
    play = make_player(agent, catalogue, state, clicks, updates=60)
    agent_state, metrics = play(agent_state, jax.random.key(1))
    slate, _ = agent.act(agent_state, jax.random.key(0), view, catalogue, True)
    assert value_of(slate, clicks) > 0.95 * best
    # nothing of the warm-up's 128 rows is learnt from before all are there
    assert float(metrics["value"][0]) != 0.0


def make_parts(own=OWN):
    keywords = {"slate_size": SLATE, "max_grad_norm": 100.0} | vars(REPLAY) | vars(own)
    return make_parts_of("td3", TD3Config, keywords, hyper_networks(16, 2), {"actor": 1e-3, "critic": 1e-3})


def some_learner(parts, key):
    """A learner whose networks, and slow copies, are all different and not zero."""
    learner, rng = INIT(key, make_catalogue()).learner, np.random.default_rng(0)
    params, target = jax.tree.map(
        lambda x: np.asarray(x) + np.float32(0.3 * rng.normal(size=x.shape)), (learner.params, learner.target)
    )
    return learner.replace(params=params, target=target)


def some_batch(size=6):
    rng = np.random.default_rng(5)
    action = rng.normal(size=(size, DIM + 3))
    return Experience(
        features=jnp.asarray(rng.normal(size=(size, DIM + 1)), jnp.float32),
        action=jnp.asarray(action / np.linalg.norm(action, axis=1, keepdims=True), jnp.float32),
        reward=jnp.asarray(rng.uniform(size=size), jnp.float32),
        terminated=np.arange(size) % 3 == 0,
        next_features=jnp.asarray(rng.normal(size=(size, DIM + 1)), jnp.float32),
    )


def mlp(params, x):
    """`networks.MLP` in float64 NumPy."""
    layers = [params[f"Dense_{i}"] for i in range(3)]
    for layer in layers[:2]:
        x = np.tanh(x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64))
    return x @ np.asarray(layers[2]["kernel"], np.float64) + np.asarray(layers[2]["bias"], np.float64)


def normed(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("scale", [0.0, 5.0])
def test_the_target_agrees_with_a_hand_computation_in_float64(scale):
    """With noise far beyond the clip on both sides; no bootstrap where a session terminated, not even a NaN's."""
    parts, batch = make_parts(), some_batch()
    target = some_learner(parts, jax.random.key(1)).target
    noise = scale * np.random.default_rng(6).choice([-1.0, 1.0, 0.01], size=batch.action.shape)
    spoilt = np.where(batch.terminated[:, None], np.float32(np.nan), batch.next_features)
    found = jax.jit(partial(td_target, parts))(target, batch.replace(next_features=spoilt), np.float32(noise))

    seen = np.asarray(batch.next_features, np.float64)
    state, one = seen[:, :-1], np.ones((len(seen), 1))
    anchor = np.hstack([normed(np.hstack([state, one])), 0 * one, 0 * one])
    action = normed(anchor + mlp(target["actor"]["params"]["MLP_0"], state))
    action = normed(action + np.clip(noise, -OWN.noise_clip, OWN.noise_clip))
    both = [mlp(target["critic"]["params"][f"MLP_{i}"], np.hstack([seen, action]))[:, 0] for i in range(2)]
    following = np.where(batch.terminated, 0.0, np.minimum(*both))
    np.testing.assert_allclose(found, np.asarray(batch.reward) + 0.8 * following, rtol=1e-4, atol=1e-4)


def distance(one, other):
    pairs = zip(*(jax.tree.leaves(jax.device_get(x)) for x in (one, other)), strict=True)
    return float(sum(np.abs(a - b).sum() for a, b in pairs))


@pytest.mark.parametrize("delay", [2, 3])
def test_actor_and_targets_move_only_every_so_many_critic_steps(delay):
    parts = make_parts(replace(OWN, delay=delay))
    learner, batch = some_learner(parts, jax.random.key(2)), some_batch()
    step = jax.jit(partial(_gradient_step, parts))
    for index in range(2 * delay):
        moved, _ = step(learner, jax.random.key(index), batch, jnp.asarray(index))
        assert distance(moved.params["critic"], learner.params["critic"]) > 0
        due = index % delay == delay - 1
        assert (distance(moved.params["actor"], learner.params["actor"]) > 0) == due
        assert (distance(moved.target, learner.target) > 0) == due
        if due:
            new, old = jax.device_get((moved.params, learner.target))
            mixed = jax.tree.map(lambda new, old: 0.02 * new + 0.98 * old, new, old)
            assert distance(mixed, moved.target) < 1e-3
        learner = moved


def test_critics_descend_to_the_target_and_the_actor_climbs_the_first_critic():
    parts = make_parts(replace(OWN, target_noise=0.0, delay=1))
    learner, batch = some_learner(parts, jax.random.key(3)), some_batch()
    still = np.zeros(batch.action.shape, np.float32)
    target = np.asarray(jax.jit(partial(td_target, parts))(learner.target, batch, still))
    critic = jax.jit(partial(parts.apply, "critic"))

    def error(learner):
        values = np.asarray(critic(learner.params["critic"], batch.features, batch.action))
        return float(np.mean(np.sum(np.square(values - target[:, None]), axis=1)))

    step = jax.jit(partial(_gradient_step, parts))
    moved, metrics = step(learner, jax.random.key(0), batch, np.int32(0))
    assert float(metrics["critic_loss"]) == pytest.approx(error(learner), rel=1e-5)
    assert error(moved) < error(learner)

    def climbed(actor):
        action = normed(np.asarray(jax.jit(partial(parts.apply, "actor"))(actor, np.asarray(batch.features)[:, :-1])))
        return float(np.mean(critic(moved.params["critic"], batch.features, action)[:, 0]))

    assert climbed(moved.params["actor"]) > climbed(learner.params["actor"])


def test_what_is_stored_is_the_hyper_action_that_was_carried_out():
    catalogue, (state, _) = make_catalogue(), make_users()
    agent = make_td3(**SETTINGS)
    agent_state = INIT(jax.random.key(0), catalogue)
    view = View(*map(np.asarray, (state, state, np.arange(USERS, dtype=np.int32))))
    slate, action = map(np.asarray, jax.jit(agent.act)(agent_state, jax.random.key(7), view, catalogue))
    _, mode = jax.jit(partial(agent.act, greedy=True))(agent_state, jax.random.key(7), view, catalogue)
    assert not np.allclose(action, mode, atol=0.05)  # exploration is on from the first step
    rollout = Rollout(
        *(jax.tree.map(lambda x: x[None], part) for part in (view, slate, action)),
        clicks=(slate > 0)[None],
        reward=np.linspace(0, 1, USERS, dtype=np.float32)[None],
        popular_share=np.zeros((1, USERS), np.float32),
        terminated=(np.arange(USERS) % 2 == 0)[None],
        truncated=np.zeros((1, USERS), bool),
        final_view=None,
        last_view=view.replace(state=view.state + 1.0, time=view.time + 1),
    )
    updated, _ = jax.jit(agent.update)(agent_state, jax.random.key(8), rollout, catalogue)
    rows = jax.tree.map(lambda x: x[:USERS], jax.device_get(updated.replay.rows))
    np.testing.assert_array_equal(rows.action, action)
    np.testing.assert_allclose(rows.features[:, -1], np.arange(USERS) / 30, rtol=1e-6)
    np.testing.assert_allclose(rows.next_features[:, :-1], np.asarray(state) + 1.0, rtol=1e-6)
    np.testing.assert_array_equal(rows.terminated, np.arange(USERS) % 2 == 0)
    assert int(updated.replay.size) == USERS
    assert distance(updated.learner.params, agent_state.learner.params) == 0  # still warming up
    drawn = jax.eval_shape(partial(sample, batch_size=3), jax.random.key(0), updated.replay)
    assert drawn.reward.shape == (3,)


def test_a_delay_that_does_not_divide_the_gradient_steps_is_refused():
    with pytest.raises(InputError, match=r"multiple of agent\.td3\.delay"):
        make_td3(**SETTINGS | {"delay": 3})
