"""From observations to views, and what Stage I learns from, in a world where an item gives its user away."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsrm_jax.config import Config, EncoderConfig, EnvironmentConfig, PurifierConfig
from dsrm_jax.evaluation.purification import probe_perception
from dsrm_jax.purify.blocks import ROWS as ROWS_OF_A_BLOCK
from dsrm_jax.purify.encoder import Embeddings, EncoderParams, Evidence, summarise
from dsrm_jax.purify.exposure import Exposure
from dsrm_jax.purify.leverage import leverage_of
from dsrm_jax.purify.perception import Perception, make_perceive, seed_axes, share_process
from dsrm_jax.purify.posterior import UserPosterior
from dsrm_jax.purify.purifier import Purifier, PurifierBatch
from dsrm_jax.purify.stage_one import fit_purifiers
from dsrm_jax.purify.targets import sample_states
from dsrm_jax.purify.windows import Windows
from dsrm_jax.runs.pieces import encoder_of, perceive_of, purifier_of
from dsrm_jax.simulator.environment import Observation
from dsrm_jax.simulator.world import History, SessionStarts

NUM_USERS, ROWS, H, DIM = 6, 9, 8, 2
D = DIM + 1
CONFIG = Config(
    environment=EnvironmentConfig(history_length=H),
    encoder=EncoderConfig(dim=DIM),
    purifier=PurifierConfig(kind="guided", diffusion_steps=2, hidden=8, iterations=30, batch_size=32),
)
GUIDED = dataclasses.replace(CONFIG, purifier=dataclasses.replace(CONFIG.purifier, kind="guided"))
CODE = np.random.default_rng(0).normal(size=(NUM_USERS, D)).astype(np.float32)
CODE[:, -1] = 1.0
LEVERAGE = leverage_of(0.3 * jnp.eye(D))
TOLD = Exposure(jnp.zeros(D), jnp.zeros(D), 0.1 * jnp.eye(D), 0.01 * jnp.eye(D), jnp.float32(0.2))
KNOWN = UserPosterior(jnp.asarray(CODE), jnp.full(NUM_USERS, float(ROWS)), LEVERAGE, TOLD, jnp.ones(()))


@pytest.fixture(scope="module")
def starts():
    """User u is only ever shown item u, and clicks it."""
    user = np.repeat(np.arange(NUM_USERS), ROWS).astype(np.int32)
    return SessionStarts(
        jnp.asarray(user),
        jnp.asarray(user),
        jnp.ones(len(user), bool),
        jnp.arange(0, len(user) + 1, ROWS, dtype=jnp.int32),
    )


@pytest.fixture(scope="module")
def encoder_params():
    """Item vectors are their user's code, and the network hands on the clicked mean."""
    embeddings = Embeddings(jnp.asarray(CODE), jnp.zeros(NUM_USERS))
    shapes = jax.eval_shape(encoder_of(CONFIG).init, jax.random.key(0), embeddings)
    network = jax.tree.map(lambda x: jnp.eye(*x.shape) if len(x.shape) == 2 else jnp.zeros(x.shape), shapes.network)
    return EncoderParams(embeddings, network)


@pytest.fixture(scope="module")
def observation():
    rng = np.random.default_rng(1)
    history = History(
        jnp.asarray(rng.integers(0, NUM_USERS, (2, 3, H)), jnp.int32),
        jnp.asarray(rng.random((2, 3, H)) < 0.5),
        jnp.asarray(rng.integers(0, H + 1, (2, 3)), jnp.int32),
    )
    return Observation(history, jnp.arange(6, dtype=jnp.int32).reshape(2, 3), jnp.arange(6).reshape(2, 3) % 5)


def fit(keys, config, encoder_params, starts):
    modules = encoder_of(config), purifier_of(config)
    return fit_purifiers(keys, *modules, encoder_params, Windows(starts, H, 50), KNOWN)


def probing(config, perception, num_states=2000):
    """`probe_perception` of several seeds, as one program."""
    modules = encoder_of(config), purifier_of(config)

    def probe(key, perception, starts, known):
        return probe_perception(key, *modules, perception, Windows(starts, H), known, num_states=num_states)

    return jax.jit(jax.vmap(probe, in_axes=(None, seed_axes(perception), None, None), axis_size=3))


def draw(key, encoder_params, starts, mask_rate, rows=2000):
    encoder = encoder_of(CONFIG)
    sample = jax.jit(
        lambda key, mask_rate: sample_states(
            key, encoder, encoder_params, Windows(starts, H, H), KNOWN, mask_rate=mask_rate, batch_size=rows
        )
    )
    return jax.tree.map(np.asarray, sample(key, mask_rate))


def num_events(condition):
    return np.rint(np.expm1(condition[:, -1].astype(np.float64))).astype(int)


def test_states_and_targets_are_of_one_user(encoder_params, starts):
    batch = draw(jax.random.key(0), encoder_params, starts, 0.3)
    user = np.argmin(np.abs(batch.target[:, None] - CODE).sum(-1), axis=1)
    np.testing.assert_array_equal(batch.target, CODE[user])
    # n clicks on the user's own item have the mean n / (n + 1) of its code, n = 0..8 earlier rows
    share = batch.state[:, -1:]
    np.testing.assert_allclose(batch.state, share * CODE[user], atol=1e-6)
    clicks = np.rint(share[:, 0] / (1 - share[:, 0])).astype(int)
    assert stats.chisquare(np.bincount(clicks, minlength=ROWS)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(user, minlength=NUM_USERS)).pvalue > 1e-3


def test_rows_of_another_log_are_not_read_as_the_training_logs_choice(encoder_params, starts):
    """Every user with an odd number: what their history shows counts by its clicks alone."""
    odd = jnp.arange(NUM_USERS) % 2 == 1
    batch = draw(jax.random.key(0), encoder_params, starts.replace(logged=~odd), 0.0)
    user = np.argmin(np.abs(batch.target[:, None] - CODE).sum(-1), axis=1)
    shown, logged = batch.condition.shown, batch.condition.logged
    np.testing.assert_array_equal(logged, shown & (user % 2 == 0)[:, None])
    assert shown[user % 2 == 1].any()


def test_a_view_hides_a_share_of_events_that_is_uniform_up_to_twice_the_rate(encoder_params, starts):
    rate = 0.3
    batch = draw(jax.random.key(1), encoder_params, starts, rate)
    whole = np.rint(batch.state[:, -1] / (1 - batch.state[:, -1])).astype(int)
    seen = num_events(batch.condition.summary)
    full = whole == H
    # P(n of 8 seen) = mean over u in [0, .6] of Binomial(8, 1 - u), by quadrature
    share = 1 - 2 * rate * (np.arange(2000) + 0.5) / 2000
    expected = stats.binom.pmf(np.arange(H + 1)[:, None], H, share).mean(1) * full.sum()
    observed = np.bincount(seen[full], minlength=H + 1)
    few = expected < 5
    observed, expected = (np.append(x[~few], x[few].sum()) for x in (observed, expected))
    assert np.all(seen <= whole)
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_nothing_is_hidden_at_rate_zero_and_all_of_a_view_is_its_users(encoder_params, starts):
    batch = draw(jax.random.key(2), encoder_params, starts, 0.0)
    np.testing.assert_allclose(batch.condition.summary[:, :D], batch.state, atol=1e-6)
    masked = draw(jax.random.key(2), encoder_params, starts, 0.5)
    np.testing.assert_array_equal(masked.state, batch.state)  # the state itself is never masked
    share = masked.condition.summary[:, D - 1 : D]
    np.testing.assert_allclose(masked.condition.summary[:, :D], share * masked.target, atol=1e-6)


def test_a_view_is_the_purified_encoding_of_the_history(encoder_params, observation):
    config = dataclasses.replace(CONFIG, purifier=dataclasses.replace(CONFIG.purifier, kind="paper"))
    encoder, purifier = encoder_of(config), purifier_of(config)
    summary = np.asarray(jax.jit(summarise)(encoder_params.embeddings, observation.history))
    rows = summary.reshape(-1, summary.shape[-1])
    states = np.float32(np.random.default_rng(2).normal(size=(6, D)))
    params = jax.jit(purifier.init)(jax.random.key(3), PurifierBatch(states, Evidence(summary=rows), 2 * states))
    # an untrained denoiser looks at nothing
    shaken = jax.tree.map(
        lambda x: x + np.float32(0.3 * np.cos(np.arange(x.size)).reshape(x.shape)), jax.device_get(params.network)
    )
    params = dataclasses.replace(params, network=shaken)
    perception = Perception(encoder_params, params)
    view = jax.jit(perceive_of(config))(perception, jax.random.key(4), observation)
    observed = np.asarray(jax.jit(encoder.encode)(encoder_params, summary))
    np.testing.assert_allclose(view.observed, observed, atol=1e-6)
    # purified one user at a time, as no batch can mix users
    purify = jax.jit(purifier.purify)
    for index in np.ndindex(2, 3):
        expected = purify(params, None, observed[index], Evidence(summary=summary[index]))
        np.testing.assert_allclose(view.state[index], expected, atol=1e-5)
    assert np.max(np.abs(view.state - view.observed)) > 0.1
    np.testing.assert_array_equal(view.time, observation.time)


def test_only_events_that_the_training_log_chose_are_read_as_its_choice(encoder_params, observation):
    """The last `unlogged` ones are not; of n events the log chose n - unlogged, or none."""
    seen = []
    spy = Purifier(None, None, lambda params, key, state, evidence: seen.append(evidence.logged) or state)

    @jax.jit
    def logged(observation):
        make_perceive(encoder_of(CONFIG), spy)(Perception(encoder_params, {}), None, observation)
        return seen[0]

    logged = np.asarray(logged(observation))
    length, unlogged = np.asarray(observation.history.length), np.asarray(observation.unlogged)
    np.testing.assert_array_equal(np.sum(logged, -1), np.maximum(length - unlogged, 0))
    assert not np.any(logged & (np.arange(H) >= H - unlogged[..., None]))


def test_a_long_batch_is_perceived_as_its_rows_are_and_one_draw_of_noise_serves_it_all(encoder_params, observation):
    """More rows than a block holds: a deterministic purifier gives what it gives row by row, a drawing one repeats no noise."""
    purifier = purifier_of(GUIDED)
    one = jax.tree.map(lambda x: np.asarray(x)[0, 0], observation)
    rows = 2 * ROWS_OF_A_BLOCK + 1
    many = jax.tree.map(lambda x: np.broadcast_to(x, (rows, *x.shape)), one)
    many = many.replace(unlogged=np.arange(rows, dtype=np.int32) % 3)
    states = np.float32(np.random.default_rng(2).normal(size=(50, D)))
    batch = PurifierBatch(states, Evidence(summary=np.zeros((50, 4 * D + 2), np.float32)), states)
    params = purifier.inform(jax.jit(purifier.init)(jax.random.key(3), batch), TOLD)
    perception = Perception(encoder_params, params)
    perceive = jax.jit(perceive_of(GUIDED))
    whole = np.asarray(perceive(perception, None, many).state)
    for i in (0, 1, 2, rows - 1):
        alone = jax.tree.map(lambda x, i=i: x[i : i + 1], many)
        expected = perceive(perception, None, alone).state
        np.testing.assert_allclose(whole[i : i + 1], expected, atol=1e-5)
    noisy = dataclasses.replace(GUIDED, purifier=dataclasses.replace(GUIDED.purifier, noise_scale=1.0))
    same = many.replace(unlogged=np.zeros(rows, np.int32))
    drawn = np.asarray(jax.jit(perceive_of(noisy))(perception, jax.random.key(0), same).state)
    assert len(np.unique(drawn.round(5), axis=0)) == rows


def test_the_identity_purifier_hands_the_observed_state_on(encoder_params, starts, observation):
    config = dataclasses.replace(CONFIG, purifier=dataclasses.replace(CONFIG.purifier, kind="identity"))
    keys = jax.random.split(jax.random.key(0), 3)
    params, _ = fit(keys, config, encoder_params, starts)
    perception = Perception(encoder_params, params)
    view = jax.jit(perceive_of(config))(perception, keys[0], observation)
    np.testing.assert_array_equal(view.state, view.observed)
    probes = probing(config, perception, 50)(keys[1], perception, starts, KNOWN)
    for name, value in {"change": 0.0, "cka": 1.0, "recovery": 0.0}.items():
        np.testing.assert_allclose(probes[name], [value] * 3, atol=1e-5)


@pytest.mark.slow
def test_seeds_trained_together_learn_what_each_learns_alone(encoder_params, starts):
    keys = jax.random.split(jax.random.key(5), 2)
    together, losses = fit(keys, CONFIG, encoder_params, starts)
    alone, loss = fit(keys[1:], CONFIG, encoder_params, starts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b[0], rtol=1e-4, atol=1e-5), together, alone)
    np.testing.assert_allclose(losses[1], loss[0], rtol=1e-4)
    assert np.all(np.abs(np.asarray(losses[0]) - np.asarray(losses[1])) > 1e-6)  # two seeds, two purifiers


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["guided", "conditional"])
def test_kinds_train_and_purify_under_one_interface(kind, encoder_params, starts, observation):
    settings = dataclasses.replace(CONFIG.purifier, kind=kind, diffusion_steps=4)
    config = dataclasses.replace(CONFIG, purifier=settings)
    keys = jax.random.split(jax.random.key(0), 3)
    params, losses = fit(keys, config, encoder_params, starts)
    assert np.isfinite(losses).all()
    perception = Perception(encoder_params, jax.tree.map(lambda x: x[0], params))
    view = jax.jit(perceive_of(config))(perception, None, observation)
    assert view.state.shape == view.observed.shape
    assert np.isfinite(view.state).all()
    perception = share_process(purifier_of(config), Perception(encoder_params, params))
    probe = probing(config, perception)
    probes = probe(keys[1], perception, starts, KNOWN)
    for changes in ({"diffusion_steps": 3}, {"schedule": "cosine"}) if kind == "guided" else ():
        other = dataclasses.replace(config, purifier=dataclasses.replace(settings, **changes))
        moved = probe(keys[1], share_process(purifier_of(other), perception), starts, KNOWN)
        assert np.abs(np.asarray(moved["change"]) - np.asarray(probes["change"])).max() > 1e-6
    assert probe._cache_size() == 1  # one program serves all processes
    # an unconditional prior cannot contain the target
    assert ("leak" in probes) == (kind == "guided")
    if kind == "guided":
        for own, told in zip(jax.tree.leaves(params.exposure), jax.tree.leaves(TOLD), strict=True):
            np.testing.assert_array_equal(own, np.broadcast_to(told, own.shape))
        assert np.all(np.asarray(probes["leak"]) > 0.2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_prior_of_guided_is_as_wide_as_preferences_and_not_as_their_estimates(starts, encoder_params):
    """Targets are draws of each user's posterior: their covariance is that of the embeddings plus the posteriors' mean."""
    config = dataclasses.replace(
        CONFIG, purifier=dataclasses.replace(CONFIG.purifier, kind="guided", iterations=1, batch_size=4000)
    )
    key = jax.random.key(0)
    params, _ = fit(key[None], config, encoder_params, starts)
    factor = np.asarray(params.target.factor[0], np.float64)
    posterior = np.asarray(LEVERAGE.solve(jnp.eye(D), jnp.full(D, float(ROWS))), np.float64)
    expected = np.cov(CODE.T, bias=True) + posterior
    np.testing.assert_allclose(factor @ factor.T, expected, atol=0.05 * np.trace(expected))
