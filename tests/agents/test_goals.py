"""How a goal becomes a slate, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.agents import goals
from dsrm_jax.purify.view import Catalogue

ITEMS, K, USERS = 40, 6, 12


@pytest.fixture(scope="module")
def catalogue():
    rng = np.random.default_rng(0)
    popular = np.arange(ITEMS) < 15
    return Catalogue(
        vectors=jnp.asarray(rng.normal(size=(ITEMS, 3)), jnp.float32),
        bias=jnp.zeros(ITEMS),
        log_popularity=jnp.asarray(np.where(popular, 1.5, -0.5) + 0.3 * rng.normal(size=ITEMS), jnp.float32),
        is_popular=jnp.asarray(popular),
    )


def split(output: np.ndarray) -> np.ndarray:
    """Popular slots of K, by the docstring of `popular_slots`, halves to the long tail."""
    return np.ceil(K / (1 + np.exp(output[:, 1])) - 0.5).astype(int)


@pytest.mark.parametrize("mode", ["share", "quota"])
def test_a_goal_splits_the_slate_and_only_under_quota_reorders_it(catalogue, mode):
    rng = np.random.default_rng(1)
    query, output = rng.normal(size=(USERS, 3)), np.stack([rng.normal(size=USERS), np.linspace(-3, 3, USERS)], axis=1)
    unit = np.asarray(catalogue.vectors, np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)

    @jax.jit
    def fill(query, output):
        goal = goals.scoring_goal(goals.goal_from(output), slate_mode=mode)
        scores = goals.factored_scores(query, goal, jnp.float32(2.0), jnp.asarray(unit, jnp.float32), catalogue)
        sizes = {"slate_mode": mode, "slate_size": K, "greedy": True}
        return goals.fill_slate(jax.random.key(0), scores, output, catalogue, **sizes)[0]

    slates = np.asarray(fill(*(jnp.asarray(x, jnp.float32) for x in (query, output))))
    cosine = query @ unit.T / np.linalg.norm(query, axis=1, keepdims=True)
    weight = np.log1p(np.exp(output[:, 0])) / np.log(2)
    fair = 0.0 if mode == "share" else goals.FAIR_SCALE * output[:, 1:]
    score = weight[:, None] * cosine - fair * np.asarray(catalogue.log_popularity, np.float64)
    popular = np.asarray(catalogue.is_popular)
    for user, (slate, count) in enumerate(zip(slates, split(output), strict=True)):
        order = np.argsort(-score[user])
        expected = {*order[popular[order]][:count], *order[~popular[order]][: K - count]}
        assert set(slate) == expected
