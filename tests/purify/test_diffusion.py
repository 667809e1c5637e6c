import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.purify.diffusion import add_noise, eps_from_velocity, reverse, reverse_step, velocity
from dsrm_jax.purify.schedule import at_level, make_schedule, sampling_levels

SCHEDULES = [("linear", 30), ("rescaled", 20), ("cosine", 20), ("linear", 1)]


def float64_levels(name, steps):
    """Independent float64 beta, alpha, alpha_bar, with alpha_bar_0 = 1 in front."""
    if name == "cosine":
        kept = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - kept[1:] / kept[:-1], 0.999)
    else:
        beta = np.linspace(1e-4, 2e-2, steps) * (1000 / steps if name == "rescaled" else 1)
        beta = np.minimum(beta, 0.999)
    return beta, 1 - beta, np.concatenate([[1.0], np.cumprod(1 - beta)])


@pytest.fixture(scope="module")
def pair():
    generator = np.random.default_rng(0)
    return generator.normal(size=(2, 7, 5))


@pytest.mark.parametrize(("name", "steps"), SCHEDULES)
def test_forward_process_agrees_with_float64(name, steps, pair):
    clean, eps = pair
    _, _, kept = float64_levels(name, steps)
    schedule = make_schedule(name, steps)
    level = np.random.default_rng(1).integers(1, steps + 1, size=7)
    noised = add_noise(at_level(schedule, level), jnp.float32(clean), jnp.float32(eps))
    expected = np.sqrt(kept[level])[:, None] * clean + np.sqrt(1 - kept[level])[:, None] * eps
    np.testing.assert_allclose(noised, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "steps"), SCHEDULES)
def test_true_eps_at_level_one_returns_the_clean_state(name, steps, pair):
    clean, eps = jnp.float32(pair)
    step = at_level(make_schedule(name, steps), 1)
    np.testing.assert_allclose(reverse_step(step, add_noise(step, clean, eps), eps), clean, atol=2e-6)


@pytest.mark.parametrize(("name", "steps"), SCHEDULES)
def test_reverse_step_is_the_posterior_mean_at_every_level(name, steps, pair):
    clean, eps = pair
    beta, alpha, kept = float64_levels(name, steps)
    schedule = make_schedule(name, steps)
    for k in range(1, steps + 1):
        noised = np.sqrt(kept[k]) * clean + np.sqrt(1 - kept[k]) * eps
        of_clean = np.sqrt(kept[k - 1]) * beta[k - 1] / (1 - kept[k])
        of_noised = np.sqrt(alpha[k - 1]) * (1 - kept[k - 1]) / (1 - kept[k])
        got = reverse_step(at_level(schedule, k), jnp.float32(noised), jnp.float32(eps))
        np.testing.assert_allclose(got, of_clean * clean + of_noised * noised, atol=3e-5)


@pytest.mark.parametrize(("name", "steps"), SCHEDULES)
def test_chain_with_true_eps_recovers_the_clean_state(name, steps, pair):
    """The eps that is true at each level of the moving chain, against a float64 loop of Eq. (3)."""
    clean, eps = pair
    beta, alpha, kept = float64_levels(name, steps)
    state = np.sqrt(kept[-1]) * clean + np.sqrt(1 - kept[-1]) * eps
    start = state
    for k in range(steps, 0, -1):
        true = (state - np.sqrt(kept[k]) * clean) / np.sqrt(1 - kept[k])
        state = (state - beta[k - 1] / np.sqrt(1 - kept[k]) * true) / np.sqrt(alpha[k - 1])
    np.testing.assert_allclose(state, clean, atol=1e-9)

    def predict(noised, step, memory):
        return (noised - step.signal * jnp.float32(clean)) / step.noise, memory

    schedule = make_schedule(name, steps)
    np.testing.assert_allclose(reverse(predict, schedule, jnp.float32(start), schedule), clean, atol=2e-5)


@pytest.mark.parametrize("visited", [1, 3, 7])
def test_implicit_steps_solve_a_gaussian_exactly_over_any_few_levels(visited):
    """Where s^(0) is N(0, v) each coordinate of the exact probability flow is x_0 = x_S sqrt(v / (alpha_bar v + 1 - alpha_bar)).

    One implicit step maps x_k by sqrt(a') a v + sqrt((1 - a') (1 - a)) over a v + 1 - a, which a float64 loop repeats here.
    """
    variance, start = np.array([0.3, 1.0, 4.0]), np.array([[1.0, -2.0, 0.5]])
    kept = float64_levels("cosine", 7)[2]
    levels = sampling_levels(7, visited)
    expected = start
    for level, before in zip(levels[::-1], [*levels[:-1][::-1], 0], strict=True):
        a, b = kept[level], kept[before]
        total = a * variance + 1 - a
        expected = expected * (np.sqrt(a * b) * variance + np.sqrt((1 - a) * (1 - b))) / total

    def predict(noised, step, memory):
        return noised * step.noise / (step.signal**2 * jnp.float32(variance) + step.noise**2), memory

    schedule = make_schedule("cosine", 7, sampling_steps=visited)
    got = reverse(predict, schedule, jnp.float32(start), schedule, sampler="ddim")
    # float32 divides by sqrt(alpha_bar_S), about 1e-3
    np.testing.assert_allclose(got, expected, rtol=5e-3)


def test_many_implicit_steps_preserve_the_variance_that_the_mean_of_eq_3_shrinks():
    """The probability flow maps the noised distribution onto the clean one; the mean of Eq. (3) without its noise does not."""
    variance = 0.25
    schedule = make_schedule("linear", 1000)

    def predict(noised, step, memory):
        return noised * step.noise / (step.signal**2 * variance + step.noise**2), memory

    start = jnp.ones((1, 1))
    flow = reverse(predict, schedule, start, schedule, sampler="ddim")
    np.testing.assert_allclose(flow, np.sqrt(variance), rtol=5e-3)
    assert float(reverse(predict, schedule, start, schedule)[0, 0]) < 0.1


def test_memory_passes_from_level_to_level():
    schedule = make_schedule("cosine", 4)

    def predict(noised, step, memory):
        return memory * noised, memory + 1.0

    got = reverse(predict, schedule, jnp.ones(1), schedule, memory=jnp.ones(1), start=3)
    state = jnp.ones(1)
    for count, level in enumerate((3, 2, 1)):
        state = reverse_step(at_level(schedule, level), state, (count + 1.0) * state)
    np.testing.assert_allclose(got, state, rtol=1e-5)
    traced = reverse(predict, schedule, jnp.ones(1), schedule, memory=jnp.ones(1), start=jnp.int32(3))
    np.testing.assert_allclose(traced, state, rtol=1e-5)


def test_wrong_readings_of_the_alphas_differ(pair):
    """Per-step alphas correct by sqrt(beta) eps, 3.6 times too much; cumulative ones jump to level 0."""
    clean, eps = pair
    beta, alpha, kept = float64_levels("linear", 30)
    noised = np.sqrt(kept[30]) * clean + np.sqrt(1 - kept[30]) * eps
    step = at_level(make_schedule("linear", 30), 30)
    got = reverse_step(step, jnp.float32(noised), jnp.float32(eps))
    correction = noised / np.sqrt(alpha[29]) - got
    overshoot = (np.sqrt(beta[29]) * eps / np.sqrt(alpha[29])) / correction
    np.testing.assert_allclose(overshoot, np.sqrt((1 - kept[30]) / beta[29]), rtol=1e-2)
    assert overshoot.min() > 3.5
    jump = (noised - np.sqrt(1 - kept[30]) * eps) / np.sqrt(kept[30])
    np.testing.assert_allclose(jump, clean, atol=1e-9)
    assert np.abs(got - jump).max() > 0.1


@pytest.mark.parametrize("level", [1, 10, 20])
def test_velocity_and_eps_are_the_same_information(level, pair):
    clean, eps = jnp.float32(pair)
    step = at_level(make_schedule("linear", 20), level)
    noised = add_noise(step, clean, eps)
    recovered = eps_from_velocity(step, noised, velocity(step, clean, eps))
    np.testing.assert_allclose(recovered, eps, atol=2e-6)


def toy_predict(noised, inputs, memory):
    level, matrix = inputs
    return jnp.tanh(noised @ matrix) / level, memory


@pytest.mark.parametrize("start", [1, 4])
def test_scan_equals_a_python_loop(start, pair):
    schedule = make_schedule("rescaled", 6)
    keys = jax.random.split(jax.random.key(0))
    features = (jnp.arange(1.0, 7.0), jax.random.normal(keys[0], (6, 5, 5)))
    noise = jax.random.normal(keys[1], (6, 7, 5))
    for z in (None, noise):
        state = jnp.float32(pair[0])
        for k in range(start, 0, -1):
            eps, _ = toy_predict(state, (features[0][k - 1], features[1][k - 1]), None)
            state = reverse_step(at_level(schedule, k), state, eps, None if z is None else z[k - 1])
        got = reverse(toy_predict, schedule, jnp.float32(pair[0]), features, start=start, noise=z)
        np.testing.assert_allclose(got, state, rtol=2e-5, atol=2e-5)
        traced = reverse(toy_predict, schedule, jnp.float32(pair[0]), features, start=jnp.int32(start), noise=z)
        np.testing.assert_allclose(traced, state, rtol=2e-5, atol=2e-5)


def test_noise_has_the_posterior_spread_except_at_level_one(pair):
    schedule = make_schedule("linear", 20)
    zeros, draws = jnp.zeros((4000, 5)), jax.random.normal(jax.random.key(3), (4000, 5))
    sigma = float(np.std(reverse_step(at_level(schedule, 20), zeros, zeros, draws)))
    beta, _, kept = float64_levels("linear", 20)
    np.testing.assert_allclose(sigma, np.sqrt(beta[19] * (1 - kept[19]) / (1 - kept[20])), rtol=0.02)
    assert not np.any(reverse_step(at_level(schedule, 1), zeros, zeros, draws))
