"""Options that the commands share: every field of the configuration as a flag, over a TOML file, over a budget."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from dsrm_jax.errors import InputError
from dsrm_jax.types import Json

if TYPE_CHECKING:
    from dsrm_jax.config import Config

E = TypeVar("E")

SHORT = {
    "--env": "--data.env",
    "--data": "--data.path",
    "--method": "--agent.method",
    "--max-len": "--environment.max-len",
    "--world": "--world.name",
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


@dataclass(frozen=True)
class Nothing:
    """No further options."""


def parse(argv: Sequence[str], command: str, about: str, base: Json | None = None) -> tuple[Output, "Config"]:
    """Return the common options and the configuration: flags over the TOML file over `base` over the budget.

    `argv` are the arguments of a `command`, `about` is one phrase on what it does, for `--help`, and `base` are fields whose
    defaults differ for it, nested.

    Raises:
        InputError: an unknown or bad field or value, or a JSON file that cannot be written.
    """
    output, config, _ = parse_with(argv, command, about, base or {}, Nothing())
    check_json(output.json)
    return output, config


def parse_with(argv: Sequence[str], command: str, about: str, base: Json, extra: E) -> tuple[Output, "Config", E]:
    """Return what `parse` does and a third thing: the fields of `extra`, a dataclass of one command's own options.

    The JSON file is not checked yet; otherwise it raises as `parse`.
    """
    from dsrm_jax.config import Config
    from dsrm_jax.config.budgets import budget
    from dsrm_jax.config.serialise import merge, validate
    from dsrm_jax.files import load_toml
    from dsrm_jax.runs.estimate import check_fits
    from dsrm_jax.runs.pieces import check_names

    argv = [SHORT.get(word.split("=")[0], word.split("=")[0]) + "".join(word.partition("=")[1:]) for word in argv]
    output, world = _early(argv)
    default = merge(budget(output.budget), base, command)
    document = load_toml(output.config) if output.config else {}
    if world is not None:  # before the file's fields, which win over it
        default = merge(default, {"world": {"name": world}}, "command line")
        document = document | {"world": {**document.get("world", {}), "name": world}}
    default = merge(default, document, output.config or command)

    def arguments(
        output: Annotated[Output, tyro.conf.arg(name="")] = output,
        extra: Annotated[type(extra), tyro.conf.arg(name="")] = extra,  # type: ignore[valid-type]
        config: Annotated[Config, tyro.conf.arg(name="")] = default,
    ) -> Any:  # tyro would try to build another type
        return output, config, extra

    shortcuts = ", ".join(f"{short} for {full}" for short, full in SHORT.items())
    output, config, extra = tyro.cli(
        arguments, args=argv, prog=f"dsrm-jax {command}", description=f"{about.capitalize()}. Short forms: {shortcuts}."
    )
    validate(config, "command line")
    check_names(config)
    check_fits(config, "command line")
    return output, config, extra


def check_json(path: str) -> None:
    """Refuse a file for numbers that could not be written, before the work that the numbers take; empty: no file.

    Raises:
        InputError: its folder is absent or not writable, or it is a folder itself.
    """
    file = Path(os.path.realpath(path))
    is_pipe = file.exists() and not file.is_file() and not file.is_dir()  # or a device: it takes what it is given
    if not path or is_pipe:
        return
    if not file.parent.is_dir():
        raise InputError(f"--json {path}: there is no folder {file.parent}; make it first")
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise InputError(f"--json {path}: cannot be written; name a file in a folder of yours")


def _early(argv: Sequence[str]) -> tuple[Output, str | None]:
    """Read the options that decide the others' defaults: the two of `Output`, and the world's name, None where it is absent."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("config", "budget"):
        default = getattr(Output, name)
        reader.add_argument(f"--{name}", nargs="?", default=default, const=default)  # a missing value is refused later
    reader.add_argument("--world.name", nargs="?", dest="world")
    found = vars(reader.parse_known_args(argv)[0])
    world = found.pop("world")
    return Output(**found), world
