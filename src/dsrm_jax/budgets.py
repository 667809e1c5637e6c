"""Named budgets: how much of everything a run spends. A budget is a partial configuration; files and flags override it."""

from typing import Any

BUDGETS: dict[str, dict[str, dict[str, Any]]] = {
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
