import jax.numpy as jnp
import pytest

from dsrm_jax.errors import InputError
from dsrm_jax.purify.stage_one import check_loss


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 6.0])
def test_a_phase_that_broke_is_named_with_its_own_setting(bad):
    losses = jnp.array([[0.5, 0.4], [0.5, bad]])  # one seed of two, at its last step
    check_loss(losses[:1], "the history encoder", "encoder.learning_rate")
    with pytest.raises(InputError, match=r"the history encoder broke .* lower encoder\.learning_rate"):
        check_loss(losses, "the history encoder", "encoder.learning_rate")
