"""CPO of a Gaussian policy: divergence, Fisher products, steps and margin against references."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from dsrm_jax.agents.cpo import Case
from dsrm_jax.agents.fcpo import GaussianHyperActor
from dsrm_jax.agents.gaussian_cpo import PolicyBatch, constrained_step, fisher_product, gaussian_kl, next_margin
from dsrm_jax.agents.ppo import gaussian_log_prob, gaussian_sample

quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def test_the_kl_divergence_is_the_mean_log_ratio():
    rng = np.random.default_rng(0)
    mean, other_mean = rng.normal(size=(2, 4))
    log_std, other_log_std = 0.3 * rng.normal(size=(2, 4))
    x = mean + np.exp(log_std) * rng.normal(size=(400_000, 4))

    def density(mean, log_std):
        return -0.5 * np.square((x - mean) / np.exp(log_std)).sum(1) - log_std.sum()

    sampled = density(mean, log_std) - density(other_mean, other_log_std)
    got = gaussian_kl(*(jnp.asarray(a, jnp.float32) for a in (mean, log_std, other_mean, other_log_std)))
    assert got == pytest.approx(sampled.mean(), abs=5 * sampled.std() / 400_000**0.5)


def test_the_fisher_product_is_the_hessian_of_the_mean_kl():
    states = jnp.asarray(np.random.default_rng(4).normal(size=(8, 3)), jnp.float32)
    actor = GaussianHyperActor(hidden=3)
    params = actor.init(jax.random.key(0), states, 0.2)
    theta, unravel = ravel_pytree(params)
    theta = theta + 0.3 * jax.random.normal(jax.random.key(1), theta.shape)

    def policy(params, x):
        return actor.apply(params, x, 0.2)

    def kl(other):
        return jnp.mean(gaussian_kl(*policy(unravel(theta), states), *policy(unravel(other), states)))

    @quick_jit
    def both(v):
        product = fisher_product(policy, unravel(theta), states, damping=0.7)
        return product(v), jax.jvp(jax.grad(kl), (theta,), (v,))[1] + 0.7 * v

    for seed in range(3):
        got, expected = both(jax.random.normal(jax.random.key(seed), theta.shape))
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@quick_jit
def bandit_step(excess, scale, cost_scale, shift):
    """One constrained step of a two-dimensional Gaussian, whose reward is w_0 + w_1 and whose cost is w_0."""
    mean, log_std = jnp.zeros(2), jnp.full((2,), -1.0)
    w = gaussian_sample(jax.random.key(0), jnp.zeros((4096, 2)), log_std)
    batch = PolicyBatch(
        inputs=jnp.zeros((4096, 1)),
        action=w,
        log_prob=gaussian_log_prob(w, mean, log_std),
        advantage=scale * (w[:, 0] + w[:, 1]) + shift,
        cost_advantage=cost_scale * w[:, 0] + shift,
        excess=excess,
    )

    def policy(params, inputs):
        return jnp.broadcast_to(params["mean"], (inputs.shape[0], 2)), params["log_std"]

    params, metrics = constrained_step(
        policy, {"mean": mean, "log_std": log_std}, batch, max_kl=0.02, damping=1e-4, fisher_stride=4
    )
    return params["mean"], metrics


def bandit(excess, scale=1.0, cost_scale=1.0, shift=0.0):
    mean, metrics = bandit_step(*(jnp.float32(v) for v in (excess, scale, cost_scale, shift)))
    return np.asarray(mean), metrics


@pytest.mark.parametrize(
    ("excess", "expected", "case"),
    [
        pytest.param(-1.0, (0.7071, 0.7071), Case.INSIDE, id="no limit in reach: along the reward"),
        pytest.param(0.0, (0.0, 1.0), Case.ACTIVE, id="on the limit: along it"),
        pytest.param(1.0, (-1.0, 0.0), Case.INFEASIBLE, id="far beyond it: straight back"),
        pytest.param(0.04, (-0.54, 0.84), Case.ACTIVE, id="a little beyond it: back and along"),
    ],
)
def test_a_step_of_a_gaussian_goes_where_the_geometry_says(excess, expected, case):
    """Steps have length std sqrt(2 delta) = .0736 in the mean; .04 of it are .54."""
    mean, metrics = bandit(excess)
    assert metrics["case"] == case
    assert metrics["accepted"]
    assert metrics["kl"] <= 0.02
    np.testing.assert_allclose(mean / np.linalg.norm(mean), expected, atol=0.12)


def test_rewards_may_be_scaled_and_shifted_costs_only_shifted():
    reference, _ = bandit(0.02)
    for change in ({"scale": 7.0}, {"shift": 3.0}):
        np.testing.assert_allclose(bandit(0.02, **change)[0], reference, atol=2e-3)
    halved, _ = bandit(0.02, cost_scale=0.5)  # the same excess is now twice as far away
    assert halved[0] < 1.5 * reference[0] < 0


def test_the_margin_grows_faster_than_it_shrinks_and_waits_while_the_limit_is_out_of_reach():
    def after(margin, excess, case):
        return float(next_margin(jnp.float32(margin), jnp.float32(excess), jnp.int32(case), rate=0.2))

    assert after(0.1, 0.05, Case.ACTIVE) == pytest.approx(0.11)
    assert after(0.1, -0.05, Case.ACTIVE) == pytest.approx(0.095)
    assert after(0.001, -0.5, Case.SLACK) == 0
    assert after(0.1, 0.5, Case.INFEASIBLE) == pytest.approx(0.1)
