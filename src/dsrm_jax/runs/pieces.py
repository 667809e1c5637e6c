"""The pieces that a configuration names: the one place where its tree becomes environment, encoder, purifier, agent, training."""

from dataclasses import replace
from functools import partial, wraps

from jaxtyping import Array, Key

from dsrm_jax import plugins
from dsrm_jax.agents.agent import Agent
from dsrm_jax.agents.methods import check_method, make_agent, method_of
from dsrm_jax.config import Config, EnvironmentConfig
from dsrm_jax.data.log import InteractionLog
from dsrm_jax.data.sources import check_source, load_log
from dsrm_jax.errors import InputError
from dsrm_jax.purify.encoder import Encoder, make_encoder
from dsrm_jax.purify.kinds import DENOISERS, PURIFIERS
from dsrm_jax.purify.perception import Perceive, make_perceive
from dsrm_jax.purify.purifier import Purifier
from dsrm_jax.purify.settings import PurifierConfig, at_defaults
from dsrm_jax.purify.windows import Windows
from dsrm_jax.simulator.build import Worlds, make_worlds
from dsrm_jax.simulator.environment import Environment, Reward, make_environment, mean_click
from dsrm_jax.simulator.leave import Leave
from dsrm_jax.simulator.log_responses import KINDS, MakeResponse
from dsrm_jax.simulator.mechanism import Mechanism
from dsrm_jax.simulator.presets import MECHANISMS
from dsrm_jax.simulator.world import SessionStarts
from dsrm_jax.training.loop import Trainer, make_trainer


def check_names(config: Config) -> None:
    """Refuse a method, data set or piece that does not exist, before any work.

    Raises:
        InputError: with the nearest valid name, or what is wrong with a `module:function`.
    """
    check_method(config.agent.method)
    check_source(config.data.env)
    _maker(config)
    networks = (("agent.manager", config.agent.manager), ("agent.worker", config.agent.worker))
    for what, name in (("reward", config.environment.reward), ("leave rule", config.environment.leave), *networks):
        if name:
            plugins.load(name, what=what)
    mechanisms_of(config)
    response_of(config.environment.response)
    if config.environment.train_response:
        response_of(config.environment.train_response)


def log_of(config: Config) -> InteractionLog:
    """Return the log that the sections `data` and `synthetic` name."""
    settings = vars(config.data) | vars(config.synthetic)
    return load_log(settings.pop("env"), **settings)


def environment_of(config: Config) -> Environment:
    """Return the simulator of sessions.

    Raises:
        InputError: a reward or leave rule that is not there or not to be used.
    """
    section = config.environment
    settings = vars(section) | {"reward": _reward_of(section), "leave": _leave_of(section)}
    settings["mechanisms"] = mechanisms_of(config)
    return make_environment(**plugins.asked(make_environment, settings))


def mechanisms_of(config: Config) -> tuple[Mechanism, ...]:
    """Return the mechanisms in force.

    Raises:
        InputError: one that is not there or not to be used.
    """
    found = []
    for name in config.world.mechanisms:
        if name in MECHANISMS:
            made = MECHANISMS[name](**plugins.asked(MECHANISMS[name], vars(getattr(config.world, name))))
        else:
            made = plugins.call(plugins.load(name, what="mechanism", names=MECHANISMS), {})
        if not isinstance(made, Mechanism):
            raise InputError(f"mechanism {name!r} returned {type(made).__name__}, expected a dsrm_jax.Mechanism")
        found.append(made)
    return tuple(found)


def windows_of(config: Config, starts: SessionStarts) -> Windows:
    """Return the histories of a log's rows that encoder and purifier learn from."""
    return Windows(starts, config.environment.history_length, config.environment.arrival_length)


def _reward_of(section: EnvironmentConfig) -> Reward:
    if not section.reward:
        return mean_click
    return partial(plugins.call, plugins.load(section.reward, what="reward"), {})


def _leave_of(section: EnvironmentConfig) -> Leave | None:
    if not section.leave:
        return None
    offered = {name: getattr(section, name) for name in ("slate_size", "max_len", "ad_bound", "ad_penalty", "step_cap")}
    rule = plugins.call(plugins.load(section.leave, what="leave rule"), offered)
    if not isinstance(rule, Leave):
        raise InputError(
            f"leave rule {section.leave!r} returned {type(rule).__name__}, expected a dsrm_jax.Leave(start, step)"
        )
    return rule


def response_of(text: str) -> str | MakeResponse:
    """Return the source of responses that a configuration names, for `make_worlds`.

    Raises:
        InputError: an unknown name, or a function that is not there.
    """
    if text in KINDS:
        return text
    function = plugins.load(text, what="response", names=KINDS)
    return wraps(function)(partial(plugins.call, function, {}))


def worlds_of(key: Key[Array, ""], log: InteractionLog, config: Config) -> Worlds:
    """Return the training and the test world; a method that learns in a model of the log gets one fitted to it.

    Raises:
        InputError: a log or response that cannot be used.
    """
    section = config.environment
    own = response_of(section.train_response) if section.train_response else None
    train = "fitted" if method_of(config.agent.method).in_model else own
    settings = vars(section) | {"response": response_of(section.response), "train_response": train}
    settings["mechanisms"] = mechanisms_of(config)
    return make_worlds(key, log, **plugins.asked(make_worlds, settings, key, log))


def encoder_of(config: Config) -> Encoder:
    """Return the encoder of histories."""
    section = config.encoder
    return make_encoder(kind=section.kind, dim=section.dim, hidden=section.hidden)


def purifier_settings(config: Config) -> PurifierConfig:
    """Return the purifier's settings with `kind="auto"` replaced by what the method calls for."""
    if config.purifier.kind != "auto":
        return config.purifier
    return replace(config.purifier, kind=method_of(config.agent.method).state)


def _maker(config: Config) -> plugins.Plugin:
    kind = purifier_settings(config).kind
    return PURIFIERS[kind] if kind in PURIFIERS else plugins.load(kind, what="purifier", names=PURIFIERS)


def purifier_of(config: Config) -> Purifier:
    """Return the purifier.

    Raises:
        InputError: a kind that is not there or not to be used.
    """
    settings = purifier_settings(config)
    kind, make = settings.kind, _maker(config)
    offered = vars(config.denoiser if kind in DENOISERS else settings)
    purifier = plugins.call(make, {name: value for name, value in offered.items() if name != "kind"})
    if not isinstance(purifier, Purifier):
        raise InputError(
            f"purifier {kind!r} returned {type(purifier).__name__}, expected a dsrm_jax.Purifier(init, loss, purify)"
        )
    return purifier


def without_process(config: Config) -> Config:
    """Return what a configuration says beside its reverse process, where that can be an argument (`share_process`)."""
    purifier = purifier_of(config)
    if purifier.process is None or purifier.draws:
        return config
    return replace(config, purifier=at_defaults(config.purifier))


def perceive_of(config: Config) -> Perceive:
    """Return the map from observations to views."""
    return make_perceive(encoder_of(config), purifier_of(config))


def agent_of(config: Config, method: str = "") -> Agent:
    """Return the agent of the configuration's method, or of another one."""
    settings = replace(config.agent, method=method) if method else config.agent
    return make_agent(settings, slate_size=config.environment.slate_size)


def trainer_of(config: Config) -> Trainer:
    """Return the training program; the configuration's floats may be traced."""
    return make_trainer(
        environment_of(config),
        agent_of(config),
        encoder_of(config),
        purifier_of(config),
        num_users=config.training.num_users,
        rollout_length=config.training.rollout_length,
    )
