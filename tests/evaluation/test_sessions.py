"""Sessions against a plain Python replay of what was shown, and against closed forms."""

from dataclasses import replace
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsrm_jax.agents.agent import Agent
from dsrm_jax.config import Config, EnvironmentConfig
from dsrm_jax.evaluation.oracles import oracle_rule
from dsrm_jax.evaluation.sessions import agent_rule, any_of, run_sessions
from dsrm_jax.purify.encoder import Embeddings, EncoderParams
from dsrm_jax.purify.perception import Perception
from dsrm_jax.purify.view import View
from dsrm_jax.runs.pieces import environment_of
from dsrm_jax.simulator.leave import expected_length
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World
from tests.simulator.closed_forms import constant_length

NUM_USERS, NUM_ITEMS = 6, 50
IS_POPULAR = np.arange(NUM_ITEMS) % 5 == 0
POPULAR, TAIL = np.flatnonzero(IS_POPULAR), np.flatnonzero(~IS_POPULAR)


def make_world(probability):
    user = np.repeat(np.arange(NUM_USERS), 3)
    starts = SessionStarts(
        user=jnp.asarray(user, jnp.int32),
        item=jnp.asarray(np.arange(len(user)) % NUM_ITEMS, jnp.int32),
        click=jnp.asarray(np.arange(len(user)) % 2 == 0),
        first=jnp.asarray(3 * np.arange(NUM_USERS + 1), jnp.int32),
    )
    return World(
        response=TableResponse(jnp.asarray(np.broadcast_to(probability, (NUM_USERS, NUM_ITEMS)), jnp.float32)),
        starts=starts,
        item=jnp.arange(NUM_ITEMS, dtype=jnp.int32),
        is_popular=jnp.asarray(IS_POPULAR),
        log_popularity=jnp.zeros(NUM_ITEMS),
    )


REPLAY = EnvironmentConfig(slate_size=4, max_len=6, history_length=5, ad_bound=0.5)
NUM_SESSIONS, LANES = 10, 4  # three batches; the last has two lanes too many
POISON = np.array([0, 1, 2, 3])  # shown to nobody but to users who have left


def poisoning_rule(shown):
    """Random slates; to users who have left, items that nobody else sees. Everything shown is appended."""

    def act(key, env, observation):
        keys = jax.random.split(key, env.user.shape[0])
        drawn = 4 + jax.vmap(lambda k: jax.random.permutation(k, NUM_ITEMS - 4)[:4])(keys)
        left = env.temper < 4
        slate = jnp.where(left[:, None], POISON, drawn).astype(jnp.int32)
        jax.debug.callback(lambda *x: shown.append([np.asarray(v) for v in x]), env.user, slate, ordered=True)
        return slate, ()

    return act


def replay(shown, config, clicks_on):
    """Recompute every sum from what was shown, with the rules as the paper states them and no float."""
    steps = config.step_cap or config.max_len
    num_batches = -(-NUM_SESSIONS // LANES)
    assert len(shown) == num_batches * steps
    sessions = []
    step_popular, step_slates = np.zeros((2, num_batches, steps), int)
    item_count = np.zeros(NUM_ITEMS, int)
    for index in range(NUM_SESSIONS):
        batch, lane = divmod(index, LANES)
        temper = Fraction(config.max_len)
        sums = dict.fromkeys(("length", "clicks", "popular", "imbalance", "broken"), 0)
        for t in range(steps):
            users, slates = shown[batch * steps + t]
            slate = slates[lane].tolist()
            clicks = sum(bool(clicks_on[users[lane], i]) for i in slate)
            popular = sum(bool(IS_POPULAR[i]) for i in slate)
            share = Fraction(popular, len(slate))
            broken = abs(2 * share - 1) >= Fraction(str(config.ad_bound))
            temper -= 2 - Fraction(clicks, len(slate)) + config.ad_penalty * broken
            imbalance = int(abs(2 * share - 1) * len(slate))
            for name, value in zip(sums, (1, clicks, popular, imbalance, broken), strict=True):
                sums[name] += value
            step_popular[batch, t] += popular
            step_slates[batch, t] += 1
            item_count[slate] += 1
            if temper < 1:
                break
        sessions.append(sums)
    found = {name: np.array([s[name] for s in sessions]) for name in sessions[0]}
    return found | {"step_popular": step_popular, "step_slates": step_slates, "item_count": item_count}


@pytest.mark.parametrize("step_cap", [0, 4])
def test_every_sum_equals_a_replay_of_what_was_shown(step_cap):
    """Leavers see poison, two lanes of the last batch are not wanted, a cap cuts sessions: none of it counts."""
    config = replace(REPLAY, step_cap=step_cap)
    clicks_on = np.random.default_rng(5).random((NUM_USERS, NUM_ITEMS)) < 0.6
    shown = []
    run = jax.jit(
        partial(
            run_sessions,
            act=poisoning_rule(shown),
            environment=environment_of(Config(environment=config)),
            num_sessions=NUM_SESSIONS,
            num_users=LANES,
        )
    )
    sessions = jax.device_get(run(jax.random.key(1), world=make_world(clicks_on)))
    jax.effects_barrier()
    expected = replay(shown, config, clicks_on)
    for name, value in expected.items():
        found = getattr(sessions, name)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, value, err_msg=name)
    assert sessions.length.sum() * 4 == sessions.item_count.sum()
    if step_cap:
        assert sessions.length.max() == step_cap
    else:
        assert np.any([np.any(slate == 0) for _, slates in shown for slate in slates])  # poison was shown
        assert len(np.unique(sessions.length)) > 1
    assert not sessions.item_count[POISON].any()


CONFIG = EnvironmentConfig(history_length=3)  # K = 6, T0 = 30, bound .3, penalty 1
K, T0 = CONFIG.slate_size, CONFIG.max_len


def fixed(items):
    slate = jnp.asarray(items, jnp.int32)
    return lambda key, env, _: (jnp.broadcast_to(slate, (*env.user.shape, K)), ())


def uniform(key, env, _):
    keys = jax.random.split(key, env.user.shape[0])
    return jax.vmap(lambda k: jax.random.permutation(k, NUM_ITEMS)[:K])(keys).astype(jnp.int32), ()


RULES = {
    "all_popular": fixed(POPULAR[:K]),
    "quota": fixed([*POPULAR[:3], *TAIL[:3]]),
    "another_quota": fixed([*POPULAR[3:6], *TAIL[3:6]]),
    "uniform": uniform,
}


@pytest.fixture(scope="module")
def run():
    """`(rule, probability, key) -> Sessions` of 500 sessions in lanes of 128, one program for all rules."""
    program = jax.jit(
        lambda key, index, world: run_sessions(
            key,
            any_of(index, list(RULES.values())),
            environment_of(Config(environment=CONFIG)),
            world,
            num_sessions=500,
            num_users=128,
        )
    )

    def call(rule, probability, key=0):
        keys = jax.random.key(key) if isinstance(key, int) else key
        return jax.device_get(program(keys, jnp.int32(list(RULES).index(rule)), make_world(probability)))

    return call


@pytest.mark.parametrize("clicks", [0, K])
@pytest.mark.parametrize(("rule", "penalty"), [("all_popular", 1), ("quota", 0)])
def test_constant_rewards_give_the_exact_length(run, rule, penalty, clicks):
    sessions = run(rule, clicks / K)
    length = constant_length(T0, clicks, K, penalty)
    assert length == {(1, 0): 10, (1, K): 15, (0, 0): 15, (0, K): 30}[penalty, clicks]
    assert np.all(sessions.length == length)
    assert np.all(sessions.clicks == clicks * length)
    assert np.all(sessions.broken == penalty * length)
    assert np.all(sessions.imbalance == penalty * K * length)
    assert np.all(sessions.step_slates == np.where(np.arange(30) < length, [[128], [128], [128], [116]], 0))


@pytest.mark.parametrize("rule", list(RULES))
def test_length_and_clicks_follow_from_the_click_probability(run, rule):
    sessions = run(rule, 0.7)
    slates = sessions.length.sum()
    rate = sessions.clicks.sum() / (K * slates)
    assert abs(rate - 0.7) < 5 * np.sqrt(0.21 / (K * slates))
    broken = sessions.broken.sum() / slates
    assert abs(sessions.length.mean() - expected_length(T0, rate, broken)) < 0.3
    # Each session ends in the step in which all but less than one step of its temper is spent.
    spent = 2 * K * sessions.length - sessions.clicks + K * sessions.broken
    assert np.all(spent > K * (T0 - 1))
    assert np.all(spent <= K * (T0 - 1) + 3 * K)


def test_uniform_slates_are_hypergeometric(run):
    sessions = run("uniform", 0.7)
    slates = sessions.length.sum()
    popular = stats.hypergeom(NUM_ITEMS, len(POPULAR), K)
    values = np.arange(K + 1)
    broken = 1 - popular.pmf(K // 2)
    assert abs(sessions.broken.sum() / slates - broken) < 5 * np.sqrt(broken * (1 - broken) / slates)
    imbalance = np.abs(2 * values - K) @ popular.pmf(values)
    spread = np.sqrt(np.square(np.abs(2 * values - K) - imbalance) @ popular.pmf(values))
    assert abs(sessions.imbalance.sum() / slates - imbalance) < 5 * spread / np.sqrt(slates)
    assert abs(sessions.popular.sum() / slates - popular.mean()) < 5 * popular.std() / np.sqrt(slates)
    counts = sessions.item_count / (K * slates)
    assert np.all(np.abs(counts - 1 / NUM_ITEMS) < 5 * np.sqrt(1 / NUM_ITEMS / (K * slates)))


def test_two_rules_under_one_key_meet_the_same_users(run):
    """Users who click everything or nothing: the n-th session tells which user arrived, whatever was shown."""
    keen = (np.arange(NUM_USERS) % 2 == 0)[:, None].astype(float)
    first, second = run("quota", keen, 3), run("another_quota", keen, 3)
    assert set(first.length) == {15, 30}
    np.testing.assert_array_equal(first.length, second.length)
    assert not np.array_equal(first.item_count, second.item_count)
    assert not np.array_equal(first.length, run("quota", keen, 4).length)


def test_seeds_under_vmap_equal_seeds_one_by_one(run):
    keys = jax.random.split(jax.random.key(8), 2)
    world = make_world(0.5)

    def one(key):
        return run_sessions(
            key, uniform, environment_of(Config(environment=CONFIG)), world, num_sessions=500, num_users=128
        )

    together = jax.device_get(jax.jit(jax.vmap(one))(keys))
    for i, key in enumerate(keys):
        alone = run("uniform", 0.5, key)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), together, alone)


@jax.jit
def reset_users(world):
    reset = jax.vmap(environment_of(Config(environment=CONFIG)).reset, in_axes=(0, None))
    return reset(jax.random.split(jax.random.key(2), 8), world)


@pytest.mark.parametrize("slate_size", [6, 5])
def test_the_oracle_shows_each_users_most_probable_items_of_each_group(slate_size):
    probability = np.random.default_rng(0).random((NUM_USERS, NUM_ITEMS)).astype(np.float32)
    world = make_world(probability)
    observation, env = reset_users(world)
    environment = environment_of(Config(environment=replace(CONFIG, slate_size=slate_size)))
    act = jax.jit(oracle_rule(environment, world))
    slates = np.asarray(act(jax.random.key(0), env, observation)[0])
    for user, slate in zip(np.asarray(env.user), slates, strict=True):
        best = sorted(range(NUM_ITEMS), key=lambda i, u=user: -probability[u, i])
        popular = [i for i in best if IS_POPULAR[i]][: slate_size // 2]
        tail = [i for i in best if not IS_POPULAR[i]][: slate_size - slate_size // 2]
        assert set(slate.tolist()) == {*popular, *tail}


@pytest.mark.parametrize("greedy", [True, False])
def test_an_agent_sees_the_view_and_the_worlds_items_and_acts_as_asked(greedy):
    seen = {}

    def perceive(perception, key, observation):
        state = observation.history.length[:, None].astype(jnp.float32)
        return View(state=state, observed=-state, time=observation.time)

    def act(state, key, view, catalogue, greedy):
        seen.update(state=state, view=view, catalogue=catalogue, greedy=greedy)
        return jnp.full((8, K), 3), "record"

    world = make_world(0.5).replace(item=jnp.arange(NUM_ITEMS)[::-1])
    embeddings = Embeddings(jnp.arange(2.0 * NUM_ITEMS).reshape(NUM_ITEMS, 2), jnp.arange(1.0 * NUM_ITEMS))
    perception = Perception(EncoderParams(embeddings, ()), ())
    observation, env = reset_users(world)
    agent = Agent(init=None, act=act, update=None)
    rule = agent_rule(agent, "learnt", perceive, world, perception, greedy=greedy)
    slate, _ = rule(jax.random.key(0), env, observation)
    assert np.all(slate == 3)
    assert seen["state"] == "learnt"
    assert seen["greedy"] is greedy
    np.testing.assert_array_equal(seen["view"].observed[:, 0], -observation.history.length)
    np.testing.assert_array_equal(seen["catalogue"].bias, np.arange(NUM_ITEMS)[::-1])
