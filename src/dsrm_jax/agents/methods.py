"""The table of methods: their settings, and the record that says all that depends on a method's name."""

from dataclasses import field, fields
from inspect import signature

from flax import linen as nn

from dsrm_jax.agents.a2c import A2C, A2CConfig, make_a2c
from dsrm_jax.agents.agent import Agent, Method
from dsrm_jax.agents.bcq import BCQ, BCQConfig, make_bcq
from dsrm_jax.agents.dnair import DNAIR, DNAIR_DSRM, DNaIRConfig, make_dnair
from dsrm_jax.agents.dorl import DORL, DORLConfig, make_dorl
from dsrm_jax.agents.dsrm_hrl import DSRM_HRL, HRL, HRL_BOD, HRL_RCE, HRL_TCE, make_dsrm_hrl
from dsrm_jax.agents.fcpo import FCPO, FCPOConfig, make_fcpo
from dsrm_jax.agents.flat import FLAT, make_flat
from dsrm_jax.agents.mofir import MOFIR, MOFIRConfig, make_mofir
from dsrm_jax.agents.replay import ReplayConfig
from dsrm_jax.agents.sac4ir import SAC4IR, SAC4IRConfig, make_sac4ir
from dsrm_jax.agents.settings import SharedConfig
from dsrm_jax.agents.td3 import TD3, TD3Config, make_td3
from dsrm_jax.agents.yardsticks import ORACLE, QUOTA_GREEDY, QUOTA_GREEDY_PURIFIED, QUOTA_RANDOM, RANDOM
from dsrm_jax.errors import InputError
from dsrm_jax.plugins import call, is_plugin, load
from dsrm_jax.purify.settings import PURIFYING
from dsrm_jax.settings import configuration

__all__ = ["METHODS", "AgentConfig", "check_method", "keywords_of", "make_agent", "method_of"]
__all__ += ["make_a2c", "make_bcq", "make_dnair", "make_dorl", "make_dsrm_hrl", "make_fcpo", "make_flat", "make_mofir"]
__all__ += ["make_sac4ir", "make_td3"]

TABLE = (
    *(DSRM_HRL, A2C, TD3, BCQ, MOFIR, DORL, DNAIR, SAC4IR, FCPO),
    *(FLAT, HRL, HRL_RCE, HRL_TCE, HRL_BOD, DNAIR_DSRM),
    *(RANDOM, QUOTA_RANDOM, QUOTA_GREEDY, QUOTA_GREEDY_PURIFIED, ORACLE),
)
METHODS: dict[str, Method] = {method.name: method for method in TABLE}


@configuration
class AgentConfig(SharedConfig):
    """The policy and its optimiser."""

    method: str = DSRM_HRL.name
    """Method: one of the names that the README lists (a misspelt one is answered with the list), or module:function, which is
    called with slate_size and those of the settings above that it names, and returns an Agent."""
    manager: str = ""
    """module:function that returns the manager's network, called with hidden; empty: the method's own."""
    worker: str = ""
    """module:function that returns the worker's network, called with hidden; empty: the method's own."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    a2c: A2CConfig = field(default_factory=A2CConfig)
    td3: TD3Config = field(default_factory=TD3Config)
    bcq: BCQConfig = field(default_factory=BCQConfig)
    mofir: MOFIRConfig = field(default_factory=MOFIRConfig)
    dorl: DORLConfig = field(default_factory=DORLConfig)
    dnair: DNaIRConfig = field(default_factory=DNaIRConfig)
    sac4ir: SAC4IRConfig = field(default_factory=SAC4IRConfig)
    fcpo: FCPOConfig = field(default_factory=FCPOConfig)


def method_of(name: str) -> Method:
    """Return the record of a method, or one of a method from outside the package.

    Args:
        name: of `METHODS`, or `module:function`. The function gets `slate_size` and those of `SharedConfig`'s fields that it
            names, and returns an `Agent`; its attribute `state`, if it has one, is the purifier's kind that it wants.

    Raises:
        InputError: an unknown name, with the nearest valid one; a module or function that does not exist.
    """
    if name in METHODS:
        return METHODS[name]
    make = load(name, what="method", names=METHODS)
    return Method(name, name, "from outside the package", make, state=getattr(make, "state", PURIFYING))


def check_method(name: str) -> None:
    """Raise `InputError` with the nearest valid name where a method does not exist."""
    method_of(name)


def make_agent(config: AgentConfig, *, slate_size: int) -> Agent:
    """Build the agent that `config.method` names.

    Args:
        config: method and settings; floats may be traced.
        slate_size: K.

    Raises:
        InputError: as `method_of`; a method that is no agent but acts on what only the simulator knows; a function from
            outside that returns no `Agent`.
    """
    method = method_of(config.method)
    if method.make is None:
        names = ", ".join(name for name, other in METHODS.items() if other.make is not None)
        raise InputError(f"method {method.name} is not trainable and no agent: choose one of {names}")
    if not is_plugin(config.method):
        return method.make(slate_size=slate_size, **keywords_of(method, config))
    agent = call(method.make, {"slate_size": slate_size} | _shared(config))
    if not isinstance(agent, Agent):
        raise InputError(f"method {method.name} returned a {type(agent).__name__}, expected a dsrm_jax.Agent")
    return agent


def keywords_of(method: Method, config: AgentConfig) -> dict[str, object]:
    """Return the keywords of `method.make` but `slate_size`: by name from the method's own settings, else from the shared ones.

    Raises:
        InputError: a network from outside that cannot be made.
    """
    sections = {type(section): section for section in (getattr(config, f.name) for f in fields(config))}
    sections[SharedConfig] = config
    assert method.make is not None
    found: dict[str, object] = {}
    for name in signature(method.make).parameters:
        if name in method.networks:
            found[name] = _network(name, getattr(config, name), config)
        elif name != "slate_size":
            owners = (cls for cls in (*method.settings, SharedConfig) if hasattr(cls, name))
            cls, source = method.borrowed.get(name) or (next(owners), name)
            found[name] = getattr(sections[cls], source)
    return found


def _shared(config: AgentConfig) -> dict[str, object]:
    return {f.name: getattr(config, f.name) for f in fields(SharedConfig)}


def _network(name: str, text: str, config: AgentConfig) -> nn.Module | None:
    """Return the network that `module:function` makes; None where the text is empty."""
    if not text:
        return None
    network = call(load(text, what=f"agent.{name}"), _shared(config))
    if not isinstance(network, nn.Module):
        raise InputError(f"agent.{name} {text!r} returned a {type(network).__name__}, expected a flax.linen.Module")
    return network
