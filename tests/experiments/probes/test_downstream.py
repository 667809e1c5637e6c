"""P10: parts of a session's length that add up, against the closed form."""

import numpy as np
import pytest

from dsrm_jax.evaluation.sessions import Sessions
from experiments.probes.downstream import decompose, downstream


def closed(reward, broken):
    return 29 / (2 - reward + broken) + 0.5


def test_parts_add_up_and_each_is_zero_where_its_cause_is():
    base = {"reward": 0.6, "broken": 0.1, "length": closed(0.6, 0.1) + 0.2}
    better = {"reward": 0.8, "broken": 0.1, "length": closed(0.8, 0.1) - 0.1}
    found = decompose(better, base, max_len=30)
    assert found["reward"] == pytest.approx(closed(0.8, 0.1) - closed(0.6, 0.1))
    assert found["broken"] == pytest.approx(0, abs=1e-12)
    assert found["residual"] == pytest.approx(-0.3)
    both = {"reward": 0.8, "broken": 0.0, "length": closed(0.8, 0.0)}
    found = decompose(both, base, max_len=30)
    assert found["reward"] + found["broken"] + found["residual"] == pytest.approx(found["total"])
    orders = closed(0.8, 0.1) - closed(0.6, 0.1), closed(0.8, 0.0) - closed(0.6, 0.0)
    assert found["reward"] == pytest.approx(np.mean(orders))
    assert found["broken"] > 0
    assert decompose(base, base, max_len=30) == {"total": 0, "reward": 0, "broken": 0, "residual": 0}


def test_conditions_are_compared_with_the_identity():
    rng = np.random.default_rng(0)

    def sessions(rate):
        length = np.full(50, 20)
        zero = np.zeros(50, int)
        steps = np.full((1, 20), 50)
        return [
            Sessions(length, rng.binomial(120, rate, 50), zero + 60, zero, zero, 3 * steps, steps, np.ones(9, int))
            for _ in range(2)
        ]

    compared = {"identity": sessions(0.5), "purifier": sessions(0.8)}
    found = downstream(compared, slate_size=6, max_len=30)
    assert found["purifier"]["reward"]["mean"] == pytest.approx(0.8, abs=0.02)
    parts = found["purifier"]["decomposition"]
    assert parts["reward"] == pytest.approx(closed(0.8, 0) - closed(0.5, 0), abs=0.5)
    assert found["identity"]["decomposition"]["total"] == 0
    assert found["purifier"]["length_gain"]["mean"] == 0  # every session was given 20 steps
    with pytest.raises(KeyError):
        downstream({"purifier": sessions(0.8)}, slate_size=6, max_len=30)
