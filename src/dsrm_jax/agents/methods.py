"""Method names, the agents behind them, and what each needs."""

from collections.abc import Callable
from typing import NamedTuple

from dsrm_jax.agents.a2c import make_a2c
from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.bcq import make_bcq
from dsrm_jax.agents.dnair import make_dnair
from dsrm_jax.agents.dorl import make_dorl
from dsrm_jax.agents.dsrm_hrl import make_dsrm_hrl
from dsrm_jax.agents.fcpo import make_fcpo
from dsrm_jax.agents.flat import make_flat
from dsrm_jax.agents.mofir import make_mofir
from dsrm_jax.agents.sac4ir import make_sac4ir
from dsrm_jax.agents.td3 import make_td3
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
    "a2c": Method(make_a2c),
    "td3": Method(make_td3),
    "bcq": Method(make_bcq, needs_log=True),
    "mofir": Method(make_mofir),
    "dorl": Method(make_dorl, needs_log=True, in_model=True),
    "dnair": Method(make_dnair),
    "sac4ir": Method(make_sac4ir),
    "fcpo": Method(make_fcpo),
    "flat": Method(make_flat),
    "hrl": Method(make_dsrm_hrl),
    "hrl_rce": Method(make_dsrm_hrl),
    "hrl_tce": Method(make_dsrm_hrl),
    "hrl_bod": Method(make_dsrm_hrl),
    "dnair_dsrm": Method(make_dnair),
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
