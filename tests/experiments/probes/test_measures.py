"""Rounding is no information: states that differ by float32's last digit count as constant."""

import jax.numpy as jnp
import numpy as np

from dsrm_jax.purify.encoder import Evidence
from dsrm_jax.purify.purifier import Purifier
from experiments.probes.interest import effective_rank
from experiments.probes.measures import applied


def test_states_that_differ_by_rounding_alone_are_constant_and_others_untouched():
    rounding = 1 + 1e-7 * np.random.default_rng(0).integers(-1, 2, (50, 1))

    def purify(params, key, state, evidence):
        return jnp.concatenate([jnp.float32(3 * rounding), 1e-3 * state], axis=1)

    state = jnp.float32(np.random.default_rng(1).normal(size=(50, 2)))
    control = applied(Purifier(None, None, purify), {})
    found = control(state, Evidence(summary=state))
    assert np.ptp(found[:, 0]) == 0
    np.testing.assert_allclose(found[:, 1:], 1e-3 * state, rtol=1e-6)
    assert effective_rank(found[:, :1]).entropy == 0
