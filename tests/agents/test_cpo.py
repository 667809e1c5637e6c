"""CPO's analytic step against SciPy and the KKT conditions on random problems, its edge cases, and its line search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from dsrm_jax.agents.cpo import Case, Outcome, backtrack, cpo_step, dual

NUM, SIZES = 10_000, (2, 3, 4, 5)


def problems(num, seed=0):
    """Random g, b, c, H, delta in 5 dimensions, of which each problem uses the first 2 to 5; every case occurs."""
    rng = np.random.default_rng(seed)
    size = rng.choice(SIZES, num)
    used = np.arange(5) < size[:, None]
    factor = rng.normal(size=(num, 5, 5))
    fisher = factor @ np.swapaxes(factor, 1, 2) / 5 + 0.1 * np.eye(5)
    both = used[:, :, None] & used[:, None, :]
    fisher = np.where(both, fisher, np.eye(5))
    g, b = (rng.normal(size=(num, 5)) * used for _ in range(2))
    delta = 10 ** rng.uniform(-3, 0, num)
    reach = np.sqrt(2 * delta * np.einsum("ni,ni->n", b, np.linalg.solve(fisher, b[..., None])[..., 0]))
    c = reach * rng.uniform(-1.5, 1.5, num)
    return size, g, b, c, fisher, delta


@jax.jit
def solve(g, b, c, fisher, delta):
    def one(g, b, c, fisher, delta):
        return cpo_step(g, b, c, lambda v: fisher @ v, delta, iterations=20, tolerance=1e-7)

    return jax.vmap(one)(*(jnp.asarray(a, jnp.float32) for a in (g, b, c, fisher, delta)))


@pytest.fixture(scope="module")
def solved():
    given = problems(NUM)
    return given, jax.tree.map(lambda a: np.asarray(a, np.float64), solve(*given[1:]))


def quadratic(fisher, x):
    return 0.5 * np.einsum("ni,nij,nj->n", x, fisher, x)


def test_every_case_occurs_and_infeasible_is_what_the_reach_says(solved):
    (_, _, b, c, fisher, delta), step = solved
    reach = np.sqrt(2 * delta * np.einsum("ni,ni->n", b, np.linalg.solve(fisher, b[..., None])[..., 0]))
    clear = np.abs(c - reach) > 1e-4 * reach
    np.testing.assert_array_equal((step.case == Case.INFEASIBLE)[clear], (c > reach)[clear])
    for case in (Case.INFEASIBLE, Case.INSIDE, Case.SLACK, Case.ACTIVE):
        assert np.sum(step.case == case) > 500
    slack = step.case == Case.SLACK
    assert np.sum(slack & (c > 0)) > 100, "recovery by luck"
    assert np.sum(slack & (c < 0)) > 100


def test_the_kkt_conditions_hold_on_ten_thousand_problems(solved):
    """Stationarity, both constraints, complementary slackness: for a convex problem they prove the optimum."""
    (_, g, b, c, fisher, delta), step = solved
    feasible = step.case != Case.INFEASIBLE
    kl, slope = quadratic(fisher, step.x), np.einsum("ni,ni->n", b, step.x)
    scale = np.abs(c) + np.sqrt(np.einsum("ni,ni->n", b, b) * np.einsum("ni,ni->n", step.x, step.x))
    gradient = g + step.lam[:, None] * np.einsum("nij,nj->ni", fisher, step.x) + step.nu[:, None] * b
    size = np.linalg.norm(g, axis=1) + step.nu * np.linalg.norm(b, axis=1)
    # float32 cancels where g and b are nearly parallel: the worst of these KLs is .23 % off (5e-12 in float64)
    assert np.all(kl <= delta * (1 + 5e-3))
    assert np.quantile(kl / delta, 0.999) < 1 + 1e-3
    assert np.all((slope + c)[feasible] <= 1e-4 * scale[feasible])
    assert np.all(np.linalg.norm(gradient, axis=1)[feasible] <= 1e-4 * size[feasible])
    assert np.all(step.lam > 0)
    assert np.all(step.nu >= 0)
    assert np.quantile((np.abs(kl - delta) / delta)[feasible], 0.999) < 1e-2, "the region is always used in full"
    active = step.case == Case.ACTIVE
    assert np.all(np.abs(slope + c)[active] <= 1e-4 * scale[active])
    assert np.all(step.nu[(step.case == Case.INSIDE) | (step.case == Case.SLACK)] == 0)


def test_infeasible_problems_get_the_steepest_fall_of_the_cost(solved):
    (_, _, b, _, fisher, delta), step = solved
    hopeless = step.case == Case.INFEASIBLE
    natural = np.linalg.solve(fisher, b[..., None])[..., 0]
    expected = -np.sqrt(2 * delta / np.einsum("ni,ni->n", b, natural))[:, None] * natural
    error = np.linalg.norm(step.x - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert np.all(error[hopeless] < 1e-3)


def slsqp(g, b, c, fisher, delta):
    """SciPy's solution in whitened coordinates (x = L^-T y), where the region is a ball of radius 1."""
    lower = np.linalg.cholesky(fisher) / np.sqrt(2 * delta)
    a, d = np.linalg.solve(lower, g), np.linalg.solve(lower, b)
    a, d, e = a / np.linalg.norm(a), d / np.linalg.norm(d), c / np.linalg.norm(d)
    found = minimize(
        lambda y: a @ y,
        -0.5 * e * d,
        jac=lambda y: a,
        method="SLSQP",
        constraints=[
            {"type": "ineq", "fun": lambda y: -(d @ y) - e, "jac": lambda y: -d},
            {"type": "ineq", "fun": lambda y: 1 - y @ y, "jac": lambda y: -2 * y},
        ],
        options={"maxiter": 200, "ftol": 1e-10},
    )
    return found.success, found.fun, lambda x: a @ (lower.T @ x)


def agrees_with_scipy(solved, rows):
    (size, *given), step = solved
    compared = 0
    for n in rows:
        if step.case[n] == Case.INFEASIBLE:
            continue
        k = size[n]
        g, b, c, fisher, delta = (array[n] for array in given)
        success, best, value = slsqp(g[:k], b[:k], c, fisher[:k, :k], delta)
        if success:
            compared += 1
            assert value(step.x[n, :k]) == pytest.approx(best, abs=2e-3)  # in units of the unconstrained optimum
    return compared


def test_scipy_finds_no_better_step(solved):
    assert agrees_with_scipy(solved, range(400)) > 300


@pytest.mark.slow
def test_scipy_finds_no_better_step_on_ten_thousand_problems(solved):
    assert agrees_with_scipy(solved, range(NUM)) > 8_000


def duals(q, r, s, c, delta=0.01):
    return [float(v) for v in dual(*(jnp.float32(v) for v in (q, r, s, c, delta)))]


@pytest.mark.parametrize(
    ("arguments", "case"),
    [
        pytest.param((1.0, 0.0, 0.0, 0.3), Case.NO_COST_GRADIENT, id="b = 0, limit broken"),
        pytest.param((1.0, 0.0, 0.0, -0.3), Case.NO_COST_GRADIENT, id="b = 0, limit kept"),
        pytest.param((0.0, 0.0, 1.0, -0.1), Case.NO_REWARD_GRADIENT, id="g = 0, limit kept"),
        pytest.param((0.0, 0.0, 1.0, 0.1), Case.NO_REWARD_GRADIENT, id="g = 0, limit broken"),
        pytest.param((0.0, 0.0, 1.0, 0.5), Case.INFEASIBLE, id="g = 0, out of reach"),
        pytest.param((0.0, 0.0, 0.0, 0.5), Case.NO_REWARD_GRADIENT, id="nothing at all"),
        pytest.param((1.0, 0.5, 1.0, 0.0), Case.SLACK, id="c = 0, reward lowers cost"),
        pytest.param((1.0, -0.5, 1.0, 0.0), Case.ACTIVE, id="c = 0, reward raises cost"),
        pytest.param((1.0, -1.0, 1.0, 0.0), Case.ACTIVE, id="c = 0, reward is cost"),
        pytest.param((1.0, -0.5, 0.02, -0.02), Case.INSIDE, id="B = 0, c < 0"),
    ],
)
def test_edge_cases_are_finite_and_named(arguments, case):
    lam, nu, found = duals(*arguments)
    assert found == case
    assert np.isfinite([lam, nu]).all()
    assert lam > 0
    assert nu >= 0


def steps(g, b, c, delta=0.02):
    """Under H = I."""
    return np.asarray(cpo_step(jnp.asarray(g), jnp.asarray(b), jnp.float32(c), lambda v: v, delta).x)


def test_steps_at_the_edges():
    radius = 0.2  # sqrt(2 delta)
    g, b, zero = np.float32([1, 0]), np.float32([0, 2]), np.zeros(2, np.float32)
    np.testing.assert_allclose(steps(g, zero, 1.0), [-radius, 0], rtol=1e-4)
    np.testing.assert_allclose(steps(zero, b, -0.1), [0, 0])
    np.testing.assert_allclose(steps(zero, b, 0.1), [0, -0.05], rtol=1e-4)
    np.testing.assert_allclose(steps(g, b, 9.0), [0, -radius], rtol=1e-4)
    np.testing.assert_allclose(steps(g, b, 2 * radius), [0, -radius], atol=1e-3)
    np.testing.assert_allclose(steps(zero, zero, 1.0), [0, 0])
    # opposed gradients on the limit: only a rounding-sized step remains
    assert np.linalg.norm(steps(-b, b, 0.0)) < 1e-3 * radius


def outcome_of(theta, target):
    """A curved problem: the loss falls towards `target`, the cost is theta's first entry squared."""
    return Outcome(jnp.sum(jnp.square(theta - target)), jnp.square(theta[0]), 0.5 * jnp.sum(jnp.square(theta)))


@pytest.mark.parametrize(
    ("c", "x", "target"),
    [
        pytest.param(-0.5, [2.0, 0.0], [0.3, 0.0], id="the loss bounds it"),
        pytest.param(-0.01, [1.0, 0.0], [9.0, 0.0], id="the cost bounds it"),
        pytest.param(-9.0, [0.0, 4.0], [0.0, 9.0], id="the trust region bounds it"),
    ],
)
def test_the_line_search_returns_the_longest_trial_that_passes_and_that_is_what_it_tested(c, x, target):
    theta, x, target = jnp.zeros(2), jnp.asarray(x), jnp.asarray(target)
    tested = []

    def evaluate(candidate):
        jax.debug.callback(lambda value: tested.append(np.array(value)), candidate)
        return outcome_of(candidate, target)

    found = backtrack(evaluate, theta, x, c=jnp.float32(c), delta=0.5, decay=0.7, iterations=15)
    jax.effects_barrier()
    assert found.accepted
    assert any(np.array_equal(value, found.theta) for value in tested)
    before = outcome_of(np.zeros(2), np.asarray(target))
    for k in range(15):
        after = outcome_of(0.7**k * np.asarray(x), np.asarray(target))
        if after.kl <= 0.5 and after.cost - before.cost <= max(-c, 0) and after.loss < before.loss:
            assert found.shrink == pytest.approx(0.7**k, rel=1e-5)
            break
    np.testing.assert_allclose(found.theta, found.shrink * x, rtol=1e-6)


def test_a_recovering_step_may_lose_reward_but_no_cost_and_no_step_is_the_last_resort():
    theta = jnp.array([1.0, 0.0])

    def search(x, c):
        def evaluate(candidate):
            outcome = outcome_of(candidate, jnp.array([2.0, 0.0]))
            return outcome._replace(kl=0.5 * jnp.sum(jnp.square(candidate - theta)))

        return backtrack(evaluate, theta, jnp.asarray(x), c=jnp.float32(c), delta=0.5)

    assert search([-0.5, 0.0], 0.1).accepted  # away from the target, but the limit is broken and the cost falls
    assert not search([-0.5, 0.0], -0.1).accepted
    refused = search([0.5, 0.0], 0.1)
    assert not refused.accepted
    assert refused.shrink == 0
    np.testing.assert_array_equal(refused.theta, theta)
    assert not search([np.nan, 0.0], 0.1).accepted
