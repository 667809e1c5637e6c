"""The toy of facts 5.2: 4 interest directions and 1 popularity direction in 16 dimensions, linear and Gaussian."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.config import PurifierConfig
from dsrm_jax.errors import InputError
from dsrm_jax.state.probes import change, gaussian_floor, leak_ratio, oracle_recovery
from dsrm_jax.state.purifier import (
    PurifierBatch,
    fit_purifier,
    level_losses,
    make_purifier,
    start_level,
)
from dsrm_jax.state.schedule import make_schedule

D = 16
MASKED = PurifierConfig(diffusion_steps=10, hidden=64, condition_dropout=0.1)
PAPER = dataclasses.replace(MASKED, kind="paper")
AXES = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
INTERESTS = np.float32(AXES[:4] * [[1.5], [1.2], [1.0], [0.8]])
POPULARITY = np.float32(0.6 * AXES[0] + 0.8 * AXES[4])


def toy(key, rows=256):
    """Return a batch and the clean states behind it."""
    keys = jax.random.split(key, 5)
    clean = jax.random.normal(keys[0], (rows, 4)) @ INTERESTS
    conformity = 1 + 1.5 * jax.random.normal(keys[1], (rows, 1))
    state = clean + conformity * POPULARITY + 0.4 * jax.random.normal(keys[2], (rows, D))
    target = clean + 0.5 * jax.random.normal(keys[3], (rows, D))
    condition = state + 0.3 * jax.random.normal(keys[4], (rows, D))
    return PurifierBatch(state, condition, target), clean


def sample_batch(key):
    return toy(key)[0]


def fit(key, config, iterations=400, learning_rate=3e-3):
    purifier = make_purifier(config, state_dim=D, condition_dim=D)
    return fit_purifier(
        key, purifier, sample_batch, iterations=iterations, learning_rate=learning_rate, ema=0.99
    )


def purify(config, params, batch, key=None):
    purifier = make_purifier(config, state_dim=D, condition_dim=D)
    return jax.jit(purifier.purify)(params, key, batch.state, batch.condition)


def leak(config, params, batch):
    losses = level_losses(params, jax.random.key(5), batch, config=config)
    target = batch.state if config.kind == "paper" else batch.target
    schedule = make_schedule(config.schedule, config.diffusion_steps)
    return leak_ratio(losses, gaussian_floor(params.target.apply(target), schedule))


@pytest.fixture(scope="module")
def masked():
    return fit(jax.random.key(1), MASKED)[0]


@pytest.fixture(scope="module")
def paper():
    return fit(jax.random.key(1), PAPER)[0]


@pytest.fixture(scope="module")
def held_out():
    return toy(jax.random.key(2), 4000)


def regression_error(held_out):
    """Float64 least squares of target on condition, fitted on other rows: the optimum E[target | condition]."""
    train = jax.tree.map(lambda x: np.asarray(x, np.float64), toy(jax.random.key(3), 20000)[0])
    design = np.c_[train.condition, np.ones(len(train.condition))]
    weights = np.linalg.lstsq(design, train.target, rcond=None)[0]
    batch, clean = held_out
    return np.mean((np.c_[batch.condition, np.ones(len(clean))] @ weights - clean) ** 2)


def test_masked_purifier_comes_close_to_the_regression_optimum(masked, held_out):
    batch, clean = held_out
    purified = purify(MASKED, masked, batch)
    optimum = regression_error(held_out)
    assert np.mean((purified - clean) ** 2) < 1.15 * optimum
    assert oracle_recovery(batch.state, purified, clean) > 0.75
    assert change(batch.state, purified).relative > 0.2


def test_masked_condition_does_not_leak_the_target(masked, held_out):
    assert leak(MASKED, masked, held_out[0])[0] > 0.2


def test_paper_form_falls_into_the_identity_trap(paper, held_out):
    """Condition = target = observed state: Eq. (7) is far below the floor, and nothing is purified."""
    batch, clean = held_out
    assert leak(PAPER, paper, batch)[0] < 0.2
    purified = purify(PAPER, paper, batch)
    assert change(batch.state, purified).relative < 0.05
    assert abs(oracle_recovery(batch.state, purified, clean)) < 0.1


def test_identity_hands_the_state_on(held_out):
    batch, clean = held_out
    purifier = make_purifier(dataclasses.replace(MASKED, kind="identity"), state_dim=D, condition_dim=D)
    params = purifier.init(jax.random.key(0), batch)
    purified = purifier.purify(params, None, batch.state, batch.condition)
    assert oracle_recovery(batch.state, purified, clean) == 0
    assert purifier.loss(params, jax.random.key(0), batch) == 0


def test_lower_start_keeps_more_of_the_observed_state(masked, held_out):
    batch, _ = held_out
    moved = [
        change(
            batch.state, purify(dataclasses.replace(MASKED, start_fraction=fraction), masked, batch)
        ).relative
        for fraction in (0.1, 0.3, 1.0)
    ]
    assert moved[0] < moved[1] < moved[2]


def test_traced_start_and_noise_equal_static_ones(masked, held_out):
    batch = jax.tree.map(lambda x: x[:50], held_out[0])
    key = jax.random.key(9)
    config = dataclasses.replace(MASKED, noise_scale=0.5)
    fractions = jnp.array([0.3, 1.0])
    swept = jax.vmap(
        lambda fraction: purify(dataclasses.replace(config, start_fraction=fraction), masked, batch, key)
    )(fractions)
    for fraction, got in zip((0.3, 1.0), swept, strict=True):
        expected = purify(dataclasses.replace(config, start_fraction=fraction), masked, batch, key)
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_noise_scale_draws_from_the_key_and_zero_does_not(masked, held_out):
    batch = jax.tree.map(lambda x: x[:50], held_out[0])
    one, two = jax.random.split(jax.random.key(0))
    still = [purify(MASKED, masked, batch, key) for key in (one, two)]
    np.testing.assert_array_equal(*still)
    noisy = dataclasses.replace(MASKED, noise_scale=1.0)
    drawn = [purify(noisy, masked, batch, key) for key in (one, two, one)]
    assert np.abs(drawn[0] - drawn[1]).max() > 0.1
    np.testing.assert_array_equal(drawn[0], drawn[2])


def test_leading_dimensions_are_batch_dimensions(masked, held_out):
    batch = jax.tree.map(lambda x: x[:12], held_out[0])
    folded = jax.tree.map(lambda x: x.reshape(3, 4, D), batch)
    flat = purify(MASKED, masked, batch)
    np.testing.assert_allclose(purify(MASKED, masked, folded).reshape(12, D), flat, rtol=1e-4, atol=1e-5)
    one = jax.tree.map(lambda x: x[0], batch)
    np.testing.assert_allclose(purify(MASKED, masked, one), flat[0], rtol=1e-4, atol=1e-5)


def test_loss_is_eq_7_for_paper_and_its_velocity_form_for_masked(held_out):
    """A fresh network outputs a linear map of its condition alone, so both losses have a float64 formula."""
    batch = held_out[0]
    for config in (PAPER, MASKED):
        config = dataclasses.replace(config, diffusion_steps=1, condition_dropout=0.0)
        purifier = make_purifier(config, state_dim=D, condition_dim=D)
        params = purifier.init(jax.random.key(0), batch)
        silent = params.replace(network=jax.tree.map(jnp.zeros_like, params.network))
        # v = 0 predicts eps = sqrt(1 - abar) s^(1), off by sqrt(abar) v; |v|^2 is 1 per normalised coordinate.
        kept = 0.9
        expected = kept if config.kind == "paper" else 1.0
        losses = [purifier.loss(silent, key, batch) for key in jax.random.split(jax.random.key(1), 4)]
        np.testing.assert_allclose(np.mean(losses), expected, rtol=0.02)


def test_training_moves_the_network_only_and_is_deterministic(held_out):
    runs = [fit(jax.random.key(4), MASKED, iterations=20) for _ in range(2)]
    for a, b in zip(jax.tree.leaves(runs[0]), jax.tree.leaves(runs[1]), strict=True):
        np.testing.assert_array_equal(a, b)
    params, losses = runs[0]
    assert np.isfinite(losses).all()
    _, other = fit(jax.random.key(5), MASKED, iterations=20)
    assert np.abs(losses - other).max() > 0
    np.testing.assert_allclose(params.state.mean, 1.0 * POPULARITY, atol=0.15)
    untrained = fit(jax.random.key(4), MASKED, iterations=0)[0]
    for name in ("state", "condition", "target"):
        kept, start = getattr(params, name), getattr(untrained, name)
        np.testing.assert_array_equal(kept.mean, start.mean)
        np.testing.assert_array_equal(kept.std, start.std)
    assert np.abs(params.network["params"]["output_layer"]["kernel"]).max() > 0


def test_two_seeds_in_one_program_equal_separate_runs():
    keys = jax.random.split(jax.random.key(6))
    together, _ = jax.jit(jax.vmap(lambda key: fit(key, MASKED, iterations=20)))(keys)
    for seed in range(2):
        alone, _ = fit(keys[seed], MASKED, iterations=20)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[seed], b, rtol=1e-2, atol=1e-3)


def test_constant_coordinates_survive():
    """A coordinate that never varies, such as an unused bias, gives neither NaN nor a wrong value."""

    def constant(key):
        batch = sample_batch(key)
        return jax.tree.map(lambda x: x.at[:, 0].set(2.0), batch)

    purifier = make_purifier(MASKED, state_dim=D, condition_dim=D)
    params, losses = fit_purifier(
        jax.random.key(0), purifier, constant, iterations=20, learning_rate=1e-3, ema=0.9
    )
    batch = constant(jax.random.key(1))
    purified = purifier.purify(params, None, batch.state, batch.condition)
    assert np.isfinite(losses).all()
    assert np.isfinite(purified).all()


@pytest.mark.parametrize(
    ("fraction", "steps", "level"), [(1.0, 20, 20), (0.3, 20, 6), (0.35, 20, 7), (0.01, 20, 1), (1.0, 1, 1)]
)
def test_start_level_is_the_rounded_share(fraction, steps, level):
    config = PurifierConfig(start_fraction=fraction, diffusion_steps=steps)
    assert start_level(config) == level
    traced = start_level(dataclasses.replace(config, start_fraction=jnp.float32(fraction)))
    assert traced == level


def test_bad_settings_are_named():
    with pytest.raises(InputError, match="did you mean 'masked'"):
        make_purifier(dataclasses.replace(MASKED, kind="mask"), state_dim=D, condition_dim=D)
    with pytest.raises(InputError, match=r"start_fraction is 1\.5"):
        make_purifier(dataclasses.replace(MASKED, start_fraction=1.5), state_dim=D, condition_dim=D)
