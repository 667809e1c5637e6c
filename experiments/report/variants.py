"""What rows are called: a method and what of its setting differs from its own, `a2c+half`, `quota_greedy_purified+gaussian`."""

from dsrm_jax.config import Config
from dsrm_jax.plugins import is_plugin
from experiments.report import paper

WORDS = {  # what stands after a plus, as tables print it
    "half": "half head",
    "penalty": "Eq. (6) alone",
    "skips": "raw state that sees skips",
    "nobody": "state of nobody",
    "gaussian": "Gaussian posterior",
    "mixture": "mixture posterior",
    "guided": "purifier",
    "paper": "Eq. (7) as printed",
    "untrained": "untrained",
    "worker_alone": "no manager",
    "shuffled": "purified states of other users",
    "random_goal": "goals drawn at random",
}


def variant(config: Config) -> str:
    """Return the name of a row: the method, and what of head, state and networks is not the method's own."""
    agent, kind = config.agent, config.purifier.kind
    parts = [
        agent.method,
        "half" if agent.head == "half" else "",
        agent.slate_mode if agent.slate_mode != "quota" else "",
        "skips" if config.encoder.kind == "exposure" else "",
        "untrained" if config.purifier.iterations == 0 else "" if kind == "auto" else kind.rpartition(":")[2],
        agent.manager.rpartition(":")[2] if is_plugin(agent.manager) else "",
    ]
    return "+".join(part for part in parts if part)


def variant_name(name: str) -> str:
    """Return a row's name as tables print it."""
    method, *parts = name.split("+")
    told = ", ".join(WORDS.get(part, part) for part in parts)
    return f"{paper.method_name(method)}, {told}" if told else paper.method_name(method)
