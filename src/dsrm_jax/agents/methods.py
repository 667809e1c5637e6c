"""Method names, the agents behind them, and what each needs."""

from collections.abc import Callable
from typing import NamedTuple

from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.dsrm_hrl import make_dsrm_hrl
from dsrm_jax.agents.yardsticks import YARDSTICKS, make_yardstick
from dsrm_jax.config import AgentConfig
from dsrm_jax.errors import unknown_name


class Method(NamedTuple):
    """A learner.

    Attributes:
        make: `(config, *, slate_size) -> Agent`.
        needs_log: it learns from the training log (`LoggedData` is handed to its `init`).
        in_model: it trains in a simulator whose responses were fitted to the training log, never in the true one.
    """

    make: Callable[..., Agent]
    needs_log: bool = False
    in_model: bool = False


LEARNERS: dict[str, Method] = {
    "dsrm_hrl": Method(make_dsrm_hrl),
    "hrl": Method(make_dsrm_hrl),
    "hrl_rce": Method(make_dsrm_hrl),
    "hrl_tce": Method(make_dsrm_hrl),
    "hrl_bod": Method(make_dsrm_hrl),
}
METHODS = (*LEARNERS, *YARDSTICKS, "oracle")


def check_method(method: str) -> None:
    """Raise `InputError` with the nearest valid name where a method does not exist."""
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)


def needs_log(method: str) -> bool:
    """Return whether a method learns from the training log."""
    return method in LEARNERS and LEARNERS[method].needs_log


def in_model(method: str) -> bool:
    """Return whether a method trains in a simulator fitted to the training log."""
    return method in LEARNERS and LEARNERS[method].in_model


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
    if config.method in LEARNERS:
        return LEARNERS[config.method].make(config, slate_size=slate_size)
    raise unknown_name("trainable method", config.method, (*LEARNERS, *YARDSTICKS))
