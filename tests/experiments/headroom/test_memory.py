"""The memory of items, against a float64 loop over events and the mode of an appeal."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize_scalar

from dsrm_jax.purify.view import Catalogue, View
from dsrm_jax.simulator.world import History
from experiments.headroom.memory import Remembering, appeal_of, make_remembering

B, J, D, H, SPREAD = 3, 7, 3, 12, 0.4
RNG = np.random.default_rng(0)
VECTORS, BIAS, STATE = RNG.normal(size=(J, D)), RNG.normal(size=J), RNG.normal(size=(B, D))
POSITION = np.r_[-1, RNG.permutation(J)]  # vocabulary index 0 is outside the catalogue
CATALOGUE = Catalogue(
    jnp.float32(VECTORS), jnp.float32(BIAS), jnp.zeros(J), jnp.arange(J) < 3, position=jnp.int32(POSITION)
)
LENGTH = np.array([12, 7, 0])
ITEM, CLICK = RNG.integers(0, 4, (B, H)), RNG.uniform(size=(B, H)) < 0.5
HISTORY = History(jnp.int32(ITEM), jnp.asarray(CLICK), jnp.int32(LENGTH))


def expected():
    found, events = np.zeros((B, J)), {}
    for b in range(B):
        for h in range(H - LENGTH[b], H):
            j = POSITION[ITEM[b, h]]
            if j >= 0:
                events.setdefault((b, j), []).append(bool(CLICK[b, h]))
    for (b, j), clicks in events.items():
        p = 1 / (1 + np.exp(-(VECTORS[j] @ STATE[b] + BIAS[j])))
        found[b, j] = SPREAD * sum(c - p for c in clicks) / (1 + SPREAD * len(clicks) * p * (1 - p))
    return found, events


def test_an_appeal_is_a_step_towards_its_mode_and_nothing_without_events():
    found = np.asarray(jax.jit(lambda h, s: appeal_of(h, s, CATALOGUE, spread=SPREAD))(HISTORY, jnp.float32(STATE)))
    by_hand, events = expected()
    np.testing.assert_allclose(found, by_hand, atol=1e-5)
    assert not found[2].any()
    for (b, j), clicks in events.items():
        logit = VECTORS[j] @ STATE[b] + BIAS[j]

        def negative(e, logit=logit, clicks=clicks):
            return sum(np.logaddexp(0, logit + e) - c * (logit + e) for c in clicks) + e**2 / (2 * SPREAD)

        mode = minimize_scalar(negative).x
        assert abs(found[b, j] - mode) < 0.25 * abs(mode) + 1e-4


def test_slates_are_ranked_by_logits_and_appeals_half_in_each_group():
    appeal = 3 * RNG.normal(size=(B, J))
    plain = View(jnp.float32(STATE), jnp.float32(STATE), jnp.zeros(B, jnp.int32))
    view = Remembering(plain.state, plain.observed, plain.time, appeal=jnp.float32(appeal))
    slate, _ = make_remembering(slate_size=4).act((), jax.random.key(0), view, CATALOGUE, True)
    scores = STATE @ VECTORS.T + BIAS + appeal
    for b in range(B):
        best = [sorted(group, key=lambda j: -scores[b, j])[:2] for group in (range(3), range(3, J))]
        assert np.asarray(slate)[b].tolist() == best[0] + best[1]
