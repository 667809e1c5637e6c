"""Generalised advantages against a float64 double sum and hand-worked session ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.agents import returns
from dsrm_jax.agents.returns import bootstrap_values

DISCOUNT, LAM = 0.9, 0.8
generalised_advantage = jax.jit(returns.generalised_advantage)


def advantage_by_definition(reward, values, following, terminated, truncated, discount, lam):
    """A_t = sum over l of (discount lam)^l delta_{t+l} until the session ends: a double sum in float64."""
    steps, users = reward.shape
    result = np.zeros((steps, users))
    for user in range(users):
        for start in range(steps):
            weight = 1.0
            for t in range(start, steps):
                future = 0.0 if terminated[t, user] else discount * following[t, user]
                result[start, user] += weight * (reward[t, user] + future - values[t, user])
                weight *= discount * lam
                if terminated[t, user] or truncated[t, user]:
                    break
    return result


def random_rollout(seed, steps=12, users=5):
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(3, steps, users))
    ends = rng.random((2, steps, users)) < 0.2
    return (*normal.astype(np.float32), *ends)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.95, 1.0]))
def test_advantages_equal_the_double_sum(seed, discount, lam):
    rollout = random_rollout(seed)
    advantage, target = generalised_advantage(*rollout, discount=discount, lam=lam)
    reference = advantage_by_definition(*(x.astype(np.float64) for x in rollout[:3]), *rollout[3:], discount, lam)
    np.testing.assert_allclose(advantage, reference, atol=2e-5)
    np.testing.assert_allclose(target, reference + rollout[1], atol=2e-5)


@pytest.mark.parametrize(
    ("terminated", "truncated", "first"),
    [
        # reward 1, value 2, next value 3, then a step of advantage 4 + 0.9 * 5 - 6 = 2.5
        (False, False, 1.0 + 0.9 * 3.0 - 2.0 + 0.9 * 0.8 * 2.5),
        (False, True, 1.0 + 0.9 * 3.0 - 2.0),
        (True, False, 1.0 - 2.0),
        (True, True, 1.0 - 2.0),
    ],
)
def test_each_way_that_a_step_can_end(terminated, truncated, first):
    advantage, target = generalised_advantage(
        jnp.array([[1.0], [4.0]]),
        jnp.array([[2.0], [6.0]]),
        jnp.array([[3.0], [5.0]]),
        jnp.array([[terminated], [False]]),
        jnp.array([[truncated], [False]]),
        discount=DISCOUNT,
        lam=LAM,
    )
    np.testing.assert_allclose(advantage[:, 0], [first, 2.5], rtol=1e-6)
    np.testing.assert_allclose(target[:, 0], [first + 2.0, 8.5], rtol=1e-6)


@pytest.mark.parametrize("truncation", [False, True])
def test_two_sessions_in_a_row_are_worth_what_they_are_worth_apart(truncation):
    reward, values, following, _, _ = random_rollout(3, steps=9, users=4)
    end = np.zeros((9, 4), bool)
    end[3] = True
    none = np.zeros((9, 4), bool)
    terminated, truncated = (none, end) if truncation else (end, none)
    trace = (reward, values, following, terminated, truncated)
    together, _ = generalised_advantage(*trace, discount=DISCOUNT, lam=LAM)
    for part in (slice(0, 4), slice(4, 9)):
        apart, _ = generalised_advantage(*(x[part] for x in trace), discount=DISCOUNT, lam=LAM)
        np.testing.assert_array_equal(together[part], apart)


def test_lambda_one_targets_are_discounted_returns():
    reward, values, _, _, _ = random_rollout(8)
    terminated = np.zeros(reward.shape, bool)
    terminated[-1] = True
    following = np.concatenate([values[1:], np.full_like(values[:1], 1e6)])  # the last one must not be read
    _, target = generalised_advantage(
        reward, values, following, terminated, np.zeros_like(terminated), discount=DISCOUNT, lam=1.0
    )
    discounted = np.zeros(reward.shape)
    running = np.zeros(reward.shape[1])
    for t in reversed(range(len(reward))):
        running = reward[t] + DISCOUNT * running
        discounted[t] = running
    np.testing.assert_allclose(target, discounted, atol=2e-5)


def test_a_truncated_step_bootstraps_from_the_view_that_the_user_left_with():
    values = jnp.arange(8.0).reshape(4, 2)
    final = jnp.full((3, 2), -1.0)
    truncated = jnp.array([[True, False], [False, False], [False, True]])
    following = bootstrap_values(values, final, truncated)
    np.testing.assert_array_equal(following, [[-1.0, 3.0], [4.0, 5.0], [6.0, -1.0]])
    np.testing.assert_array_equal(bootstrap_values(values, None, truncated), values[1:])
