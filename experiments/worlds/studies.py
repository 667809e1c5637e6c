"""The worlds under study by name, and what a planner must know of each beside its users."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax

from dsrm_jax.simulator import presets
from dsrm_jax.simulator.settings import MoodConfig, RetentionConfig, SatisfactionConfig
from experiments.worlds.bounds import Study
from experiments.worlds.planning import Effects

WORLDS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "satisfaction": ("satisfaction", {}),
        "satisfaction, off": ("satisfaction", {"satisfaction": None}),
        "mood": ("mood", {}),
        "mood, satisfaction off": ("mood", {"satisfaction": None}),
        "platform": ("platform", {}),
        "platform on mood": ("mood", {"platform": {}}),
        "tolerance": ("tolerance", {}),
        "tolerance, off": ("tolerance", {"tolerance": None}),
        "retention": ("retention", {}),
        "retention, off": ("retention", {"retention": {"slope": 0.0}}),
    }
)
"""Preset and what is changed in it, by what tables call it; those that are off are controls: nothing is to be planned."""


def study_of(preset: str, **overrides: Any) -> Study:
    """Return a preset's environment and effects; `overrides` as `presets.make` takes them, mechanisms alone."""
    environment = presets.make(preset, **overrides)
    changed = {**presets.PRESETS[preset].get("mechanisms", {}), **overrides}
    chosen = {name: own for name, own in changed.items() if own is not None}
    effects: dict[str, Any] = {"slate_size": environment.slate_size, "max_len": environment.max_steps}
    returns, visits = None, 1
    if "satisfaction" in chosen:
        tired = SatisfactionConfig(**chosen["satisfaction"])
        effects |= {"slope": tired.slope, "decay": tired.memory, "start": tired.start}
    if "mood" in chosen:
        mood = MoodConfig(**chosen["mood"])
        effects |= {"mood_deviation": mood.spread, "mood_correlation": mood.memory}
    if "retention" in chosen:
        coming = RetentionConfig(**chosen["retention"])
        visits = coming.visits
        effects |= {"max_len": environment.max_steps // visits, "decay": coming.memory, "start": coming.start}
        comes_back = next(m.returns for m in environment.mechanisms if m.returns)
        returns = jax.vmap(lambda n, user: comes_back(n, user.threshold), in_axes=(0, None))
    return Study(environment, Effects(**effects), returns, visits, "platform" in chosen)
