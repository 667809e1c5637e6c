"""Named budgets: how much of everything a run spends. A budget is a partial configuration; files and flags override it."""

from dataclasses import replace

from dsrm_jax.config import Config
from dsrm_jax.errors import unknown_name
from dsrm_jax.types import Json

BUDGETS: dict[str, dict[str, Json]] = {
    "tiny": {
        "synthetic": {"history_scale": 0.02},
        "encoder": {"embedding_epochs": 1, "iterations": 100},
        "purifier": {"iterations": 100, "diffusion_steps": 5},
        "training": {"steps": 64, "num_users": 16, "rollout_length": 8, "seeds": (11,), "chunk_updates": 4},
        "evaluation": {"num_sessions": 64, "num_users": 64},
    },
    "default": {},
    "quick": {"training": {"steps": 2000}},
    "paper": {"training": {"steps": 20000}},
}


def budget(name: str) -> Config:
    """Return the default configuration with a named budget.

    Raises:
        InputError: on an unknown name.
    """
    if name not in BUDGETS:
        raise unknown_name("budget", name, BUDGETS)
    config = Config()
    sections = {section: replace(getattr(config, section), **values) for section, values in BUDGETS[name].items()}
    return replace(config, **sections)
