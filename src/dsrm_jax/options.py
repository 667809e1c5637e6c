"""Options that the commands share: every field of the configuration as a flag, over a TOML file, over a budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dsrm_jax.errors import InputError, unknown_name

if TYPE_CHECKING:
    from dsrm_jax.config import Config

SHORT = {
    "--env": "--data.env",
    "--data": "--data.path",
    "--method": "--agent.method",
    "--max-len": "--environment.max-len",
    "--seeds": "--training.seeds",
}


@dataclass(frozen=True)
class Output:
    """Where results go."""

    out: str = ""
    """Run directory; empty: runs/<env>-<method>-<digits of the configuration>."""
    json: str = ""
    """File to write the command's numbers to, as JSON."""
    config: str = ""
    """TOML file that sets any fields; flags win over it."""
    budget: str = "default"
    """How much to spend: tiny (seconds), quick (a tenth of the paper's), default (minutes), paper (20,000 steps)."""


def parse(
    argv: Sequence[str], command: str, about: str, base: Mapping[str, Any] | None = None
) -> tuple[Output, "Config"]:
    """Return the common options and the configuration: flags over the TOML file over `base` over the budget.

    Args:
        argv: the command's arguments.
        command: its name.
        about: one phrase on what it does, for `--help`.
        base: fields whose defaults differ for this command, nested.

    Raises:
        InputError: an unknown or bad field or value.
    """
    from dsrm_jax.budgets import budget
    from dsrm_jax.config import Config
    from dsrm_jax.training.serialise import load_toml, merge, validate

    argv = [
        SHORT.get(word.split("=")[0], word.split("=")[0]) + "".join(word.partition("=")[1:]) for word in argv
    ]
    output = _early(argv)
    default = merge(budget(output.budget), base or {}, command)
    if output.config:
        default = merge(default, load_toml(output.config), output.config)

    def arguments(
        output: Annotated[Output, tyro.conf.arg(name="")] = output,
        config: Annotated[Config, tyro.conf.arg(name="")] = default,
    ) -> tuple[Output, Config]:
        return output, config

    shortcuts = ", ".join(f"{short} for {full}" for short, full in SHORT.items())
    output, config = tyro.cli(
        arguments,
        args=argv,
        prog=f"dsrm-jax {command}",
        description=f"{about.capitalize()}. Short forms: {shortcuts}.",
    )
    validate(config, "command line")
    if output.json and not Path(output.json).absolute().parent.is_dir():
        raise InputError(
            f"--json {output.json}: there is no folder {Path(output.json).absolute().parent}; make it first"
        )
    _check_names(config)
    return output, config


def _early(argv: Sequence[str]) -> Output:
    """Read the two options that decide the others' defaults."""
    found = {}
    for name in ("config", "budget"):
        for i, word in enumerate(argv):
            if word == f"--{name}" and i + 1 < len(argv):
                found[name] = argv[i + 1]
            elif word.startswith(f"--{name}="):
                found[name] = word.split("=", 1)[1]
    return Output(**found)


def _check_names(config: "Config") -> None:
    from dsrm_jax.agents.methods import check_method
    from dsrm_jax.data.sources import SOURCES

    check_method(config.agent.method)
    if config.data.env not in SOURCES:
        raise unknown_name("environment (env)", config.data.env, SOURCES)
