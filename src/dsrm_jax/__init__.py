"""DSRM-HRL in JAX: purify a recommender's view of its user with a diffusion model, then act on it fairly.

The names below are the library's front door; every piece can also be imported from its room on its own. Importing the package
imports no JAX and sets nothing: a name is loaded when it is first used. Where CPUs need flags (README, Known trouble) and
lack them a first use warns.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_EXPORTS = {
    # the command line's settings
    "Config": "config",
    "budget": "config.budgets",
    # logs
    "InputError": "errors",
    "InteractionLog": "data.log",
    "load_log": "data.sources",
    "describe": "data.statistics",
    # worlds and users that react
    "World": "simulator.world",
    "Worlds": "simulator.build",
    "make_worlds": "simulator.build",
    "Response": "simulator.world",
    "Environment": "simulator.environment",
    "make_environment": "simulator.environment",
    "Leave": "simulator.leave",
    "Mechanism": "simulator.mechanism",
    "with_mechanisms": "simulator.mechanism",
    "MECHANISMS": "simulator.presets",
    "make": "simulator.presets",
    "PRESETS": "simulator.presets",
    # from a history to a purified state
    "Purifier": "purify.purifier",
    "Learning": "purify.purifier",
    "make_purifier": "purify.kinds",
    "make_rce_purifier": "purify.rce",
    "make_tce_purifier": "purify.tce",
    "make_bod_purifier": "purify.bod",
    "Encoder": "purify.encoder",
    "make_encoder": "purify.encoder",
    "make_perceive": "purify.perception",
    "Perception": "purify.perception",
    "fit_perception": "purify.stage_one",
    "fit_purifiers": "purify.stage_one",
    "Windows": "purify.windows",
    "make_catalogue": "purify.encoder",
    "View": "purify.view",
    "Catalogue": "purify.view",
    # what acts and learns
    "Agent": "agents.agent",
    "Rollout": "agents.agent",
    "Method": "agents.agent",
    "METHODS": "agents.methods",
    "make_agent": "agents.methods",
    "make_dsrm_hrl": "agents.methods",
    "make_a2c": "agents.methods",
    "make_td3": "agents.methods",
    "make_bcq": "agents.methods",
    "make_mofir": "agents.methods",
    "make_dorl": "agents.methods",
    "make_dnair": "agents.methods",
    "make_sac4ir": "agents.methods",
    "make_fcpo": "agents.methods",
    "make_flat": "agents.methods",
    "sample_slate": "agents.slates",
    "slate_log_prob": "agents.slates",
    "greedy_slate": "agents.slates",
    "generalised_advantage": "agents.returns",
    "cpo_step": "agents.cpo",
    "conjugate_gradient": "agents.conjugate_gradient",
    # training, evaluation, serving
    "make_train": "training.loop",
    "make_trainer": "training.loop",
    "prepare": "runs.prepare",
    "seed_keys": "runs.prepare",
    "evaluate": "evaluation.evaluate",
    "run_sessions": "evaluation.sessions",
    "agent_rule": "evaluation.sessions",
    "session_metrics": "evaluation.metrics",
    "export_policy": "serving.export",
    "load_policy": "serving.load",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'dsrm_jax' has no attribute {name!r}")
    from dsrm_jax.parallel.xla import warn_of_faults

    warn_of_faults()
    return getattr(import_module(f"dsrm_jax.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
