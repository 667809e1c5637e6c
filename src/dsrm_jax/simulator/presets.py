"""Named environments: the paper's reading and its two public relatives."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dsrm_jax.errors import unknown_name
from dsrm_jax.simulator.environment import Environment, make_environment

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "paper": {},
        "kuaisim": {"max_len": 20, "ad_penalty": 0, "double_sigmoid": True, "slate_correlation": 0.2},
        "her4if": {"slate_size": 10, "max_len": 20, "ad_bound": 0.3, "slate_correlation": 0.2},
    }
)
"""What differs from the defaults of `make_environment`, the paper's, by name: `kuaisim` is the public repository
Applied-ML-Lab/KuaiSim, `her4if` that of the paper's group, 1163710212/HER4IF (both: `env/KREnvironment_WholeSession_GPU.py`)."""


def make(name: str = "paper", **overrides: Any) -> Environment:
    """Return a named environment of `PRESETS`; keywords of `make_environment` win over the preset's.

    Raises:
        InputError: an unknown name, with the nearest valid one, or a setting out of range.
    """
    if name not in PRESETS:
        raise unknown_name("environment", name, PRESETS)
    return make_environment(**{**PRESETS[name], **overrides})
