"""`dsrm-jax train | evaluate | resume | data | sweep | bench`: parse, call, print.

JAX is imported inside the commands, after XLA's flags are set (see `xla.py`).
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.xla import set_flags

if TYPE_CHECKING:
    from dsrm_jax.config import Config

SHORT = {
    "--env": "--data.env",
    "--data": "--data.path",
    "--method": "--agent.method",
    "--max-len": "--environment.max-len",
    "--seeds": "--training.seeds",
}
COMMANDS = {
    "train": "train a method, compare it with the yardsticks on held-out sessions, write a run directory",
    "evaluate": "evaluate the newest checkpoint of a run directory again",
    "resume": "continue an interrupted run, bit for bit",
    "data": "download (if need be), check, parse and describe a data set",
    "sweep": "run a grid of configurations over worker processes, resumably, and print its tables",
    "bench": "measure speed, compile time and memory at a named size",
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exits with status 0, 2 on bad input, 130 or 143 when interrupted."""
    prepare_process()
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        command, rest = _command(argv)
        _RUN[command](rest)
    except InputError as error:
        print(f"dsrm-jax: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("dsrm-jax: interrupted; what was reported as saved is safe", file=sys.stderr)
        raise SystemExit(130) from None


def prepare_process() -> None:
    """Set XLA's flags (appended, never overwritten) and send the library's warnings to standard error."""
    set_flags(os.environ)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


def _command(argv: list[str]) -> tuple[str, list[str]]:
    listing = "\n".join(f"  {name:9} {text}" for name, text in COMMANDS.items())
    usage = f"usage: dsrm-jax COMMAND [OPTIONS]\n\n{listing}\n\ndsrm-jax COMMAND --help lists every option."
    if not argv or argv[0] in ("-h", "--help"):
        print(usage)
        raise SystemExit(0 if argv else 2)
    if argv[0] == "--version":
        from dsrm_jax import __version__

        print(__version__)
        raise SystemExit(0)
    if argv[0] not in COMMANDS:
        raise unknown_name("command", argv[0], COMMANDS)
    return argv[0], argv[1:]


def _parse(argv: list[str], command: str) -> tuple[Output, "Config"]:
    """Parse all fields as flags over TOML file over budget, in rising order of precedence."""
    from dsrm_jax.budgets import budget
    from dsrm_jax.config import Config
    from dsrm_jax.training.serialise import load_toml, merge, validate

    argv = [
        SHORT.get(word.split("=")[0], word.split("=")[0]) + "".join(word.partition("=")[1:]) for word in argv
    ]
    output = _early(argv)
    default = budget(output.budget)
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
        description=f"{COMMANDS[command].capitalize()}. Short forms: {shortcuts}.",
    )
    validate(config, "command line")
    if output.json and not Path(output.json).absolute().parent.is_dir():
        raise InputError(
            f"--json {output.json}: there is no folder {Path(output.json).absolute().parent}; make it first"
        )
    _check_names(config)
    return output, config


def _early(argv: list[str]) -> Output:
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


def _train(argv: list[str]) -> None:
    from dsrm_jax import pipeline
    from dsrm_jax.training.run_directory import create, default_path

    output, config = _parse(argv, "train")
    run = create(output.out or default_path(config), config)
    _write_json(output.json, pipeline.train(run, config))


def _resume(argv: list[str]) -> None:
    from dsrm_jax import pipeline
    from dsrm_jax.training.run_directory import open_run

    folder, json_file = _run_arguments(argv, "resume")
    run, config = open_run(folder)
    _write_json(json_file, pipeline.train(run, config))


def _evaluate(argv: list[str]) -> None:
    from dsrm_jax import pipeline
    from dsrm_jax.training.run_directory import open_run

    folder, json_file = _run_arguments(argv, "evaluate")
    run, config = open_run(folder)
    _write_json(json_file, pipeline.evaluate(run, config))


def _run_arguments(argv: list[str], command: str) -> tuple[str, str]:
    def arguments(run: tyro.conf.Positional[str], json: str = "") -> tuple[str, str]:
        """Name a run.

        Args:
            run: Run directory that training wrote.
            json: File to write the command's numbers to, as JSON.
        """
        return run, json

    return tyro.cli(
        arguments, args=argv, prog=f"dsrm-jax {command}", description=COMMANDS[command].capitalize()
    )


def _data(argv: list[str]) -> None:
    from dsrm_jax import pipeline

    output, config = _parse(argv, "data")
    _write_json(output.json, pipeline.describe_data(config))


def _sweep(argv: list[str]) -> None:
    from rich.console import Console

    from dsrm_jax.sweep.plan import load_plan, varied
    from dsrm_jax.sweep.pool import run_sweep
    from dsrm_jax.sweep.tables import sweep_tables

    def arguments(
        plan: tyro.conf.Positional[str],
        out: str = "",
        json: str = "",
        budget: str = "",
        workers: int = 0,
        grid: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    ) -> dict[str, Any]:
        """Sweep.

        Args:
            plan: TOML file: budget, validate, a table [grid] of dotted fields and their values, sections of the configuration.
            out: Folder of the sweep; finished points in it are not run again. Empty: runs/sweep-<name of the file>.
            json: File to write all results to, as JSON.
            budget: Replaces the file's budget.
            workers: Worker processes, one core each; 0: one per core.
            grid: field=value,value,... to vary beside the file's grid, or instead of its values; may be repeated.
        """
        return {"plan": plan, "out": out, "json": json, "budget": budget, "workers": workers, "grid": grid}

    wanted = tyro.cli(
        arguments, args=argv, prog="dsrm-jax sweep", description=COMMANDS["sweep"].capitalize() + "."
    )
    plan = varied(load_plan(wanted["plan"], wanted["budget"] or None), wanted["grid"])
    folder = Path(wanted["out"] or f"runs/sweep-{Path(wanted['plan']).stem}")
    console = Console()
    results = run_sweep(
        plan,
        folder,
        workers=wanted["workers"],
        say=lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True),
    )
    for table in sweep_tables(results, folder, validate=plan.validate):
        console.print(table)
    _write_json(wanted["json"], {"validate": plan.validate, "results": results})


def _bench(argv: list[str]) -> None:
    from dsrm_jax import bench

    def arguments(size: str = "paper", json: str = "", repeats: int = 5) -> tuple[str, str, int]:
        """Measure.

        Args:
            size: Named size; see dsrm_jax.bench.SIZES.
            json: File to write the numbers to, as JSON.
            repeats: Timings of each part; medians are reported.
        """
        return size, json, repeats

    size, json_file, repeats = tyro.cli(
        arguments, args=argv, prog="dsrm-jax bench", description=COMMANDS["bench"].capitalize()
    )
    _write_json(json_file, bench.run(size, repeats=repeats))


def _write_json(path: str, numbers: dict[str, Any]) -> None:
    if not path:
        return
    from dsrm_jax.training.serialise import json_value, write_text

    write_text(Path(path), json.dumps(json_value(numbers), indent=2) + "\n")


_RUN = {
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "data": _data,
    "sweep": _sweep,
    "bench": _bench,
}

if __name__ == "__main__":
    main()
