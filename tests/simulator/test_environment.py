"""The environment against an independent Python one: one user at a time, rational temper, lists for
histories."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsrm_jax.config import Config, EnvironmentConfig
from dsrm_jax.errors import InputError
from dsrm_jax.runs.pieces import environment_of
from dsrm_jax.simulator.environment import check_world
from dsrm_jax.simulator.history import history_before
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import SessionStarts, World

NUM_ITEMS, NUM_USERS, B = 40, 6, 8
# Rows per user: none, one, fewer and more than the histories below hold.
ROWS = [3, 0, 1, 17, 9, 4]
CONFIG = EnvironmentConfig(slate_size=4, max_len=8, history_length=7, ad_bound=0.5)


def environment_with(config):
    return environment_of(Config(environment=config))


def make_starts():
    rng = np.random.default_rng(2)
    user = np.repeat(np.arange(NUM_USERS), ROWS).astype(np.int32)
    return SessionStarts(
        user=jnp.asarray(user),
        item=jnp.asarray(rng.permutation(np.arange(100, 100 + len(user))), jnp.int32),
        click=jnp.asarray(rng.random(len(user)) < 0.5),
        first=jnp.asarray(np.concatenate([[0], np.cumsum(ROWS)]), jnp.int32),
    )


def make_world(response):
    return World(
        response=response,
        starts=make_starts(),
        item=jnp.asarray(500 + 3 * np.arange(NUM_ITEMS), jnp.int32),
        is_popular=jnp.asarray(np.arange(NUM_ITEMS) % 2 == 0),
        log_popularity=jnp.zeros(NUM_ITEMS),
    )


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(3).random((NUM_USERS, NUM_ITEMS)).astype(np.float32)


@pytest.fixture(scope="module")
def world(table):
    return make_world(TableResponse(jnp.asarray(table)))


@pytest.fixture(scope="module")
def certain_world(table):
    """Every click is certain or impossible, so that what happens does not depend on keys."""
    return make_world(TableResponse(jnp.asarray((table < 0.6).astype(np.float32))))


@cache
def compiled(config=CONFIG):
    """`(reset, step, step_auto_reset)` over a batch of users, compiled once per batch size."""
    env = environment_with(config)
    return (
        jax.jit(jax.vmap(env.reset, (0, None))),
        jax.jit(jax.vmap(env.step, (0, 0, 0, None))),
        jax.jit(jax.vmap(env.step_auto_reset, (0, 0, 0, None))),
    )


def arrivals(world, seed=0):
    """The opening states of B users."""
    return compiled()[0](jax.random.split(jax.random.key(seed), B), world)[1]


def first_user(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def random_slates(rng, shape, slate_size):
    count = int(np.prod(shape))
    slates = [rng.permutation(NUM_ITEMS)[:slate_size] for _ in range(count)]
    return np.asarray(slates, np.int32).reshape(*shape, slate_size)


@dataclass
class ReferenceSession:
    """The rules as the papers state them, with no array and no float."""

    config: EnvironmentConfig
    events: list
    temper: Fraction
    shown: list = field(default_factory=list)
    clicked: list = field(default_factory=list)
    length: int = 0
    broken: int = 0

    def step(self, items, is_popular, clicks):
        reward = Fraction(sum(clicks), len(clicks))
        share = Fraction(sum(is_popular), len(is_popular))
        penalised = abs(2 * share - 1) >= Fraction(str(self.config.ad_bound))
        self.temper += max(min(reward - 2, Fraction(0)), Fraction(-2))
        self.temper -= self.config.ad_penalty * penalised
        self.events = (self.events + list(zip(items, clicks, strict=True)))[-self.config.history_length :]
        self.shown += is_popular
        self.clicked += clicks
        self.length += 1
        self.broken += penalised
        left = self.temper < 1
        cut = not left and 0 < self.config.step_cap <= self.length
        return reward, share, penalised, left, cut


def check_history(history, events, length):
    padded = [(0, False)] * (length - len(events)) + list(events)
    assert [int(i) for i in history.item] == [i for i, _ in padded]
    assert [bool(c) for c in history.click] == [c for _, c in padded]
    assert int(history.length) == len(events)


def prior_events(starts, row, length):
    user = int(starts.user[row])
    rows = [k for k in range(row) if int(starts.user[k]) == user][-length:]
    return [(int(starts.item[k]), bool(starts.click[k])) for k in rows]


@pytest.mark.parametrize("length", [1, 7, 60])
def test_history_at_arrival_is_the_users_earlier_rows(length):
    """Every row of the log, hence every user boundary, users shorter than H, and H beyond the whole log."""
    starts = make_starts()
    rows = jnp.arange(sum(ROWS))
    histories = jax.jit(jax.vmap(lambda row: history_before(starts, row, length=length)))(rows)
    histories, starts = jax.device_get((histories, starts))
    for row in range(sum(ROWS)):
        one = jax.tree.map(lambda leaf, r=row: leaf[r], histories)
        check_history(one, prior_events(starts, row, length), length)


def test_sessions_start_from_uniformly_drawn_rows(world):
    num_sessions = 6000
    observation, state = compiled()[0](jax.random.split(jax.random.key(5), num_sessions), world)
    count = np.bincount(state.user, minlength=NUM_USERS)
    assert count[1] == 0, "a user without rows never arrives"
    expected = np.asarray(ROWS) * num_sessions / sum(ROWS)
    present = expected > 0
    assert stats.chisquare(count[present], expected[present]).pvalue > 1e-3
    # Within a user, each of the rows is as likely as the others: user 5 has 4, told apart by the length.
    lengths = np.bincount(np.asarray(observation.history.length)[np.asarray(state.user) == 5])
    assert stats.chisquare(lengths).pvalue > 1e-3
    assert np.all(np.asarray(state.temper) == CONFIG.slate_size * CONFIG.max_len)
    for name in ("time", "clicks", "popular", "broken"):
        assert not np.any(getattr(state, name)), name


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, slate_size=5, ad_bound=0.2, ad_penalty=2, max_len=15, history_length=3),
        replace(CONFIG, slate_size=1, ad_penalty=0, max_len=10, step_cap=6),
    ],
    ids=["plain", "slate longer than history, double penalty", "single item, capped"],
)
def test_trajectories_follow_the_reference_step_by_step(config, world):
    rng = np.random.default_rng(11)
    reset, step, _ = compiled(config)
    observation, state = reset(jax.random.split(jax.random.key(1), B), world)
    observation, items_of, popular_of = jax.device_get((observation, world.item, world.is_popular))
    sessions = []
    for u in range(B):
        length = int(observation.history.length[u])
        events = list(zip(observation.history.item[u], observation.history.click[u], strict=True))
        events = [(int(i), bool(c)) for i, c in events][config.history_length - length :]
        sessions.append(ReferenceSession(config, events, Fraction(config.max_len)))
    over = [False] * B
    for t in range(config.max_len):
        slates = random_slates(rng, (B,), config.slate_size)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(2), t), B)
        user = state.user
        result = step(keys, state, jnp.asarray(slates), world)
        observation, state, reward, terminated, truncated, info = jax.device_get(result)
        np.testing.assert_array_equal(state.user, user)
        for u, session in enumerate(sessions):
            items = [int(items_of[j]) for j in slates[u]]
            is_popular = [bool(popular_of[j]) for j in slates[u]]
            clicks = [bool(c) for c in info["clicks"][u]]
            expected, share, penalised, left, cut = session.step(items, is_popular, clicks)
            assert Fraction(int(state.temper[u]), config.slate_size) == session.temper
            assert float(reward[u]) == pytest.approx(float(expected), rel=1e-6)
            assert float(info["popular_share"][u]) == pytest.approx(float(share), rel=1e-6)
            assert bool(info["broken"][u]) == penalised
            assert (bool(terminated[u]), bool(truncated[u])) == (left, cut)
            assert bool(info["ended"][u]) == (left or cut)
            assert int(observation.time[u]) == session.length == int(info["session_length"][u])
            one = jax.tree.map(lambda leaf, i=u: leaf[i], observation.history)
            check_history(one, session.events, config.history_length)
            mean_shown = sum(session.shown) / len(session.shown)
            total = sum(session.clicked) / config.slate_size
            assert float(info["session_return"][u]) == pytest.approx(total, rel=1e-6)
            assert float(info["session_popular_share"][u]) == pytest.approx(mean_shown, rel=1e-6)
            assert float(info["session_broken_share"][u]) == pytest.approx(session.broken / session.length)
            over[u] |= left or cut
    assert all(over), "every session should have ended within max_len steps"


def test_events_that_the_training_log_did_not_choose_are_counted(world):
    """All slates of the session, and everything that a user whose rows are another log's arrived with."""
    reset, step, _ = compiled()
    logged = jnp.arange(NUM_USERS) != 3
    mixed = world.replace(starts=world.starts.replace(logged=logged))
    observation, state = reset(jax.random.split(jax.random.key(3), B), mixed)
    stranger = np.asarray(state.user) == 3
    assert stranger.any()
    assert not stranger.all()
    arrived = np.where(stranger, observation.history.length, 0)
    np.testing.assert_array_equal(observation.unlogged, arrived)
    for t in range(1, 3):
        observation, state, *_ = step(jax.random.split(jax.random.key(t), B), state, jnp.zeros((B, 4), int), mixed)
        np.testing.assert_array_equal(observation.unlogged, np.minimum(arrived + 4 * t, CONFIG.history_length))


@cache
def repeated_clicks(config):
    """`(keys (n,), state, slate, world) -> clicks (n, K)` of one user, compiled once."""
    step = environment_with(config).step
    return jax.jit(jax.vmap(lambda *arguments: step(*arguments)[5]["clicks"], (0, None, None, None)))


def draw_clicks(config, world, slate, user, num_draws=20000):
    state = first_user(arrivals(world)).replace(user=jnp.int32(user))
    keys = jax.random.split(jax.random.key(7), num_draws)
    return np.asarray(repeated_clicks(config)(keys, state, slate, world))


def test_clicks_are_drawn_with_the_models_probability(world, table):
    slate = jnp.array([39, 0, 12, 12])
    frequency = draw_clicks(CONFIG, world, slate, user=4).mean(axis=0)
    expected = table[4, [39, 0, 12, 12]].astype(np.float64)
    assert np.all(np.abs(frequency - expected) < 4.5 * np.sqrt(expected * (1 - expected) / 20000))


def test_double_sigmoid_lifts_impossible_and_lowers_certain_clicks(certain_world):
    certain = np.asarray(certain_world.response.probability[3])
    slate = jnp.array([*np.flatnonzero(certain == 0)[:2], *np.flatnonzero(certain == 1)[:2]])
    clicks = draw_clicks(CONFIG, certain_world, slate, 3)
    np.testing.assert_array_equal(clicks.mean(axis=0), [0, 0, 1, 1])
    doubled = draw_clicks(replace(CONFIG, double_sigmoid=True), certain_world, slate, 3)
    np.testing.assert_allclose(doubled.mean(axis=0), [0.5, 0.5, 0.731059, 0.731059], atol=0.016)


def test_position_bias_takes_a_factor_from_one_slot_to_the_next(world, table):
    frequency = draw_clicks(replace(CONFIG, position_bias=0.6), world, jnp.array([39, 0, 12, 12]), user=4).mean(axis=0)
    expected = table[4, [39, 0, 12, 12]].astype(np.float64) * [1, 0.6, 0.36, 0.216]
    assert np.all(np.abs(frequency - expected) < 4.5 * np.sqrt(expected * (1 - expected) / 20000))


def test_clicks_of_one_slate_are_independent():
    flat = make_world(TableResponse(jnp.full((NUM_USERS, NUM_ITEMS), 0.5)))
    pattern = draw_clicks(CONFIG, flat, jnp.arange(4), user=0) @ (1 << np.arange(4))
    assert stats.chisquare(np.bincount(pattern, minlength=16)).pvalue > 1e-3


def test_auto_reset_begins_a_session_and_keeps_the_leavers_last_observation(certain_world):
    _, step, step_auto_reset = compiled()
    rng = np.random.default_rng(4)
    state = arrivals(certain_world, seed=1)
    starts = jax.device_get(certain_world.starts)
    openings = {
        (int(starts.user[row]), tuple(prior_events(starts, row, CONFIG.history_length))) for row in range(sum(ROWS))
    }
    num_ended = 0
    for t in range(2 * CONFIG.max_len):
        slates = jnp.asarray(random_slates(rng, (B,), CONFIG.slate_size))
        keys = jax.random.split(jax.random.fold_in(jax.random.key(9), t), B)
        plain = jax.device_get(step(keys, state, slates, certain_world))
        auto = jax.device_get(step_auto_reset(keys, state, slates, certain_world))
        chex.assert_trees_all_equal(auto[2:5], plain[2:5])
        chex.assert_trees_all_equal(auto[5].pop("final_observation"), plain[0])
        chex.assert_trees_all_equal(auto[5], plain[5])
        for u in range(B):
            observation, new, stayed = jax.tree.map(lambda leaf, i=u: leaf[i], (auto[0], auto[1], plain[1]))
            chex.assert_trees_all_equal(observation.history, new.history)
            if not plain[5]["ended"][u]:
                chex.assert_trees_all_equal(new, stayed)
                continue
            num_ended += 1
            assert int(new.temper) == CONFIG.slate_size * CONFIG.max_len
            assert [int(x) for x in (new.time, new.clicks, new.popular, new.broken)] == [0] * 4
            assert int(observation.time) == 0
            length = int(new.history.length)
            events = zip(new.history.item.tolist(), new.history.click.tolist(), strict=True)
            assert (int(new.user), tuple(events)[CONFIG.history_length - length :]) in openings
        state = auto[1]
    assert num_ended >= 2 * B


@pytest.mark.parametrize(("step_cap", "can_truncate"), [(0, False), (3, True), (8, False), (99, False)])
def test_only_a_cap_below_max_len_truncates(step_cap, can_truncate):
    env = environment_with(replace(CONFIG, step_cap=step_cap))
    assert env.can_truncate is can_truncate
    assert env.max_steps == (3 if can_truncate else CONFIG.max_len)


def test_leaving_at_the_cap_is_termination_and_staying_is_truncation(world):
    """T0 = 4 without penalty: two steps without a click are the end, two with every click are not."""
    config = replace(CONFIG, max_len=4, step_cap=2, ad_penalty=0)
    step = jax.jit(environment_with(config).step)
    for probability, expected in ((0.0, (True, False)), (1.0, (False, True))):
        flat = make_world(TableResponse(jnp.full((NUM_USERS, NUM_ITEMS), probability)))
        state = first_user(arrivals(world)).replace(temper=jnp.int32(4 * 4))
        flags = []
        for t in range(2):
            result = step(jax.random.key(t), state, jnp.arange(4), flat)
            state = result[1]
            flags.append((bool(result[3]), bool(result[4])))
        assert flags == [(False, False), expected]


def test_no_key_is_used_twice(world):
    """`step_auto_reset` consists of `step` and `reset`, each of which gets a key of its own."""
    env = environment_with(replace(CONFIG, slate_correlation=0.2, double_sigmoid=True))
    state = first_user(arrivals(world))
    with jax.debug_key_reuse(True):
        jax.block_until_ready(jax.jit(env.step_auto_reset)(jax.random.key(1), state, jnp.arange(4), world))


def test_same_key_same_step_and_another_key_another(world):
    step, state = compiled()[1], arrivals(world)
    keys, others = jax.random.split(jax.random.key(1), B), jax.random.split(jax.random.key(2), B)
    slates = jnp.tile(jnp.arange(4), (B, 1))
    flat = make_world(TableResponse(jnp.full((NUM_USERS, NUM_ITEMS), 0.5)))
    chex.assert_trees_all_equal(step(keys, state, slates, flat), step(keys, state, slates, flat))
    first, second = (np.asarray(step(k, state, slates, flat)[5]["clicks"]) for k in (keys, others))
    assert np.any(first != second)
    assert len(np.unique(first, axis=0)) > 2, "users of a batch must not share their draws"


def test_a_batch_is_a_loop_over_users(world):
    keys, state = jax.random.split(jax.random.key(4), B), arrivals(world).replace(temper=jnp.arange(6, 14))
    slates = jnp.asarray(random_slates(np.random.default_rng(8), (B,), 4))
    batched = jax.device_get(compiled()[2](keys, state, slates, world))
    assert 0 < np.sum(batched[3]) < B, "some should leave and some stay"
    alone = jax.jit(environment_with(CONFIG).step_auto_reset)
    for u in range(B):
        one_state, one = jax.tree.map(lambda leaf, i=u: leaf[i], (state, batched))
        chex.assert_trees_all_close(alone(keys[u], one_state, slates[u], world), one, rtol=1e-6)


def test_worlds_slates_and_keys_do_not_retrace(world, certain_world):
    step = jax.jit(chex.assert_max_traces(environment_with(CONFIG).step_auto_reset, n=1))
    state = first_user(arrivals(world))
    for t, w in enumerate((world, certain_world, world)):
        _, state, *_ = step(jax.random.key(t), state, jnp.arange(t, t + 4, dtype=jnp.int32), w)


def test_a_swept_bound_and_correlation_equal_separate_environments(world):
    settings = ((0.5, 0.0), (0.6, 0.3))
    configs = [replace(CONFIG, ad_bound=bound, slate_correlation=weight) for bound, weight in settings]
    keys, state = jax.random.split(jax.random.key(6), B), arrivals(world)
    slates = jnp.array([[0, 2, 4, 1], [0, 1, 2, 3], [1, 3, 5, 7], [0, 2, 4, 6]] * 2)

    def run(config):
        return jax.vmap(environment_with(config).step, (0, 0, 0, None))(keys, state, slates, world)

    swept = jax.jit(jax.vmap(run))(jax.tree.map(lambda *leaves: jnp.asarray(leaves), *configs))
    separate = [jax.jit(partial(run, config))() for config in configs]
    separate = jax.tree.map(lambda *leaves: np.stack(leaves), *separate)
    chex.assert_trees_all_close(swept, separate, rtol=1e-6)
    broken = [[True, False, True, True] * 2, [False, False, True, True] * 2]
    np.testing.assert_array_equal(swept[5]["broken"], broken)


def test_observations_and_state_are_32_bit(world):
    keys, state = jax.random.split(jax.random.key(0), B), arrivals(world)
    result = compiled()[1](keys, state, jnp.zeros((B, 4), jnp.int32), world)
    allowed = {jnp.dtype(t) for t in (jnp.int32, jnp.float32, jnp.bool_)}
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} <= allowed
    chex.assert_trees_all_equal_shapes_and_dtypes(state, result[1])


def test_observation_space_holds_every_observation_and_action_space_the_right_slates(world):
    env = environment_with(CONFIG)
    space = env.observation_space(world)
    keys = jax.random.split(jax.random.key(3), B)
    observation, state = compiled()[0](keys, world)
    assert bool(space.contains(first_user(observation)))
    observation, *_ = compiled()[1](keys, state, jnp.tile(jnp.arange(4), (B, 1)), world)
    assert bool(space.contains(first_user(observation)))
    assert not bool(space.contains(first_user(observation).replace(time=jnp.int32(9))))
    assert env.action_space(world).shape == (4,)
    assert bool(env.action_space(world).contains(jnp.array([39, 0, 1, 2])))
    assert not bool(env.action_space(world).contains(jnp.array([40, 0, 1, 2])))


def test_a_world_that_does_not_fit_is_refused_in_one_sentence(world):
    large = replace(CONFIG, slate_size=41)
    message = "slate_size is 41 but the catalogue holds 40 items"
    for call in (
        lambda: check_world(world, slate_size=41),
        lambda: environment_with(large).reset(jax.random.key(0), world),
    ):
        with pytest.raises(InputError, match=message):
            call()
    empty = jax.tree.map(lambda leaf: leaf[:0], make_starts())
    with pytest.raises(InputError, match="no log rows"):
        check_world(world.replace(starts=empty), slate_size=4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slate_size", 0),
        ("max_len", 0),
        ("history_length", 0),
        ("ad_bound", -0.1),
        ("ad_bound", 1.5),
        ("ad_bound", float("nan")),
        ("ad_penalty", -1),
        ("slate_correlation", -0.2),
        ("position_bias", 1.1),
        ("step_cap", -3),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=rf"environment\.{name} is"):
        environment_with(replace(CONFIG, **{name: value}))


def test_a_slate_of_the_wrong_size_is_refused(world):
    state = first_user(arrivals(world))
    with pytest.raises(AssertionError):
        environment_with(CONFIG).step(jax.random.key(0), state, jnp.arange(5), world)
