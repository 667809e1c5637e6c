import jax
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from dsrm_jax.errors import InputError
from dsrm_jax.simulator.calibration import auc
from dsrm_jax.simulator.fit import fit_factors, row_logit

NUM_USERS, NUM_ITEMS, DIM = 120, 80, 2


def _problem(num_rows: int, seed: int = 0):
    """Rows of a logistic factor model, uniform over pairs, with their true logits."""
    generator = np.random.default_rng(seed)
    user_factor = generator.normal(size=(NUM_USERS, DIM))
    item_factor = generator.normal(size=(NUM_ITEMS, DIM))
    user_bias, item_bias = generator.normal(size=NUM_USERS), generator.normal(size=NUM_ITEMS)
    user = generator.integers(NUM_USERS, size=num_rows).astype(np.int32)
    item = generator.integers(NUM_ITEMS, size=num_rows).astype(np.int32)
    logit = (user_factor[user] * item_factor[item]).sum(-1) + user_bias[user] + item_bias[item] - 0.7
    return user, item, generator.random(num_rows) < expit(logit), logit


def _mean_cross_entropy(logit, click):
    return float(np.mean(np.logaddexp(0, logit) - click * logit))


def _posterior_mode(user, item, click, l2: float, bias_prior: float):
    """Minimise the same objective by SciPy's L-BFGS in float64; return its value and the logits."""
    sizes = [NUM_USERS * DIM, NUM_ITEMS * DIM, NUM_USERS, NUM_ITEMS, 1]

    def parts(flat):
        u, v, a, b, c = np.split(flat, np.cumsum(sizes)[:-1])
        return u.reshape(NUM_USERS, DIM), v.reshape(NUM_ITEMS, DIM), a, b, c

    def objective(flat):
        u, v, a, b, c = parts(flat)
        logit = (u[user] * v[item]).sum(-1) + a[user] + b[item] + c
        value = np.sum(np.logaddexp(0, logit) - click * logit)
        value += l2 / 2 * ((u**2).sum() + (v**2).sum() + bias_prior * ((a**2).sum() + (b**2).sum()))
        slope = expit(logit) - click
        gradient_u, gradient_v = l2 * u, l2 * v
        np.add.at(gradient_u, user, slope[:, None] * v[item])
        np.add.at(gradient_v, item, slope[:, None] * u[user])
        gradient_a = np.bincount(user, slope, NUM_USERS) + l2 * bias_prior * a
        gradient_b = np.bincount(item, slope, NUM_ITEMS) + l2 * bias_prior * b
        gradient = np.concatenate([gradient_u.ravel(), gradient_v.ravel(), gradient_a, gradient_b, [slope.sum()]])
        return value / len(user), gradient / len(user)

    start = 0.1 * np.random.default_rng(1).normal(size=sum(sizes))
    result = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    u, v, a, b, c = parts(result.x)
    return result.fun, (u[user] * v[item]).sum(-1) + a[user] + b[item] + c


def _fit(user, item, click, seed: int = 0, **options):
    options = {"dim": DIM, "epochs": 8, "batch_size": 512, "learning_rate": 0.05, **options}
    return fit_factors(jax.random.key(seed), user, item, click, num_users=NUM_USERS, num_items=NUM_ITEMS, **options)


@pytest.fixture(scope="module")
def problem():
    return _problem(40_000)


@pytest.fixture(scope="module")
def fitted(problem):
    user, item, click, _ = problem
    return _fit(user, item, click)


def test_fit_reaches_the_objective_and_logits_of_a_float64_reference(problem, fitted):
    user, item, click, _ = problem
    reference, reference_logit = _posterior_mode(user, item, click, l2=3.0, bias_prior=0.15)
    tables = [np.asarray(x, np.float64) for x in (fitted.user, fitted.item, fitted.user_bias)]
    item_bias = np.asarray(fitted.item_bias, np.float64)
    logit = (tables[0][user] * tables[1][item]).sum(-1) + tables[2][user] + item_bias[item]
    squares = sum((x**2).sum() for x in tables[:2])
    # The intercept is not told apart from the item biases: give the fit the split that the prior likes best.
    biases = 0.15 * ((tables[2] ** 2).sum() + ((item_bias - item_bias.mean()) ** 2).sum())
    value = _mean_cross_entropy(logit, click) + 3.0 / 2 * (squares + biases) / len(user)
    assert value == pytest.approx(reference, abs=1e-3)
    assert np.sqrt(np.mean((logit - reference_logit) ** 2)) < 0.12


def test_fit_generalises_as_well_as_the_truth_nearly_does(fitted):
    generator = np.random.default_rng(5)
    user, item, _, logit = _problem(60_000)
    fresh = generator.random(len(logit)) < expit(logit)  # new clicks of the same pairs
    score = row_logit(fitted, user, item)
    assert auc(score, fresh) > auc(logit, fresh) - 0.006
    assert _mean_cross_entropy(score, fresh) < _mean_cross_entropy(logit, fresh) + 0.012


def test_same_key_same_bits_and_other_key_other_bits(problem, fitted):
    user, item, click, _ = problem
    again, other = _fit(user, item, click), _fit(user, item, click, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(fitted), jax.tree.leaves(again), strict=True))
    assert not np.array_equal(fitted.user, other.user)


def test_users_and_items_without_rows_are_the_mean_ones():
    user, item, click, _ = _problem(5_000)
    kept = (user != 7) & (item != 3)
    model = _fit(user[kept], item[kept], click[kept], epochs=2)
    assert not np.any(model.user[7])
    assert model.user_bias[7] == 0
    assert not np.any(model.item[3])
    other = np.delete(np.asarray(model.item_bias), 3)
    assert other.min() < model.item_bias[3] < other.max()
    np.testing.assert_allclose(model.item_bias[3], other.mean(), atol=0.35)  # the intercept


def test_rare_users_shrink_further_than_frequent_ones():
    # All users click on everything; the bias learnt from 2 rows must lie nearer to 0 than that from 200.
    rows_of = np.where(np.arange(NUM_USERS) % 2 == 0, 2, 200)
    always = np.arange(NUM_USERS) % 4 < 2
    user = np.repeat(np.arange(NUM_USERS), rows_of)
    item = np.random.default_rng(0).integers(NUM_ITEMS, size=len(user))
    model = _fit(user, item, always[user], epochs=30)
    bias = np.abs(np.asarray(model.user_bias))
    assert bias[rows_of == 2].max() < 0.75 * bias[rows_of == 200].min()


@pytest.mark.parametrize("num_rows", [1, 3, 127, 1_000])
def test_any_number_of_rows_fits_to_finite_numbers(num_rows):
    user, item, click, _ = _problem(num_rows)
    model = _fit(user, item, click, epochs=1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model))


def test_constant_clicks_give_confident_finite_logits():
    user, item, _, _ = _problem(2_000)
    model = _fit(user, item, np.ones(2_000, bool), epochs=2)
    logit = row_logit(model, user, item)
    assert np.isfinite(logit).all()
    assert logit.min() > 4


def test_bad_rows_are_refused():
    user, item, click, _ = _problem(100)
    with pytest.raises(InputError, match="no row"):
        _fit(user[:0], item[:0], click[:0])
    with pytest.raises(InputError, match=r"item indices .* expected 0\.\.79"):
        _fit(user, item + 80, click)
    with pytest.raises(InputError, match="99 items"):
        _fit(user, item[:99], click)


def test_row_logit_agrees_with_float64(fitted):
    user, item, _, _ = _problem(1_000, seed=3)
    tables = [np.asarray(x, np.float64) for x in jax.tree.leaves(fitted)]
    expected = (tables[0][user] * tables[1][item]).sum(-1) + tables[2][user] + tables[3][item]
    np.testing.assert_allclose(row_logit(fitted, user, item), expected, atol=1e-5)
