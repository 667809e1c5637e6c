"""What each command of `dsrm-jax` does with its arguments; JAX is imported inside, after `cli` has set XLA's flags."""

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias, TypeVar

import tyro

from dsrm_jax.cli.help import HELP
from dsrm_jax.cli.options import Output, check_json, parse, parse_with
from dsrm_jax.errors import InputError
from dsrm_jax.types import Json

T = TypeVar("T")
Run: TypeAlias = Annotated[str, tyro.conf.Positional, tyro.conf.arg(help="Run directory that training wrote.")]
JsonFile: TypeAlias = Annotated[str, tyro.conf.arg(help="File to write the command's numbers to, as JSON.")]
ENTRY_POINTS = "dsrm_jax.commands"


class Command(NamedTuple):
    """One command of `dsrm-jax`."""

    about: str  # one phrase on what it does
    run: Callable[[list[str]], None]  # does it, given its arguments
    spread: bool = False  # whether its training is split over the devices that JAX sees
    help: str = ""  # what --help prints; empty: what --help-all does


def commands() -> dict[str, Command]:
    """Return the library's commands, and those that installed packages add by the entry point group `dsrm_jax.commands`.

    One that cannot be loaded says so when it is called; it takes no other down, and none replaces the library's own.
    """
    added = {point.name: _loaded(point) for point in entry_points(group=ENTRY_POINTS)}
    return COMMANDS | {name: command for name, command in added.items() if name not in COMMANDS}


def _loaded(point: EntryPoint) -> Command:
    try:
        command = point.load()
        problem = "" if isinstance(command, Command) else f"it is a {type(command).__name__}, not a Command"
    except Exception as error:  # another package's code can raise anything
        problem = f"{type(error).__name__}: {error}"
    if not problem:
        return command

    def refuse(argv: list[str]) -> None:
        raise InputError(
            f"command {point.name!r} cannot be loaded from {point.value} ({problem}): install its package again"
        )

    return Command(f"not available: {point.value} cannot be loaded", refuse)


def _train(argv: list[str]) -> None:
    from dsrm_jax.cli import pipeline
    from dsrm_jax.parallel.processes import Processes, first, is_first, joined
    from dsrm_jax.runs.kept import share_kept
    from dsrm_jax.runs.run_directory import default_path

    output, config, processes = parse_with(argv, "train", COMMANDS["train"].about, {}, Processes())
    with joined(processes):
        first("json", lambda: check_json(output.json))
        run = pipeline.new_run(output.out or default_path(config), config)
        summary = pipeline.train(run, config, keep=share_kept)
        write_json(output.json if is_first() else "", summary)


def _resume(argv: list[str]) -> None:
    from dsrm_jax.cli import pipeline
    from dsrm_jax.parallel.processes import Processes, first, is_first, joined
    from dsrm_jax.runs.kept import share_kept

    def arguments(
        run: Run,
        from_step: Annotated[
            int, tyro.conf.arg(help="Checkpoint to go back to; later ones are removed. -1: the newest good one.")
        ] = -1,
        json: JsonFile = "",
        processes: Annotated[Processes, tyro.conf.arg(name="", help="Many processes.")] = Processes(),  # noqa: B008
    ) -> tuple[str, int, str, Processes]:
        return run, from_step, json, processes

    folder, from_step, json_file, processes = parse_arguments(arguments, argv, "resume")
    with joined(processes):
        first("json", lambda: check_json(json_file))
        run, config = pipeline.old_run(folder)
        if from_step >= 0:
            pipeline.go_back(run, from_step)
        summary = pipeline.train(run, config, keep=share_kept)
        write_json(json_file if is_first() else "", summary)


def _evaluate(argv: list[str]) -> None:
    from dsrm_jax.cli import pipeline
    from dsrm_jax.runs.run_directory import open_run

    def arguments(run: Run, json: JsonFile = "") -> tuple[str, str]:
        return run, json

    folder, json_file = parse_arguments(arguments, argv, "evaluate")
    check_json(json_file)
    run, config = open_run(folder)
    write_json(json_file, pipeline.evaluate(run, config))


def _data(argv: list[str]) -> None:
    from dsrm_jax.cli import pipeline

    output, config = parse(argv, "data", COMMANDS["data"].about)
    refuse_folder(output, "data")
    write_json(output.json, pipeline.describe_data(config))


def _sweep(argv: list[str]) -> None:
    from rich.console import Console

    from dsrm_jax.sweep.plan import expand, load_plan, varied
    from dsrm_jax.sweep.pool import run_plans
    from dsrm_jax.sweep.tables import sweep_tables

    def arguments(
        plans: tyro.conf.Positional[tuple[str, ...]],
        out: str = "",
        json: str = "",
        budget: str = "",
        workers: int = 0,
        grid: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    ) -> Json:
        """Sweep.

        Args:
            plans: TOML files: budget, validate, a table [grid] of dotted fields and their values, sections of the configuration.
            out: Folder of the sweep; finished points in it are not run again. Empty: runs/sweep-<name of the first file>.
            json: File to write all results to, as JSON.
            budget: Replaces the files' budget.
            workers: Worker processes, one core each; 0: one per core.
            grid: field=value,value,... to vary beside the files' grids, or instead of their values; may be repeated.
        """
        return {"plans": plans, "out": out, "json": json, "budget": budget, "workers": workers, "grid": grid}

    wanted = parse_arguments(arguments, argv, "sweep")
    check_json(wanted["json"])
    plans = [varied(load_plan(path, wanted["budget"] or None), wanted["grid"]) for path in wanted["plans"]]
    if not plans:
        raise InputError("no sweep file: name at least one, such as experiments/baselines.toml")
    folder = Path(wanted["out"] or f"runs/sweep-{Path(wanted['plans'][0]).stem}")
    console = Console()
    found = run_plans(plans, folder, workers=wanted["workers"], say=say)
    for plan, results in zip(plans, found, strict=True):
        for table in sweep_tables(results, folder, validate=plan.validate):
            console.print(table)
    write_json(wanted["json"], {"results": [result for results in found for result in results]})
    wanted_points = sum(len(expand(plan)) for plan in plans)
    if missing := wanted_points - sum(map(len, found)):
        raise InputError(
            f"{missing} of {wanted_points} points have no result: the lines above and {folder}/worker-*.log say why; "
            "the same command runs them alone again"
        )


def _export(argv: list[str]) -> None:
    from dsrm_jax.cli import pipeline
    from dsrm_jax.runs.run_directory import open_run

    def arguments(
        run: Run,
        out: Annotated[str, tyro.conf.arg(help="File to write; empty: policy.dsrm in the run directory.")] = "",
        seed: Annotated[int, tyro.conf.arg(help="Which of the run's seeds; -1: the first.")] = -1,
        json: JsonFile = "",
    ) -> Json:
        return {"run": run, "out": out, "seed": seed, "json": json}

    wanted = parse_arguments(arguments, argv, "export")
    check_json(wanted["json"])
    run, config = open_run(wanted["run"])
    seed = config.training.seeds[0] if wanted["seed"] == -1 else wanted["seed"]
    write_json(wanted["json"], pipeline.export(run, config, wanted["out"] or run.path / "policy.dsrm", seed))


def _recommend(argv: list[str]) -> None:
    def arguments(
        policy: Annotated[str, tyro.conf.Positional],
        *,
        log: str,
        out: str,
        users: str = "",
        k: Annotated[int, tyro.conf.arg(aliases=("-k",))] = 10,
        exclude: str = "seen",
        allowed: str = "",
        scores: bool = False,
        seed: int = -1,
        user_column: str = "",
        item_column: str = "",
        click_column: str = "",
        time_column: str = "",
        time_format: str = "",
        click_from: float | None = None,
        json: str = "",
    ) -> Json:
        """Recommend.

        Args:
            policy: Run directory that training wrote, or file that export wrote.
            log: File, folder or pattern of what the users were shown and clicked, as of env=log; rows in any order.
            out: File to write: .parquet or .csv (a row an item) or .jsonl (a line a user).
            users: File of the users to recommend to (the user column of a CSV or Parquet file; .txt: an id a line); empty: all.
            k: Items a user, in any number that the policy knows.
            exclude: seen: no item of the user's own rows; nothing; or a file of items (as of users).
            allowed: File of the items that may be recommended (as of users); empty: all that the policy recommends from.
            scores: Write how likely a click on each item is, too.
            seed: Which of a run's seeds; -1: the first.
            user_column: Column of user ids; this and the next five are by default as the policy's own log had them.
            item_column: Column of item ids.
            click_column: Column of 0/1 clicks or graded feedback.
            time_column: Column of times; without one, `time` or the rows' order.
            time_format: What times are: s, ms, us, ns, order, or directives such as '%d/%m/%Y'; without one, recognised.
            click_from: Feedback from which on a row is a click.
            json: File to write the command's numbers to, as JSON.
        """
        return dict(locals())

    wanted = parse_arguments(arguments, argv, "recommend")
    check_json(wanted["json"])
    from dsrm_jax.cli.recommend import recommend

    write_json(wanted["json"], recommend(wanted, say))


def _completion(argv: list[str]) -> None:
    def arguments(shell: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help="Shell: bash, zsh or fish.")]) -> str:
        return shell

    from dsrm_jax.cli.completion import script

    shell = parse_arguments(arguments, argv, "completion")
    print(script(shell, {name: (command.about, command.run) for name, command in commands().items()}), end="")


def parse_arguments(arguments: Callable[..., T], argv: list[str], command: str, about: str = "") -> T:
    """Return what a function of a command's arguments gives; its docstring is their help text."""
    description = (about or COMMANDS[command].about).capitalize() + "."
    return tyro.cli(arguments, args=argv, prog=f"dsrm-jax {command}", description=description)


def refuse_folder(output: Output, command: str) -> None:
    """Refuse a folder that nothing would be written to."""
    if output.out:
        raise InputError(f"--out {output.out}: {command} writes no folder; --json takes its numbers")


def say(text: str) -> None:
    """Print one line."""
    from rich.console import Console

    Console().print(text, highlight=False, markup=False, soft_wrap=True)


def write_json(path: str, numbers: Json) -> None:
    """Write a command's numbers, where it was given a file for them."""
    if not path:
        return
    from dsrm_jax.files import json_value, write_text

    write_text(Path(path), json.dumps(json_value(numbers), indent=2) + "\n")


COMMANDS = {
    "train": Command(
        "train a method, compare it with the yardsticks on held-out sessions, write a run directory",
        _train,
        spread=True,
    ),
    "evaluate": Command("evaluate the newest checkpoint of a run directory again", _evaluate),
    "resume": Command("continue an interrupted run, bit for bit", _resume, spread=True),
    "data": Command("download (if need be), check, parse and describe a data set", _data),
    "sweep": Command("run a grid of configurations over worker processes, resumably, and print its tables", _sweep),
    "export": Command(
        "write the trained policy of a run to one file that recommends without the training code", _export
    ),
    "recommend": Command("recommend items to every user of a log, by a run or an exported policy", _recommend),
    "completion": Command("print what completes commands and options in bash, zsh or fish", _completion),
}
COMMANDS = {name: command._replace(help=HELP[name]) for name, command in COMMANDS.items()}
