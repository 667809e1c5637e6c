"""A toy: 4 interest axes and 1 popularity axis in 16 dimensions, linear and Gaussian."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.config import PurifierConfig
from dsrm_jax.errors import InputError
from dsrm_jax.evaluation.purification import change, oracle_recovery
from dsrm_jax.purify.diffusion_model import make_diffusion_model
from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.kinds import make_purifier
from dsrm_jax.purify.paper import of_state
from dsrm_jax.purify.process import Diffusion, padded, start_level
from dsrm_jax.purify.purifier import Learning, PurifierBatch
from dsrm_jax.purify.schedule import make_schedule
from dsrm_jax.purify.stage_one import fit_purifier

D = 16
TOLD = PurifierConfig(kind="told", diffusion_steps=10, schedule="cosine", hidden=64)
PAPER = dataclasses.replace(TOLD, kind="paper")
ALONE = dataclasses.replace(TOLD, kind="alone", schedule="linear", diffusion_steps=30, start_fraction=1 / 3)
AXES = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
INTERESTS = np.float32(AXES[:4] * [[1.5], [1.2], [1.0], [0.8]])
POPULARITY = np.float32(0.6 * AXES[0] + 0.8 * AXES[4])


@partial(jax.jit, static_argnames="rows")
def toy(key, rows=256):
    """Return a batch and the clean states behind it."""
    draws = jax.random.normal(key, (rows, 5 + 3 * D))
    interest, conformity, *noise = jnp.split(draws, [4, 5, 5 + D, 5 + 2 * D], axis=-1)
    clean = interest @ INTERESTS
    state = clean + (1 + 1.5 * conformity) * POPULARITY + 0.4 * noise[0]
    target = clean + 0.5 * noise[1]
    condition = state + 0.3 * noise[2]
    return PurifierBatch(state, Evidence(summary=condition), target), clean


def sample_batch(key):
    return toy(key)[0]


def make(config):
    """Kinds of our own are models of the cleaner state: `told` the history's summary, or `alone`, of observed states."""
    if config.kind not in ("told", "alone"):
        return make_purifier(**vars(config))
    diffusion = Diffusion(**{name: getattr(config, name) for name in Diffusion._fields})
    learning = Learning(iterations=config.iterations, learning_rate=config.learning_rate, ema=config.ema)
    if config.kind == "alone":
        return make_diffusion_model(diffusion, learning, view=of_state)
    return make_diffusion_model(diffusion, learning, condition=lambda state, evidence: evidence.summary, dropout=0.1)


def fit(key, config):
    purifier = make(dataclasses.replace(config, iterations=600, learning_rate=5e-3, ema=0.99))
    return fit_purifier(key, purifier, sample_batch)


def purify(config, params, batch, key=None):
    return purify_of(config)(params, key, batch.state, batch.condition)


@cache
def purify_of(config):
    """One program for all tests that purify states of one shape by one configuration."""
    return jax.jit(make(config).purify)


def leak(config, params, batch):
    schedule = make_schedule(config.schedule, config.diffusion_steps)
    return jax.jit(make(config).leak)(params, jax.random.key(5), batch, schedule)


@pytest.fixture(scope="module")
def told_fit():
    """One compilation for every separate run; of 600 steps each, which LLVM's optimiser makes three times as fast."""
    return jax.jit(lambda key: fit(key, TOLD), compiler_options={"xla_backend_optimization_level": 1})


@pytest.fixture(scope="module")
def told_run(told_fit):
    """Parameters and losses."""
    return told_fit(jax.random.key(1))


@pytest.fixture(scope="module")
def told(told_run):
    return told_run[0]


@pytest.fixture(scope="module")
def paper():
    return fit(jax.random.key(1), PAPER)[0]


@pytest.fixture(scope="module")
def held_out():
    return toy(jax.random.key(2), 4000)


def regression_error(held_out):
    """Float64 least squares of target on condition on other rows: the optimum E[target | condition]."""
    train = jax.tree.map(lambda x: np.asarray(x, np.float64), toy(jax.random.key(3), 20000)[0])
    design = np.c_[train.condition.summary, np.ones(len(train.condition.summary))]
    weights = np.linalg.lstsq(design, train.target, rcond=None)[0]
    batch, clean = held_out
    return np.mean((np.c_[batch.condition.summary, np.ones(len(clean))] @ weights - clean) ** 2)


def test_a_model_that_is_told_the_history_comes_close_to_the_regression_optimum(told, held_out):
    batch, clean = held_out
    purified = purify(TOLD, told, batch)
    optimum = regression_error(held_out)
    assert np.mean((purified - clean) ** 2) < 1.06 * optimum
    assert oracle_recovery(batch.state, purified, clean) > 0.75
    assert change(batch.state, purified).relative > 0.2


def test_condition_does_not_leak_the_target(told, held_out):
    assert leak(TOLD, told, held_out[0])[0] > 0.2


def test_paper_form_falls_into_the_identity_trap(paper, held_out):
    """Condition = target = observed state: Eq. (7) falls far below the floor, nothing is purified."""
    batch, clean = held_out
    assert leak(PAPER, paper, batch)[0] < 0.2
    purified = purify(PAPER, paper, batch)
    assert change(batch.state, purified).relative < 0.02
    assert abs(oracle_recovery(batch.state, purified, clean)) < 0.02


def test_unconditional_projection_keeps_the_contamination(held_out):
    """Popularity is a leading direction of observed states, so the noise is shrunk and popularity is not."""
    params = fit(jax.random.key(1), ALONE)[0]
    batch, _ = held_out
    purified = purify(ALONE, params, batch)
    assert make(ALONE).process(params).start == 10
    direction = np.linalg.qr(np.c_[POPULARITY, np.asarray(INTERESTS).T])[0].T

    def share(states):
        variance = np.var(np.asarray(states) @ POPULARITY / np.linalg.norm(POPULARITY))
        return variance / np.sum(np.var(np.asarray(states), axis=0))

    assert share(purified) > 0.95 * share(batch.state)
    inside = np.sum(np.var(np.asarray(purified) @ direction.T, axis=0)) / np.sum(np.var(purified, axis=0))
    assert inside > np.sum(np.var(np.asarray(batch.state) @ direction.T, axis=0)) / np.sum(np.var(batch.state, axis=0))
    # what the evidence says is not read
    shuffled = PurifierBatch(batch.state, jax.tree.map(lambda x: x[::-1], batch.condition), batch.target)
    np.testing.assert_array_equal(purify(ALONE, params, shuffled), purified)


def test_few_implicit_steps_come_close_to_the_whole_chain(told, held_out):
    """The target given the condition is all but Gaussian here, where Eq. (3) over few levels would be off by more."""
    batch, clean = held_out
    short = dataclasses.replace(TOLD, sampler="ddim", sampling_steps=3)
    error = np.mean((purify(short, told, batch) - clean) ** 2)
    assert error < 1.1 * np.mean((purify(TOLD, told, batch) - clean) ** 2)


def test_identity_hands_the_state_on(held_out):
    batch, clean = held_out
    purifier = make(dataclasses.replace(TOLD, kind="identity"))
    params = purifier.init(jax.random.key(0), batch)
    purified = purifier.purify(params, None, batch.state, batch.condition)
    assert oracle_recovery(batch.state, purified, clean) == 0
    assert purifier.loss(params, jax.random.key(0), batch) == 0


def test_lower_start_keeps_more_of_the_observed_state(told, held_out):
    batch, _ = held_out

    def moved(fraction):
        purifier = make(dataclasses.replace(TOLD, start_fraction=fraction))
        return change(batch.state, purifier.purify(told, None, batch.state, batch.condition)).relative

    assert np.all(np.diff(jax.jit(jax.vmap(moved))(jnp.array([0.1, 0.3, 1.0]))) > 0)


def test_traced_start_and_noise_equal_static_ones(told, held_out):
    batch = jax.tree.map(lambda x: np.asarray(x)[:50], held_out[0])
    key = jax.random.key(9)
    config = dataclasses.replace(TOLD, noise_scale=0.5)
    fractions = jnp.array([0.3, 1.0])

    def purified(fraction):
        purifier = make(dataclasses.replace(config, start_fraction=fraction))
        return purifier.purify(told, key, batch.state, batch.condition)

    swept = jax.jit(jax.vmap(purified))(fractions)
    for fraction, got in zip((0.3, 1.0), swept, strict=True):
        expected = purify(dataclasses.replace(config, start_fraction=fraction), told, batch, key)
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_noise_scale_draws_from_the_key_and_zero_does_not(told, held_out):
    batch = jax.tree.map(lambda x: np.asarray(x)[:50], held_out[0])
    one, two = jax.random.split(jax.random.key(0))
    still = [purify(TOLD, told, batch, key) for key in (one, two)]
    np.testing.assert_array_equal(*still)
    noisy = dataclasses.replace(TOLD, noise_scale=1.0)
    drawn = [purify(noisy, told, batch, key) for key in (one, two, one)]
    assert np.abs(drawn[0] - drawn[1]).max() > 0.1
    np.testing.assert_array_equal(drawn[0], drawn[2])


def test_leading_dimensions_are_batch_dimensions(told, held_out):
    batch = jax.tree.map(lambda x: x[:12], held_out[0])
    folded = jax.tree.map(lambda x: x.reshape(3, 4, D), batch)
    flat = purify(TOLD, told, batch)
    np.testing.assert_allclose(purify(TOLD, told, folded).reshape(12, D), flat, rtol=1e-4, atol=1e-5)
    one = jax.tree.map(lambda x: x[0], batch)
    np.testing.assert_allclose(purify(TOLD, told, one), flat[0], rtol=1e-4, atol=1e-5)


def test_loss_is_eq_7_for_paper_and_its_velocity_form_for_guided(held_out):
    """A fresh network says v = 0, so both losses have a closed form."""
    batch = held_out[0]
    for config in (PAPER, TOLD):
        config = dataclasses.replace(config, schedule="rescaled", diffusion_steps=1)
        purifier = make(config)
        params = jax.jit(purifier.init)(jax.random.key(0), batch)
        # v = 0 predicts eps = sqrt(1 - abar) s^(1), off by sqrt(abar) v; v has variance 1 per coordinate.
        expected = 1e-3 if config.kind == "paper" else 1.0  # abar is 1e-3
        loss = jax.jit(purifier.loss)
        losses = [loss(params, key, batch) for key in jax.random.split(jax.random.key(1), 4)]
        np.testing.assert_allclose(np.mean(losses), expected, rtol=0.02)


def test_training_is_deterministic_and_leaves_the_normalisation_alone(told_fit, told_run):
    again, other = told_fit(jax.random.key(1)), told_fit(jax.random.key(5))
    jax.tree.map(np.testing.assert_array_equal, again, told_run)
    params, losses = told_run
    assert np.isfinite(losses).all()
    assert np.abs(losses - other[1]).max() > 0
    np.testing.assert_allclose(params.state.mean, POPULARITY, atol=0.15)
    variance = np.sum(INTERESTS**2, 0) + 2.25 * POPULARITY**2 + 0.16
    np.testing.assert_allclose(params.state.std, np.sqrt(variance), rtol=0.1)
    assert np.abs(params.network["params"]["output_layer"]["kernel"]).max() > 0


@pytest.mark.slow
def test_two_seeds_in_one_program_equal_separate_runs(told_fit):
    keys = jax.random.split(jax.random.key(6))
    together, _ = jax.jit(jax.vmap(lambda key: fit(key, TOLD)))(keys)
    for seed in range(2):
        alone, _ = told_fit(keys[seed])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[seed], b, rtol=0.05, atol=0.01)


def test_constant_coordinates_survive(held_out):
    """A coordinate that never varies, such as an unused bias, is handed back as it is."""
    batch = jax.tree.map(lambda x: np.c_[np.full(50, 2, np.float32), x[:50, 1:]], jax.device_get(held_out[0]))
    purifier = make(TOLD)
    params = jax.jit(purifier.init)(jax.random.key(0), batch)
    assert np.isfinite(jax.jit(purifier.loss)(params, jax.random.key(0), batch))
    np.testing.assert_array_equal(params.target.std[0], 1.0)
    np.testing.assert_allclose(purify(TOLD, params, batch)[:, 0], 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("fraction", "steps", "level"), [(1.0, 20, 20), (0.3, 20, 6), (0.35, 20, 7), (0.01, 20, 1), (1.0, 1, 1)]
)
def test_start_level_is_the_rounded_share(fraction, steps, level):
    diffusion = Diffusion(start_fraction=fraction, diffusion_steps=steps)
    assert start_level(diffusion) == level
    assert start_level(diffusion._replace(start_fraction=jnp.float32(fraction))) == level


def test_start_of_zero_is_the_highest_level(held_out):
    config, level = PurifierConfig(kind="guided", diffusion_steps=20), 20
    params = jax.jit(make(config).init)(jax.random.key(0), held_out[0])
    assert make(config).process(params).start == level
    traced = make(dataclasses.replace(config, start_fraction=jnp.float32(0.0)))
    assert traced.process(params).start == level


@pytest.mark.parametrize("kind", ["guided", "paper"])
def test_a_process_as_an_argument_is_the_configurations_own(kind):
    """One compiled program serves every schedule and number of steps, padded to the same length."""
    batch = toy(jax.random.key(1), 50)[0]
    events = np.random.default_rng(2).normal(size=(50, 6, D)).astype(np.float32)
    told = np.ones((50, 6), bool)
    evidence = batch.condition.replace(
        vectors=events, bias=np.zeros((50, 6), np.float32), click=events[..., 0] > 0, shown=told, logged=told
    )
    first = PurifierConfig(kind=kind, hidden=8, diffusion_steps=20)
    params = jax.jit(make(first).init)(jax.random.key(3), batch)
    network = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.1), params.network)  # the last layer starts at zero
    params = params.replace(network=network)
    serve = jax.jit(make(first).purify)
    traces = serve._cache_size
    for steps, schedule, fraction in ((7, "linear", 0.0), (40, "cosine", 0.5)):
        config = dataclasses.replace(first, diffusion_steps=steps, schedule=schedule, start_fraction=fraction)
        purifier = make(config)
        expected = jax.jit(purifier.purify)(params, None, batch.state, evidence)
        process = jax.jit(lambda params, purifier=purifier: padded(purifier.process(params), 64))(params)
        found = serve(params, None, batch.state, evidence, process)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        assert traces() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "guide"}, "did you mean 'guided'"),
        ({"start_fraction": 1.5}, r"start_fraction is 1\.5"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        make(dataclasses.replace(PAPER, **changes))
