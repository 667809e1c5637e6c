"""BCQ, both forms: masks and targets against hand computations, and the optimum within the support of tiny data."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.agents import bcq, bcq_continuous
from dsrm_jax.agents.agent import LoggedData, Transition
from dsrm_jax.agents.bcq import BCQConfig, constrained_scores, item_rows, make_bcq
from dsrm_jax.agents.hyper_action import hyper_slate
from dsrm_jax.agents.replay import Experience, Learner, Parts, ReplayConfig, ReplayState, full_replay
from dsrm_jax.agents.settings import SharedConfig
from dsrm_jax.agents.slates import greedy_slate
from dsrm_jax.errors import InputError
from dsrm_jax.purify.view import Catalogue, View

USERS, ITEMS, DIM, SLATE = 8, 12, 4, 2
SHOWN = np.arange(ITEMS) < 8  # the log never shows items 8 to 11
SETTINGS = {
    "slate_size": SLATE,
    "hidden": 16,
    "max_grad_norm": 100.0,
    "behaviour": "log",
    "learning_rate": 1e-2,
    "discount": 0.8,
    "threshold": 0.2,
    "perturbation": 0.3,
    "gradient_steps": 300,
    "tau": 0.02,
}
CONTINUOUS = SETTINGS | {"mode": "continuous"}


@pytest.fixture(scope="module")
def catalogue():
    """Items 8 to 11, which the log never shows, look best to the encoder."""
    return Catalogue(
        vectors=jnp.asarray(np.random.default_rng(3).normal(size=(ITEMS, DIM)), jnp.float32),
        bias=jnp.where(jnp.asarray(SHOWN), -1.0, 1.5),
        log_popularity=jnp.where(jnp.asarray(SHOWN), 0.7, -1.4),
        is_popular=jnp.arange(ITEMS) < 3,
    )


@pytest.fixture(scope="module")
def users():
    """States of two kinds of users; one clicks items 4 and 6, the other 5 and 7, and all would click what is never shown."""
    kind = np.arange(USERS) // 4
    state = 0.1 * np.random.default_rng(4).normal(size=(USERS, DIM))
    state[:, 0] += 2.0 * kind - 1.0
    clicks = np.where(SHOWN, 0.1, 0.95) * np.ones((USERS, 1))
    clicks[np.arange(USERS)[:, None], np.array([[4, 6], [5, 7]])[kind]] = 0.9
    return jnp.asarray(state, jnp.float32), clicks


@pytest.fixture(scope="module")
def logged(users):
    """Two thousand steps of users who are shown two of the first eight items at random; a fifth of them leave."""
    state, clicks = users
    rng = np.random.default_rng(5)
    user = rng.integers(0, USERS, 2000)
    slate = rng.permuted(np.tile(np.arange(8), (2000, 1)), axis=1)[:, :SLATE]
    clicked = rng.uniform(size=slate.shape) < clicks[user[:, None], slate]
    view = View(state[user], state[user], jnp.zeros(2000, jnp.int32))
    gone = jnp.asarray(rng.uniform(size=2000) < 0.2)
    nowhere = jnp.where(gone[:, None], jnp.nan, view.state)
    found = Transition(
        view,
        jnp.asarray(slate, jnp.int32),
        (),
        jnp.asarray(clicked),
        jnp.asarray(clicked.mean(1), jnp.float32),
        jnp.zeros(2000),
        gone,
        view.replace(state=nowhere),
    )
    return LoggedData(found, jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))


def mean_click(agent, agent_state, state, clicks, catalogue):
    view = View(state, state, jnp.zeros(USERS, jnp.int32))
    act = jax.jit(partial(agent.act, greedy=True))
    slate = np.asarray(act(agent_state, jax.random.key(0), view, catalogue)[0])
    return np.take_along_axis(clicks, slate, axis=1).mean(), slate


def test_the_discrete_form_finds_the_best_slates_within_the_support_of_the_data(catalogue, users, logged):
    state, clicks = users
    pairs = combinations(np.flatnonzero(SHOWN), SLATE)
    best = np.max([clicks[:, list(pair)].mean(1) for pair in pairs], axis=0).mean()
    agent = make_bcq(**SETTINGS)
    agent_state = jax.jit(agent.init)(jax.random.key(0), catalogue, logged)
    update = jax.jit(partial(agent.update, rollout=None, catalogue=catalogue))
    for seed in range(4):
        agent_state, metrics = update(agent_state, jax.random.key(seed))
    reached, slate = mean_click(agent, agent_state, state, clicks, catalogue)
    assert SHOWN[slate].all()
    assert reached > 0.95 * best
    # what Q thinks of the best items: 0.9 and, four times in five, all that follows
    values = jax.jit(lambda params: bcq._values(_parts(), params, _seen(state), item_rows(catalogue)[slate]))
    q = values(agent_state.learner.params["value"])
    assert float(np.mean(q)) == pytest.approx(0.9 / (1 - 0.8 * 0.8), rel=0.15)
    assert np.isfinite(float(metrics["value_loss"]))
    # an untrained Q prefers what the data know nothing of, and the mask alone keeps it away
    untrained = jax.jit(agent.init)(jax.random.key(0), catalogue, logged).learner.params["value"]
    params = agent_state.learner.params | {"value": untrained}
    misled = agent_state.replace(learner=agent_state.learner.replace(params=params))
    free = make_bcq(**SETTINGS | {"threshold": 0.0})
    assert SHOWN[mean_click(agent, misled, state, clicks, catalogue)[1]].all()
    assert SHOWN[mean_click(free, misled, state, clicks, catalogue)[1]].mean() < 0.3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_continuous_form_finds_the_best_of_the_slates_that_logged_directions_rank_first(catalogue, users, logged):
    state, clicks = users
    pairs = jnp.asarray(list(combinations(np.flatnonzero(SHOWN), SLATE)))
    logged_slates = hyper_slate(bcq_continuous.logged_action(pairs, catalogue), catalogue, slate_size=SLATE)
    best = np.max([clicks[:, slate].mean(1) for slate in np.asarray(logged_slates)], axis=0).mean()
    # 2,000 transitions, a fifth of them ended by chance: at a discount of .8 critics of actions learn these ends by heart
    agent = make_bcq(**CONTINUOUS | {"hidden": 32, "learning_rate": 1e-3, "discount": 0.4})
    agent_state = jax.jit(agent.init)(jax.random.key(0), catalogue, logged)
    update = jax.jit(partial(agent.update, rollout=None, catalogue=catalogue))
    for seed in range(6):
        agent_state, _ = update(agent_state, jax.random.key(seed))
    reached, slate = mean_click(agent, agent_state, state, clicks, catalogue)
    assert reached > 0.95 * best
    assert SHOWN[slate].all()  # items 8 to 11 would be clicked more, and no logged direction leads to them


@pytest.mark.parametrize("settings", [SETTINGS, CONTINUOUS])
def test_without_a_log_it_says_what_it_needs(settings, catalogue):
    with pytest.raises(InputError, match="learns from logged slates and was given none"):
        make_bcq(**settings).init(jax.random.key(0), catalogue)


@jax.jit
def SCORED(value, logits, threshold):
    scores = constrained_scores(value, logits, threshold)
    return scores, greedy_slate(scores, np.zeros(6, bool), None, slate_size=6)


SIX = st.lists(st.integers(-80, 80), min_size=6, max_size=6, unique=True)


@settings(max_examples=40, deadline=None)
@given(value=SIX, logits=SIX, threshold=st.floats(0, 1))
def test_the_mask_keeps_what_is_likely_enough_and_is_never_empty(value, logits, threshold):
    value, logits = np.array([value], np.float32), np.array([logits], np.float32) / 8
    ratio = np.exp(np.float64(logits - logits.max()))
    if np.abs(ratio - threshold).min() < 1e-4 * threshold:
        return  # too close to call in float32
    survives = (ratio > threshold) | (ratio == 1.0)
    by_value = [i for i in np.argsort(-value[0], kind="stable") if survives[0, i]]
    by_imitation = [i for i in np.argsort(-logits[0], kind="stable") if not survives[0, i]]
    scores, ranked = SCORED(value, logits, threshold)
    assert np.isfinite(scores).all()
    ranked = np.asarray(ranked)[0].tolist()
    assert ranked == by_value + by_imitation


def parts_of(networks):
    own = BCQConfig(discount=0.8, threshold=0.2, perturbation=0.3)
    return Parts(own, SharedConfig(hidden=16), ReplayConfig(), SLATE, networks, {})


def _parts():
    networks = {"value": bcq.ItemQuery(16, 0.25), "imitation": bcq.ItemQuery(16, 1.0)}
    return parts_of(networks)


def _seen(state):
    return jnp.concatenate([state, jnp.zeros((len(state), 1))], axis=1)


def shaken(tree, seed=1):
    """Networks of which no two are the same and none is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.asarray(x) + np.float32(0.5 * rng.normal(size=x.shape)), tree)


def mlp(params, x):
    """`networks.MLP` in float64 NumPy."""
    layers = [params[f"Dense_{i}"] for i in range(3)]
    for layer in layers[:2]:
        x = np.tanh(x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64))
    return x @ np.asarray(layers[2]["kernel"], np.float64) + np.asarray(layers[2]["bias"], np.float64)


def test_the_discrete_target_agrees_with_a_hand_computation_in_float64(catalogue, logged):
    agent_state = jax.jit(make_bcq(**SETTINGS).init)(jax.random.key(0), catalogue, logged)
    params, target = shaken((agent_state.learner.params,) * 2)
    rng = np.random.default_rng(6)
    seen = rng.normal(size=(20, DIM + 1))
    gone = np.arange(20) % 4 == 0
    batch = Experience(
        features=jnp.asarray(seen, jnp.float32),
        action=jnp.asarray(rng.integers(0, ITEMS, (20, SLATE)), jnp.int32),
        reward=jnp.asarray(rng.uniform(size=(20, SLATE)) < 0.5),
        terminated=jnp.asarray(gone),
        next_features=jnp.asarray(np.where(gone[:, None], np.nan, seen), jnp.float32),
    )
    found = jax.jit(partial(bcq.td_target, _parts()))(Learner(params, target, {}), batch, catalogue)

    rows = np.asarray(item_rows(catalogue), np.float64)
    anchor = np.hstack([seen[:, :-1], np.ones((20, 1)), np.zeros((20, 2))])

    def scores(network, with_level=False):
        out = mlp(network["params"]["MLP_0"], seen)
        query = float(network["params"]["factor"]) * anchor + out[:, :-1]
        return query @ rows.T + with_level * out[:, -1:]

    logits = scores(params["imitation"])
    ratio = np.exp(logits - logits.max(1, keepdims=True))
    following = np.zeros(20)
    for row in range(20):
        order = sorted(range(ITEMS), key=lambda i: -ratio[row, i])
        kept = [i for i in order if ratio[row, i] > SETTINGS["threshold"]]
        kept.sort(key=lambda i: -scores(params["value"])[row, i])
        chosen = (kept + [i for i in order if i not in kept])[:SLATE]
        following[row] = scores(target["value"], True)[row, chosen].mean()
    expected = np.asarray(batch.reward) + 0.8 * np.where(gone, 0.0, following)[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_untrained_agent_ranks_by_the_encoders_click_logit(catalogue, users, logged):
    state, _ = users
    agent = make_bcq(**SETTINGS | {"threshold": 0.0})
    view = View(state, state, jnp.zeros(USERS, jnp.int32))
    agent_state = jax.jit(agent.init)(jax.random.key(0), catalogue, logged)
    slate, _ = jax.jit(agent.act)(agent_state, jax.random.key(0), view, catalogue)
    logit = np.asarray(state) @ np.asarray(catalogue.vectors).T + np.asarray(catalogue.bias)
    np.testing.assert_array_equal(slate, np.argsort(-logit, axis=1)[:, :SLATE])


def test_the_continuous_target_agrees_with_a_hand_computation_in_float64(catalogue, logged):
    agent_state = jax.jit(make_bcq(**CONTINUOUS).init)(jax.random.key(0), catalogue, logged)
    params, target = shaken((agent_state.learner.params, agent_state.learner.target))
    rng = np.random.default_rng(6)
    seen, gone, action_dim = rng.normal(size=(6, DIM + 1)), np.arange(6) % 3 == 0, DIM + 3
    noise = rng.normal(size=(6, 10, 2 * action_dim))
    batch = Experience(
        features=None,
        action=None,
        reward=jnp.linspace(0, 1, 6),
        terminated=jnp.asarray(gone),
        next_features=jnp.asarray(np.where(gone[:, None], np.nan, seen), jnp.float32),
    )
    parts = parts_of(bcq_continuous.networks(16))
    learner = Learner(params, target, {})
    found = jax.jit(partial(bcq_continuous.td_target, parts))(learner, batch, jnp.asarray(noise, jnp.float32))

    best = np.full(6, -np.inf)
    for draw in range(10):
        latent = np.clip(noise[:, draw], -0.5, 0.5)
        action = mlp(params["imitation"]["params"]["decoder"], np.hstack([seen, latent]))
        action /= np.linalg.norm(action, axis=1, keepdims=True)
        step = 0.3 * np.tanh(mlp(target["actor"]["params"]["MLP_0"], np.hstack([seen, action])))
        action = (action + step) / np.linalg.norm(action + step, axis=1, keepdims=True)
        both = [mlp(target["critic"]["params"][f"MLP_{i}"], np.hstack([seen, action]))[:, 0] for i in (0, 1)]
        best = np.maximum(best, 0.75 * np.minimum(*both) + 0.25 * np.maximum(*both))
    expected = np.linspace(0, 1, 6) + 0.8 * np.where(gone, 0.0, best)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_latents_are_clipped_to_act_and_never_to_train_the_decoder():
    """The decoder is trained on the latents that its encoder draws, however large."""
    model = bcq_continuous.Imitation(16, 3)
    rng = np.random.default_rng(8)
    seen, action = (np.float32(rng.normal(size=(4, n))) for n in (5, 3))
    noise = np.full((4, 6), 3, np.float32)
    params = shaken(jax.jit(model.init)(jax.random.key(0), seen, action, noise))
    out, mean, log_std = map(np.asarray, jax.jit(model.apply)(params, seen, action, noise))
    latent = mean + np.exp(log_std) * noise
    assert np.max(np.abs(latent)) > 0.5
    decode = jax.jit(partial(model.apply, method=model.decode))
    np.testing.assert_allclose(out, decode(params, seen, latent), rtol=1e-5, atol=1e-6)
    parts = parts_of(bcq_continuous.networks(16))
    actor = jax.jit(bcq_continuous.Perturbation(16).init)(jax.random.key(2), seen, action, 1.0)
    networks = {"imitation": params, "actor": actor}
    drawn = jax.jit(partial(bcq_continuous.draw_actions, parts))
    far, near = (drawn(networks, seen, np.full((4, 1, 6), z, np.float32))[0] for z in (3.0, 0.5))
    np.testing.assert_array_equal(far, near)


def test_the_log_is_held_once_and_rollouts_are_ignored(catalogue, logged):
    agent = make_bcq(**SETTINGS | {"gradient_steps": 1})
    agent_state = jax.jit(agent.init)(jax.random.key(0), catalogue, logged)
    assert isinstance(agent_state, ReplayState)
    moved, _ = agent.update(agent_state, jax.random.key(1), "not a rollout", catalogue)
    assert int(moved.replay.size) == int(full_replay(logged.transitions.reward).size)
    np.testing.assert_array_equal(moved.replay.rows.action, logged.transitions.slate)
