"""Named environments: the paper's reading, its two public relatives, and worlds in which there is something to plan."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from dsrm_jax.errors import unknown_name
from dsrm_jax.simulator.appetite import make_appeal, make_mood
from dsrm_jax.simulator.environment import Environment, make_environment
from dsrm_jax.simulator.mechanism import Mechanism
from dsrm_jax.simulator.platform import make_platform
from dsrm_jax.simulator.retention import make_retention
from dsrm_jax.simulator.satisfaction import make_satisfaction
from dsrm_jax.simulator.tolerance import make_tolerance

MECHANISMS: Mapping[str, Callable[..., Mechanism]] = MappingProxyType(
    {
        "appeal": make_appeal,
        "mood": make_mood,
        "satisfaction": make_satisfaction,
        "tolerance": make_tolerance,
        "retention": make_retention,
        "platform": make_platform,
    }
)
"""What gives sessions memory, by name; the keywords of each are the fields of its settings."""

LIKING: Mapping[str, Any] = MappingProxyType({"appeal": {}, "satisfaction": {}})
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "paper": {},
        "kuaisim": {"max_len": 20, "ad_penalty": 0, "double_sigmoid": True, "slate_correlation": 0.2},
        "her4if": {"slate_size": 10, "max_len": 20, "ad_bound": 0.3, "slate_correlation": 0.2},
        "satisfaction": {"ad_penalty": 0, "mechanisms": LIKING},
        "mood": {
            "ad_penalty": 0,
            "mechanisms": {
                "appeal": {"offset": -1.0, "mean": 1.0, "spread": 1.5},
                "mood": {},
                "satisfaction": {"slope": 10.0},
            },
        },
        "platform": {"ad_penalty": 0, "mechanisms": {**LIKING, "platform": {}}},
        "tolerance": {"ad_penalty": 0, "mechanisms": {"appeal": {}, "tolerance": {}}},
        "retention": {"ad_penalty": 0, "mechanisms": {"appeal": {}, "retention": {}}},
    }
)
"""What differs from the defaults of `make_environment`, the paper's, by name; of each of `mechanisms` what differs from its own.

`kuaisim` is the public repository Applied-ML-Lab/KuaiSim, `her4if` that of the paper's group, 1163710212/HER4IF (both:
`env/KREnvironment_WholeSession_GPU.py`). In the others a slate's effect outlasts it: what is popular wears users out
(`satisfaction`), who like it by their mood (`mood`); the platform has a budget of it (`platform`); each user is at ease with a
share of their own (`tolerance`); users come back, or do not (`retention`)."""


def make(name: str = "paper", **overrides: Any) -> Environment:
    """Return a named environment of `PRESETS`; keywords of `make_environment` win over the preset's.

    A keyword of `MECHANISMS` changes that mechanism's settings, `make("mood", satisfaction={"slope": 8.0})`, adds it where the
    preset lacks it, and takes it away with None. `mechanisms`, a sequence of `Mechanism`s, replaces the preset's.

    Raises:
        InputError: an unknown name, with the nearest valid one, or a setting out of range.
    """
    if name not in PRESETS:
        raise unknown_name("environment", name, PRESETS)
    settings = dict(PRESETS[name])
    chosen = dict(settings.pop("mechanisms", {}))
    for mechanism in [key for key in overrides if key in MECHANISMS]:
        own = overrides.pop(mechanism)
        chosen[mechanism] = None if own is None else {**(chosen.get(mechanism) or {}), **own}
    made = [MECHANISMS[key](**own) for key, own in chosen.items() if own is not None]
    return make_environment(**{"mechanisms": made, **settings, **overrides})
