import numpy as np
import pytest

from dsrm_jax.errors import InputError
from dsrm_jax.purify.schedule import at_level, at_time, make_schedule, sampling_levels


@pytest.mark.parametrize(
    ("steps", "kept"),
    [(5, 0.951), (10, 0.904), (20, 0.817), (30, 0.738), (50, 0.603), (100, 0.364), (200, 0.132), (500, 0.006)],
)
def test_linear_schedule_keeps_the_published_share_of_the_signal(steps, kept):
    schedule = make_schedule("linear", steps)
    assert round(float(schedule.alpha_bar[-1]), 3) == kept


@pytest.mark.parametrize("name", ["rescaled", "cosine"])
@pytest.mark.parametrize("steps", [5, 10, 20, 50, 200])
def test_rescaled_and_cosine_drown_the_signal_for_every_length(name, steps):
    assert float(make_schedule(name, steps).alpha_bar[-1]) < 1e-4


@pytest.mark.parametrize("name", ["rescaled", "cosine"])
def test_a_single_level_drowns_the_signal_as_far_as_betas_go(name):
    assert float(make_schedule(name, 1).alpha_bar[0]) == pytest.approx(1e-3)


def test_rescaled_is_ddpm_at_a_thousand_levels():
    rescaled, linear = make_schedule("rescaled", 1000), make_schedule("linear", 1000)
    np.testing.assert_array_equal(rescaled.beta, linear.beta)


def test_cosine_follows_its_closed_form_where_it_is_not_clipped():
    kept = np.cos((np.arange(41) / 40 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(make_schedule("cosine", 40).alpha_bar[:-1], (kept / kept[0])[1:-1], rtol=1e-5)


@pytest.mark.parametrize("name", ["linear", "rescaled", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_coefficients_agree_with_a_float64_loop(name, steps):
    schedule = make_schedule(name, steps)
    kept = 1.0
    for k in range(1, steps + 1):
        level = at_level(schedule, k)
        beta, before = float(level.beta), kept
        kept *= 1 - beta
        assert 0 < beta < 1
        np.testing.assert_allclose(level.alpha, 1 - beta, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(level.noise, np.sqrt(1 - kept), rtol=1e-5)
        np.testing.assert_allclose(level.signal**2, level.alpha_bar, rtol=1e-5)
        np.testing.assert_allclose(level.posterior_std, np.sqrt(beta * (1 - before) / (1 - kept)), rtol=1e-4, atol=1e-7)
    assert float(schedule.posterior_std[0]) == 0


def test_level_one_noise_is_exactly_its_beta():
    schedule = make_schedule("linear", 1000)
    np.testing.assert_allclose(schedule.noise[0] ** 2, 1e-4, rtol=1e-6)


def test_bad_schedules_are_named():
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        make_schedule("cosin", 20)
    with pytest.raises(InputError, match="diffusion_steps is 0"):
        make_schedule("linear", 0)


@pytest.mark.parametrize("visited", [1, 4, 6])
def test_shorter_process_visits_levels_of_the_full_one(visited):
    """The same alpha_bar at the levels visited, and betas that multiply up to it."""
    full, short = make_schedule("cosine", 12), make_schedule("cosine", 12, sampling_steps=visited)
    levels = sampling_levels(12, visited)
    assert len(levels) == visited
    assert levels[-1] == 12
    np.testing.assert_array_equal(short.alpha_bar, full.alpha_bar[levels - 1])
    np.testing.assert_array_equal(short.noise, full.noise[levels - 1])
    np.testing.assert_allclose(np.cumprod(1 - np.float64(short.beta)), short.alpha_bar, rtol=2e-3, atol=1e-6)
    assert short.noise_before[0] == 0
    np.testing.assert_array_equal(short.noise_before[1:], short.noise[:-1])


@pytest.mark.parametrize("visited", [0, 12, 40])
def test_no_shorter_process_is_the_full_one(visited):
    for name in ("beta", "posterior_std", "noise_before"):
        expected = getattr(make_schedule("linear", 12), name)
        np.testing.assert_array_equal(getattr(make_schedule("linear", 12, sampling_steps=visited), name), expected)


@pytest.mark.parametrize("name", ["linear", "rescaled", "cosine"])
@pytest.mark.parametrize("steps", [1, 20, 500])
def test_every_schedule_visits_levels_of_one_continuous_process(name, steps):
    schedule = make_schedule(name, steps)
    level = at_time(schedule.time)
    before_the_end = np.asarray(schedule.time) < 1
    np.testing.assert_allclose(level.noise, schedule.noise, rtol=2e-4)
    np.testing.assert_allclose(level.signal[before_the_end], schedule.signal[before_the_end], rtol=2e-4)
    assert np.all(np.diff(schedule.time) >= 0)
    assert float(schedule.time[0]) > 0


def test_rescaled_time_runs_evenly_from_nought_to_one():
    time = make_schedule("rescaled", 1000).time
    np.testing.assert_allclose(time, np.arange(1, 1001) / 1000, atol=6e-3)
