"""Folded reductions against NumPy's, ties and infinities included."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dsrm_jax.agents.whole_slates import row_max
from experiments.fcpo_ml100k.ranker import row_argmax

BOTH = jax.jit(lambda x: (row_max(x), row_argmax(x)))
FEW_VALUES = st.sampled_from([-np.inf, -2.0, -0.0, 0.0, 1.0, 1.5, np.inf])


@settings(max_examples=60, deadline=None)
@given(
    x=st.sampled_from([1, 31, 32, 33, 64, 65, 100, 127]).flatmap(
        lambda n: arrays(np.float32, (2, n), elements=FEW_VALUES)
    )
)
def test_they_agree_with_numpy(x):
    largest, where = BOTH(x)
    np.testing.assert_array_equal(largest, x.max(1))
    np.testing.assert_array_equal(where, x.argmax(1))


def test_on_rows_of_a_catalogue_of_distinct_scores():
    x = jax.random.normal(jax.random.key(0), (50, 3327))
    np.testing.assert_array_equal(jax.jit(row_argmax)(x), np.asarray(x).argmax(1))
