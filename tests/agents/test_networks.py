"""Item vectors and untrained networks against the encoder's own click logits, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents.actor_critic import SlatePolicy
from dsrm_jax.agents.dsrm_hrl import make_dsrm_hrl
from dsrm_jax.agents.fcpo import GaussianHyperActor
from dsrm_jax.agents.flat import FlatPolicy
from dsrm_jax.agents.networks import Manager, Worker, lifted_vectors
from dsrm_jax.agents.yardsticks import make_quota_greedy_purified
from dsrm_jax.purify.view import Catalogue, View

J, D, B = 40, 4, 16
# Compiling is what costs here, not running.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make_catalogue(seed):
    """Items of very different norms, whose last coordinate is 1."""
    rng = np.random.default_rng(seed)
    vectors = np.concatenate([rng.normal(size=(J, D - 1)) * rng.exponential(size=(J, 1)), np.ones((J, 1))], axis=1)
    return Catalogue(
        vectors=jnp.asarray(vectors, jnp.float32),
        bias=jnp.asarray(2 * rng.normal(size=J), jnp.float32),
        log_popularity=jnp.asarray(rng.normal(size=J), jnp.float32),
        is_popular=jnp.asarray(rng.random(J) < 0.3),
    )


def make_view(seed):
    state, observed = np.random.default_rng(seed).normal(size=(2, B, D)).astype(np.float32)
    return View(jnp.asarray(state), jnp.asarray(observed), jnp.arange(B, dtype=jnp.int32))


def click_logit(state, catalogue):
    state, vectors, bias = (np.asarray(x, np.float64) for x in (state, catalogue.vectors, catalogue.bias))
    return state @ vectors.T + bias


@pytest.mark.parametrize("seed", range(5))
def test_cosines_with_lifted_vectors_are_click_logits_up_to_a_factor_of_the_user(seed):
    catalogue, state = make_catalogue(seed), np.asarray(make_view(seed).state, np.float64)
    lifted = np.asarray(lifted_vectors(catalogue), np.float64)
    np.testing.assert_allclose(np.linalg.norm(lifted, axis=1), 1.0, atol=1e-6)
    query = np.concatenate([state, np.ones((B, 1)), np.zeros((B, 1))], axis=1)
    cosine = query @ lifted.T / np.linalg.norm(query, axis=1, keepdims=True)
    flat = np.concatenate([catalogue.vectors, catalogue.bias[:, None]], axis=1).astype(np.float64)
    largest = np.linalg.norm(flat, axis=1).max()
    logit = click_logit(state, catalogue)
    np.testing.assert_allclose(cosine * np.linalg.norm(query, axis=1, keepdims=True) * largest, logit, atol=1e-5)
    # so every pair of items that is not tied is ranked alike
    by_cosine, by_logit = (x[:, :, None] - x[:, None, :] for x in (cosine, logit))
    clear = np.abs(by_logit) > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(np.sign(by_cosine[clear]), np.sign(by_logit[clear]))


def test_a_plain_cosine_would_rank_items_otherwise():
    """What the lift is for: the angle alone forgets bias and norm."""
    catalogue, state = make_catalogue(0), make_view(0).state
    vectors = np.asarray(catalogue.vectors, np.float64)
    plain = np.asarray(state, np.float64) @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    assert np.mean(plain.argmax(1) == click_logit(state, catalogue).argmax(1)) < 0.5


@pytest.mark.parametrize("slate_size", [3, 6])
def test_an_untrained_hierarchy_acts_as_the_greedy_quota_policy(slate_size):
    hierarchy = make_dsrm_hrl(slate_size=slate_size, hidden=8)
    yardstick = make_quota_greedy_purified(slate_size=slate_size)
    hierarchy_act = quick_jit(lambda s, v, c: hierarchy.act(s, jax.random.key(0), v, c, True)[0])
    yardstick_act = quick_jit(lambda v, c: yardstick.act((), jax.random.key(0), v, c, True)[0])
    init = quick_jit(hierarchy.init)
    for seed in range(4):
        catalogue, view = make_catalogue(seed), make_view(seed)
        agent = init(jax.random.key(seed), catalogue)
        np.testing.assert_array_equal(hierarchy_act(agent, view, catalogue), yardstick_act(view, catalogue))


def random_variables(module, *arguments):
    """Variables of a module, none of them at its start."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)


def test_the_goal_depends_on_the_state_alone_and_the_values_on_the_clock_too():
    view = make_view(0)
    later = view.time + 9
    manager = Manager(8)
    variables = random_variables(manager, view.state, view.time)
    mean, log_std, value = manager.apply(variables, view.state, view.time)
    mean_later, log_std_later, value_later = manager.apply(variables, view.state, later)
    np.testing.assert_array_equal(mean, mean_later)
    np.testing.assert_array_equal(log_std, log_std_later)
    assert np.all(np.abs(value - value_later) > 1e-4)

    worker = Worker(8)
    goal = jnp.asarray(np.random.default_rng(6).normal(size=(B, 2)), jnp.float32)
    variables = random_variables(worker, view.state, goal, view.time, 3.0)
    query, sharpness, value = worker.apply(variables, view.state, goal, view.time, 3.0)
    late_query, _, late_value = worker.apply(variables, view.state, goal, later, 3.0)
    other_query = worker.apply(variables, view.state, -goal, view.time, 3.0)[0]
    np.testing.assert_array_equal(query, late_query)
    assert np.all(np.abs(value - late_value) > 1e-4)
    assert np.all(np.abs(query - other_query).max(1) > 1e-4)
    np.testing.assert_allclose(sharpness, 3.0 * np.exp(variables["params"]["log_sharpness"]), rtol=1e-6)


@pytest.mark.parametrize(
    ("network", "others"),
    [
        (Manager(4), lambda state: (jnp.zeros(B, jnp.int32),)),
        (Worker(4), lambda state: (jnp.ones((B, 2)), jnp.zeros(B, jnp.int32), 3.0)),
        (FlatPolicy(4), lambda state: (3.0,)),
        (SlatePolicy(4), lambda state: (3.0,)),
        (GaussianHyperActor(4), lambda state: (0.1,)),
    ],
)
def test_what_the_platform_counts_is_read_beside_the_state_and_changes_nothing_before_it_is_learnt(network, others):
    """An untrained policy acts as without it; once its parameters move, every number of the context moves what it says."""
    rng = np.random.default_rng(0)
    state, context = (jnp.asarray(rng.normal(size=(B, n)), jnp.float32) for n in (D, 3))

    @quick_jit
    def answers():
        plain = network.init(jax.random.key(0), state, *others(state))
        told = network.init(jax.random.key(0), state, *others(state), context)
        shaken = jax.tree.map(lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape), told)
        first = lambda params, *more: jax.tree.leaves(network.apply(params, state, *others(state), *more))[0]  # noqa: E731
        slope = jax.jacfwd(lambda c: first(shaken, c).sum(axis=0))(context)
        return first(plain), first(told, context), slope

    without, within, slope = answers()
    np.testing.assert_allclose(without, within, atol=1e-6)
    assert (np.abs(slope).max(axis=(0, 1)) > 0).all()
