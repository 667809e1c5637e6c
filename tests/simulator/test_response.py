"""Click probabilities against float64 NumPy, written as loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from dsrm_jax.simulator.response import FactorResponse, TableResponse, slate_correlation, slate_probability
from dsrm_jax.simulator.world import History

NO_HISTORY = History(*map(jnp.asarray, (np.zeros(4, np.int32), np.zeros(4, bool), np.int32(0))))
CLICK = jax.jit(lambda response, user, slate: response.click_probability(user, slate, NO_HISTORY))
SLATE = jax.jit(slate_probability, static_argnames=("correlation_weight", "double_sigmoid"))
CORRELATION = jax.jit(slate_correlation)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


@pytest.fixture(scope="module")
def factors():
    rng = np.random.default_rng(0)
    shapes = {"user": (7, 5), "item": (11, 5), "user_bias": (7,), "item_bias": (11,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def response(factors):
    return FactorResponse(**jax.tree.map(jnp.asarray, factors))


def reference_correlation(vectors):
    vectors = np.asarray(vectors, np.float64)
    num_items, dim = vectors.shape
    unit = [v / np.linalg.norm(v) if np.linalg.norm(v) > 0 else v for v in vectors]
    result = []
    for i in range(num_items):
        products = [unit[i][d] * unit[j][d] for j in range(num_items) for d in range(dim)]
        result.append(sum(products) / len(products))
    return np.asarray(result)


def test_factor_model_is_the_sigmoid_of_dot_product_and_both_biases(factors, response):
    slate = np.array([3, 0, 10, 4])
    for user in range(7):
        logit = [
            sum(float(a) * float(b) for a, b in zip(factors["user"][user], factors["item"][j], strict=True))
            + float(factors["user_bias"][user])
            + float(factors["item_bias"][j])
            for j in slate
        ]
        actual = CLICK(response, jnp.int32(user), jnp.asarray(slate))
        np.testing.assert_allclose(actual, sigmoid(logit), rtol=2e-6)


def test_table_model_looks_up_the_users_row():
    table = np.random.default_rng(1).random((3, 6)).astype(np.float32)
    actual = CLICK(TableResponse(jnp.asarray(table)), 2, np.array([5, 1, 1]))
    np.testing.assert_array_equal(actual, table[2, [5, 1, 1]])


def test_batching_over_users_equals_a_loop(response):
    users, slates = np.array([4, 0, 6]), np.array([[1, 2], [3, 4], [10, 0]])
    batched = jax.jit(jax.vmap(response.click_probability, (0, 0, None)))(users, slates, NO_HISTORY)
    for user, slate, row in zip(users, slates, batched, strict=True):
        np.testing.assert_allclose(CLICK(response, user, slate), row, rtol=1e-6)


def test_slate_correlation_is_the_mean_product_of_unit_vectors_over_slate_and_dimensions(factors):
    vectors = factors["item"][[0, 3, 5, 7, 8, 9]]
    np.testing.assert_allclose(CORRELATION(vectors), reference_correlation(vectors), atol=1e-7)
    same = np.tile(vectors[:1], (4, 1))
    np.testing.assert_allclose(CORRELATION(same), np.full(4, 1 / vectors.shape[1]), rtol=1e-6)


def test_a_zero_vector_is_similar_to_nothing():
    vectors = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(CORRELATION(vectors), reference_correlation(vectors), atol=1e-7)


def test_correlation_penalty_is_subtracted_and_floored_at_zero(factors, response):
    slate = np.array([2, 9, 4, 1])
    single = np.asarray(CLICK(response, 3, slate), np.float64)
    correlation = reference_correlation(factors["item"][np.asarray(slate)])
    for weight in (0.2, 5.0, 40.0):
        expected = np.clip(single - weight * correlation, 0, 1)
        actual = SLATE(response, 3, slate, NO_HISTORY, correlation_weight=weight)
        np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert np.min(expected) == 0, "the largest weight should have reached the floor"


def test_weight_zero_changes_no_bit_and_a_traced_weight_equals_a_static_one(response):
    slate = np.array([2, 9, 4, 1])
    plain = CLICK(response, 3, slate)
    np.testing.assert_array_equal(SLATE(response, 3, slate, NO_HISTORY), plain)
    given = response, 3, slate, NO_HISTORY
    swept = jax.jit(jax.vmap(lambda weight: slate_probability(*given, correlation_weight=weight)))(
        np.float32([0.0, 0.2, 5.0])
    )
    for weight, row in zip([0.0, 0.2, 5.0], swept, strict=True):
        fixed = SLATE(response, 3, slate, NO_HISTORY, correlation_weight=weight)
        np.testing.assert_allclose(row, fixed, rtol=1e-6, atol=1e-7)  # a last bit of what is subtracted from


def test_double_sigmoid_confines_probabilities_to_half_and_sigmoid_of_one():
    table = TableResponse(jnp.array([[0.0, 0.25, 1.0]]))
    slate = np.arange(3)
    actual = SLATE(table, 0, slate, NO_HISTORY, double_sigmoid=True)
    np.testing.assert_allclose(actual, [0.5, sigmoid(0.25), 0.7310585786300049], rtol=1e-6)


def test_double_sigmoid_comes_before_the_correlation_penalty(factors, response):
    slate = np.array([2, 9, 4])
    single = np.asarray(CLICK(response, 1, slate), np.float64)
    expected = sigmoid(single) - 0.2 * reference_correlation(factors["item"][np.asarray(slate)])
    actual = SLATE(response, 1, slate, NO_HISTORY, correlation_weight=0.2, double_sigmoid=True)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_a_table_has_no_correlation(response):
    table = TableResponse(jnp.full((2, 5), 0.4))
    actual = SLATE(table, 1, np.arange(3), NO_HISTORY, correlation_weight=10.0)
    np.testing.assert_array_equal(actual, np.full(3, 0.4, np.float32))
    assert response.item_vectors() is response.item


def test_a_new_model_is_a_pytree_with_the_same_methods():
    @struct.dataclass
    class Fatigue:
        base: jax.Array

        def click_probability(self, user, slate, history):
            return self.base[slate] / (1 + history.length)

        def item_vectors(self):
            return jnp.zeros((3, 1))

    tired = NO_HISTORY.replace(length=jnp.int32(3))
    actual = jax.jit(slate_probability)(Fatigue(jnp.array([0.4, 0.8, 1.0])), 0, jnp.array([2, 0]), tired)
    np.testing.assert_allclose(actual, [0.25, 0.1], rtol=1e-6)
