"""P7: histories with clicks put in and left out, event by event, and the ratio of known linear maps. P3: known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.simulator.world import History
from experiments.probes.counterfactuals import hide_clicks, insert_clicks, response_ratio, sensitivity

H = 6


@pytest.fixture(scope="module")
def history():
    rng = np.random.default_rng(0)
    length = np.array([0, 2, 6, 5], np.int32)
    real = np.arange(H) >= H - length[:, None]
    item = np.where(real, rng.integers(0, 10, (4, H)), 0).astype(np.int32)
    click = real & (rng.random((4, H)) < 0.7)
    return History(jnp.asarray(item), jnp.asarray(click), jnp.asarray(length))


def test_inserted_clicks_are_the_newest_events(history):
    found = insert_clicks(jax.random.key(0), history, jnp.array([20, 21]), number=2)
    np.testing.assert_array_equal(found.item[:, :-2], history.item[:, 2:])
    np.testing.assert_array_equal(found.click[:, :-2], history.click[:, 2:])
    assert np.all(np.isin(found.item[:, -2:], [20, 21]))
    assert np.all(found.click[:, -2:])
    np.testing.assert_array_equal(found.length, [2, 4, 6, 6])


def test_the_latest_clicks_of_a_group_are_hidden_and_nothing_else(history):
    group = np.arange(10) % 2 == 0
    visible = np.asarray(hide_clicks(history, jnp.asarray(group), number=2))
    for user in range(4):
        hidden, left = set(), 2
        for slot in range(H - 1, H - 1 - int(history.length[user]), -1):
            if left and bool(history.click[user, slot]) and group[int(history.item[user, slot])]:
                hidden.add(slot)
                left -= 1
        assert set(np.flatnonzero(~visible[user])) == hidden
    assert np.any(~visible)


def test_a_ratio_of_known_maps():
    rng = np.random.default_rng(1)
    raw = rng.normal(size=(400, 3))
    popular = raw + np.eye(3)[0]
    niche = raw + np.eye(3)[1]

    def purify(x):
        return x * [0.1, 1.0, 1.0]  # answers along the popular axis with a tenth

    ratio = [float(response_ratio(raw, moved, purify(raw), purify(moved))) for moved in (popular, niche)]
    spread = np.sqrt(raw.var(axis=0).sum() / purify(raw).var(axis=0).sum())
    np.testing.assert_allclose(ratio, [0.1 * spread, spread], rtol=1e-5)
    # the identity and mere shrinking, the negative controls, answer exactly as the raw states do
    for same in (raw, 0.1 * raw + 4):
        factor = 1.0 if same is raw else 0.1
        for moved in (popular, niche):
            assert float(response_ratio(raw, moved, same, same + factor * (moved - raw))) == pytest.approx(1, rel=1e-5)
    assert float(response_ratio(raw, raw, raw, popular)) == 0
    assert float(response_ratio(raw, popular, 0 * raw, 0 * raw)) == 0


def test_sensitivity_to_an_input_that_is_all_half_or_none_of_the_output():
    own, shared = np.random.default_rng(0).normal(size=(2, 200, 6)).astype(np.float32)
    other = own[::-1]
    np.testing.assert_allclose(sensitivity(own, other), np.sqrt(2), rtol=0.1)
    np.testing.assert_allclose(sensitivity(shared + own, shared + other), 1, rtol=0.1)  # half of the variance moves
    # the identity and an untrained purifier do not hear the condition, and must fail P3
    assert sensitivity(own, own) == 0
    assert sensitivity(jnp.ones_like(own), jnp.ones_like(own)) == 0
