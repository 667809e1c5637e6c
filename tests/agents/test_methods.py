"""Names of methods."""

import pytest

from dsrm_jax.agents.methods import LEARNERS, METHODS, check_method, make_agent
from dsrm_jax.agents.yardsticks import YARDSTICKS
from dsrm_jax.config import AgentConfig
from dsrm_jax.errors import InputError


@pytest.mark.parametrize("method", [*LEARNERS, *YARDSTICKS])
def test_every_method_but_the_oracle_makes_an_agent(method):
    agent = make_agent(AgentConfig(method=method), slate_size=2)
    assert all(callable(function) for function in agent)
    assert method in METHODS


def test_a_misspelt_method_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'dsrm_hrl'"):
        check_method("dsrm-hrl")
    with pytest.raises(InputError, match="unknown method"):
        make_agent(AgentConfig(method="sac"), slate_size=2)


def test_the_oracle_is_a_method_but_cannot_be_trained():
    check_method("oracle")
    with pytest.raises(InputError, match="trainable"):
        make_agent(AgentConfig(method="oracle"), slate_size=2)
