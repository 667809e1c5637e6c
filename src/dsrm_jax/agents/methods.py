"""Method names and the agents behind them."""

from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.dsrm_hrl import make_dsrm_hrl
from dsrm_jax.agents.yardsticks import YARDSTICKS, make_yardstick
from dsrm_jax.config import AgentConfig
from dsrm_jax.errors import unknown_name

LEARNERS = ("dsrm_hrl",)
METHODS = (*LEARNERS, *YARDSTICKS, "oracle")


def check_method(method: str) -> None:
    """Raise `InputError` with the nearest valid name where a method does not exist."""
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)


def make_agent(config: AgentConfig, *, slate_size: int) -> Agent:
    """Build the agent that `config.method` names.

    Args:
        config: method and hyperparameters.
        slate_size: K.

    Raises:
        InputError: on an unknown method, and on `oracle`, which is no agent: it acts on what only the simulator knows, so it
            exists in evaluation alone.
    """
    check_method(config.method)
    if config.method in YARDSTICKS:
        return make_yardstick(config.method, slate_size=slate_size)
    if config.method == "dsrm_hrl":
        return make_dsrm_hrl(config, slate_size=slate_size)
    raise unknown_name("trainable method", config.method, (*LEARNERS, *YARDSTICKS))
