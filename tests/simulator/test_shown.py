"""What a platform counts of a session against sums over all its slates, each by its age."""

import jax
import numpy as np

from dsrm_jax.simulator import shown

SLATES, K = 7, 4


def test_counts_fade_by_age_and_are_weighed_by_what_was_seen_before():
    rng = np.random.default_rng(0)
    popular = rng.random((SLATES, K)) < 0.4
    clicks = rng.random((SLATES, K)) < 0.5
    memory = shown.start(np.float32(0.3))
    for slate in zip(popular, clicks, strict=True):
        memory = jax.jit(shown.step)(memory, *slate)
    found = np.asarray(shown.observe(memory), np.float64)

    share = popular.mean(axis=1)

    def leaky(decay, until):
        past = [(1 - decay) * decay ** (until - 1 - t) * share[t] for t in range(until)]
        return decay**until * shown.START_SHARE + sum(past)

    before = np.array([leaky(0.8, t) for t in range(SLATES)])  # the net exposure of `satisfaction`
    rates, counts = [], np.zeros((2, 3, 2, 2))
    for d, decay in enumerate(shown.DECAYS):
        age = decay ** np.arange(SLATES)[::-1]
        for group in (0, 1):
            slots = (popular == group).mean(axis=1)
            clicked = ((popular == group) & clicks).mean(axis=1)
            rates.append(((age * clicked).sum() + shown.PRIOR) / ((age * slots).sum() + 2 * shown.PRIOR))
            for kind, number in enumerate((slots, clicked)):
                counts[kind, d, group, 0] = (1 - decay) * (age * number).sum()
                counts[kind, d, group, 1] = (1 - decay) * (age * number * before).sum()
    expected = np.concatenate([[0.3], [leaky(decay, SLATES) for decay in shown.DECAYS], rates, counts.ravel()])
    np.testing.assert_allclose(found, expected, atol=1e-6)
