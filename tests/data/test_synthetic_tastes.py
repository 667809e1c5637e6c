"""Tastes that no learner here could be: each has the property that it is named for, and clicks follow it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.cluster.vq import kmeans2
from scipy.special import logsumexp

from dsrm_jax.data import synthetic, synthetic_tastes
from dsrm_jax.simulator.build import make_worlds
from dsrm_jax.simulator.world import History


def draw(kind: str, *, users: int, dim: int, tags: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight = np.eye(tags)[rng.integers(0, tags, 40)]
    return synthetic_tastes.tastes(rng, kind, users, rng.standard_normal((40, dim)), weight)


def test_clusters_explain_nearly_all_of_the_spread():
    user = draw("clusters", users=600, dim=8, tags=5)[0][:, 0]
    residual = min(
        np.mean((user - centre[label]) ** 2)
        for centre, label in (kmeans2(user, synthetic_tastes.CLUSTERS, minit="++", seed=s) for s in range(5))
    )
    assert residual < 2 * synthetic_tastes.TIGHTNESS**2 < 0.2 * user.var()


def test_heavy_tails_are_students():
    user = draw("heavy", users=20_000, dim=4, tags=5)[0][:, 0]
    # a squared length over the dimension is F-distributed
    fit = stats.kstest(np.sum(user**2, axis=1) / 4, stats.f(4, synthetic_tastes.DEGREES_OF_FREEDOM).cdf)
    assert fit.pvalue > 0.01
    assert stats.kurtosis(user[:, 0]) > 3


def test_the_map_has_two_dimensions():
    user = draw("curved", users=12, dim=1 << 16, tags=1)[0][:, 0]
    kernel = user @ user.T / user.shape[1]  # nearly exp(-d^2 / (2 reach^2)) of places whose distances are d
    near = kernel[0] > 0.05
    square = -np.log(np.maximum(kernel[np.ix_(near, near)], 1e-3))
    centring = np.eye(near.sum()) - 1 / near.sum()
    value = np.sort(np.abs(np.linalg.eigvalsh(centring @ square @ centring)))[::-1]
    assert near.sum() >= 4
    assert value[2] < 0.1 * value[1]


@pytest.fixture(scope="module")
def world():
    return synthetic.generate("kuairand", seed=3, taste="interests", link="cauchit")


def chance(truth: synthetic.Truth, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """The chances of `(n,)` users with `(n,)` items by `Truth`'s docstring, float64."""
    interests, factors = truth.interests.astype(np.float64), truth.item_factors.astype(np.float64)
    liking = logsumexp(np.einsum("nmf,nf->nm", interests[user], factors[item]), axis=1) - np.log(interests.shape[1])
    popularity = (truth.popularity_lift + truth.conformity[user]) * truth.log_popularity[item]
    return stats.cauchy.cdf(np.pi / 4 * (liking + truth.user_bias[user] + truth.appeal[item] + popularity))


def test_clicks_follow_several_interests_and_the_link(world):
    rows = world.test
    expected = chance(world.synthetic, rows.user, rows.item)
    order = np.argsort(expected)
    for part in np.array_split(order, 10):
        spread = np.sqrt(np.sum(expected[part] * (1 - expected[part])))
        assert abs(rows.click[part].sum() - expected[part].sum()) < 4.5 * spread


def test_simulated_users_answer_by_the_same_truth(world):
    worlds = make_worlds(jax.random.key(0), world)
    user, slate = np.arange(0, len(worlds.test_users), 500), np.arange(0, len(world.catalogue), 97)
    nothing = jnp.zeros(3, jnp.int32)
    history = History(nothing, nothing > 0, jnp.int32(0))
    answer = jax.jit(jax.vmap(lambda u: worlds.test.response.click_probability(u, jnp.asarray(slate), history)))(user)
    pairs = np.meshgrid(worlds.test_users[user], world.catalogue[slate], indexing="ij")
    expected = chance(world.synthetic, *(x.ravel() for x in pairs)).reshape(len(user), len(slate))
    np.testing.assert_allclose(answer, expected, atol=2e-6)


def test_what_a_block_of_users_answers_is_what_its_pairs_do(world):
    users, items = np.arange(5), np.arange(100, 130)
    logit = synthetic.block_logits(world.synthetic, users, items)
    found = synthetic_tastes.link_of("cauchit")(logit)
    pairs = np.meshgrid(users, items, indexing="ij")
    np.testing.assert_allclose(found.ravel(), chance(world.synthetic, *(x.ravel() for x in pairs)), atol=2e-6)


@pytest.mark.parametrize("name", ["logistic", "cauchit"])
def test_links_agree_where_a_click_is_as_likely_as_none(name):
    link, step = synthetic_tastes.link_of(name), 1e-4
    assert link(np.float64(0)) == 0.5
    np.testing.assert_allclose((link(np.float64(step)) - link(np.float64(-step))) / (2 * step), 0.25, rtol=1e-6)


def test_a_world_says_whose_taste_it_has(world):
    assert world.source == "synthetic kuairand world (seed 3, taste interests, link cauchit)"
