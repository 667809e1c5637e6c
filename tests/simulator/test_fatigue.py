"""Fatigue against sums over everything shown, with CIRS's exponential of age; no repeats by exhaustion."""

import jax
import jax.numpy as jnp
import numpy as np

from dsrm_jax.simulator.fatigue import make_fatigue, make_no_repeats
from tests.simulator.worlds import remembering_world

ITEMS, K, STEPS = 12, 3, 7
RNG = np.random.default_rng(0)
CATEGORIES = np.vstack([RNG.random((ITEMS - 1, 4)) < 0.4, np.zeros((1, 4), bool)])  # the last item has none
SLATES = np.stack([RNG.permutation(ITEMS)[:K] for _ in range(STEPS)]).astype(np.int32)


def path(mechanism, world):
    def step(memory, slate):
        found = mechanism.feel(memory, (), jnp.arange(ITEMS), world), mechanism.observe(memory)
        return mechanism.step(jax.random.key(0), memory, (), slate, jnp.zeros(K, bool), world), found

    return jax.lax.scan(step, mechanism.start(jax.random.key(0), (), world), jnp.asarray(SLATES))[1]


def test_odds_are_divided_by_what_was_shown_the_older_the_less():
    item, category, decay = 0.7, 0.3, 0.6
    mechanism = make_fatigue(item=item, category=category, decay=decay, slots=K * STEPS)
    world = remembering_world([mechanism], num_items=ITEMS, categories=jnp.asarray(CATEGORIES))
    felt, seen = jax.jit(path, static_argnums=0)(mechanism, world)
    for t in range(STEPS):
        for i in range(ITEMS):
            own, shared = 0.0, []
            for earlier in range(t):
                own += np.exp(-(t - 1 - earlier) * -np.log(decay)) * (SLATES[earlier] == i).sum()
            for c in np.flatnonzero(CATEGORIES[i]):
                shared.append(sum(decay ** (t - 1 - s) * CATEGORIES[SLATES[s], c].sum() for s in range(t)))
            effect = item * own + category * (np.mean(shared) if shared else 0.0)
            np.testing.assert_allclose(np.exp(felt[t, i]), 1 / (1 + effect), rtol=1e-5)
        counts = [sum(decay ** (t - 1 - s) * CATEGORIES[SLATES[s], c].sum() for s in range(t)) for c in range(4)]
        np.testing.assert_allclose(seen[t], (1 - decay) * np.array(counts), rtol=1e-5, atol=1e-6)


def test_what_was_shown_among_the_last_slots_is_not_clicked_again():
    slots = 2 * K
    mechanism = make_no_repeats(slots=slots, loss=25.0)
    world = remembering_world([mechanism], num_items=ITEMS)
    felt, seen = jax.jit(path, static_argnums=0)(mechanism, world)
    for t in range(STEPS):
        last = SLATES[:t].ravel()[-slots:]
        np.testing.assert_array_equal(felt[t], np.where(np.isin(np.arange(ITEMS), last), -25.0, 0.0))
        np.testing.assert_allclose(seen[t, 0], len(set(last)) / max(len(last), 1))
