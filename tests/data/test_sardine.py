"""SARDINE's logs: who its users and items are, and that the clicks are those of its rule, by a literal transcription."""

import numpy as np
import pytest

from dsrm_jax.data.sources import load_log
from dsrm_jax.errors import InputError
from tests.simulator.literal_sardine import Literal

SLOPE_OMEGA = {"bored": (100.0, 1.0), "boredinf": (100.0, 0.95), "uncertain": (10.0, 0.95)}


@pytest.mark.parametrize("name", SLOPE_OMEGA)
def test_logged_clicks_follow_relevance_boredom_influence_and_position(name):
    """Every logged click of 400 users has the chance that the transcription gives it: nobody clicks who is bored."""
    log = load_log(f"sardine-topk-{name}", seed=3)
    slope, omega = SLOPE_OMEGA[name]
    item = log.synthetic.item_factors.astype(float)
    slates, clicks = (x.reshape(-1, 21, 10) for x in (log.train.item, log.train.click))
    chance = np.zeros((400, 21, 10))
    bored = 0
    for u in range(400):
        user = Literal(log.synthetic.user_factors[u].astype(float) / slope, item.argmax(1), item, omega)
        for t in range(21):
            vector = np.zeros(10) if user.bored.any() else user.user
            score = item[slates[u, t]] @ vector
            chance[u, t] = 0.85 ** np.arange(10) / (1 + np.exp(-slope * (score - 0.65)))
            bored += user.bored.any()
            user.step(slates[u, t], clicks[u, t])
    assert bored > 400
    clicks = clicks[:400]
    assert not np.any(clicks & (chance < 1e-6))
    for rows in (np.s_[:, :1], np.s_[:, 1:]):  # the slate at random, and those of the logging policy
        spread = np.sqrt(np.sum(chance[rows] * (1 - chance[rows]), axis=(0, 1)))
        off = np.abs(np.sum(clicks[rows] - chance[rows], axis=(0, 1)))
        assert np.all(off < 4 * spread + 1e-6), off / spread


def test_items_and_users_are_drawn_as_there():
    log = load_log("sardine-topk-bored")
    item, user = log.synthetic.item_factors, log.synthetic.user_factors / 100
    np.testing.assert_allclose(np.linalg.norm(item, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(user, axis=1), 1, atol=1e-6)
    assert np.all(np.isin((item > 0).sum(1), [2, 3]))
    share = np.bincount((user > 0).sum(1), minlength=6)[3:6] / len(user)
    np.testing.assert_allclose(
        share, np.array([0.2150, 0.2508, 0.2007]) / 0.6665, atol=0.03
    )  # binomial(10, .4) in 3..5
    np.testing.assert_array_equal(log.categories.argmax(1), item.argmax(1))
    assert np.all(log.categories.sum(1) == 1)
    assert not set(log.train.user) & set(log.test.user)


def test_a_misspelt_id_gets_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'sardine-topk-bored'"):
        load_log("sardine-topk-bord")
