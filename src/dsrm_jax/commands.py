"""What each command of `dsrm-jax` does with its arguments; JAX is imported inside, after `cli` has set XLA's flags."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from dsrm_jax.errors import InputError
from dsrm_jax.options import Output, check_json, parse, parse_training, parse_with

COMMANDS = {
    "train": "train a method, compare it with the yardsticks on held-out sessions, write a run directory",
    "evaluate": "evaluate the newest checkpoint of a run directory again",
    "resume": "continue an interrupted run, bit for bit",
    "data": "download (if need be), check, parse and describe a data set",
    "sweep": "run a grid of configurations over worker processes, resumably, and print its tables",
    "reproduce": "run the paper's tables and figures, resumably, and write the report",
    "headroom": "measure how much of the oracle state's lead the purifier recovers (synthetic worlds)",
    "probe": "probe whether the purifier purifies, beside controls that must fail; tables and pictures",
    "fcpo": "train and evaluate FCPO on ratings (MovieLens) at several limits on popular items",
    "export": "write the trained policy of a run to one file that recommends without the training code",
    "bench": "measure speed, compile time and memory at a named size, or how they grow with size",
}


def _train(argv: list[str]) -> None:
    from dsrm_jax import pipeline
    from dsrm_jax.training.processes import first, is_first, joined
    from dsrm_jax.training.run_directory import default_path

    output, config, processes = parse_training(argv, COMMANDS["train"])
    with joined(processes):
        first("json", lambda: check_json(output.json))
        run = pipeline.new_run(output.out or default_path(config), config)
        summary = pipeline.train(run, config)
        _write_json(output.json if is_first() else "", summary)


def _resume(argv: list[str]) -> None:
    from dsrm_jax import pipeline
    from dsrm_jax.training.processes import Processes, first, is_first, joined

    def arguments(
        run: tyro.conf.Positional[str],
        json: str = "",
        processes: Annotated[Processes, tyro.conf.arg(name="")] = Processes(),  # noqa: B008
    ) -> tuple[str, str, Processes]:
        """Name a run.

        Args:
            run: Run directory that training wrote.
            json: File to write the command's numbers to, as JSON.
            processes: Many processes.
        """
        return run, json, processes

    folder, json_file, processes = _cli(arguments, argv, "resume")
    with joined(processes):
        first("json", lambda: check_json(json_file))
        run, config = pipeline.old_run(folder)
        summary = pipeline.train(run, config)
        _write_json(json_file if is_first() else "", summary)


def _evaluate(argv: list[str]) -> None:
    from dsrm_jax import pipeline
    from dsrm_jax.training.run_directory import open_run

    def arguments(
        run: tyro.conf.Positional[str], kuaisim: bool = False, json: str = ""
    ) -> tuple[str, bool, str]:
        """Name a run.

        Args:
            run: Run directory that training wrote.
            kuaisim: Also report the last ten entries as KuaiSim and its forks do, to compare with their numbers.
            json: File to write the command's numbers to, as JSON.
        """
        return run, kuaisim, json

    folder, kuaisim, json_file = _cli(arguments, argv, "evaluate")
    check_json(json_file)
    run, config = open_run(folder)
    _write_json(json_file, pipeline.evaluate(run, config, kuaisim=kuaisim))


def _data(argv: list[str]) -> None:
    from dsrm_jax import pipeline

    output, config = parse(argv, "data", COMMANDS["data"])
    _no_folder(output, "data")
    _write_json(output.json, pipeline.describe_data(config))


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
    ) -> dict[str, Any]:
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

    wanted = _cli(arguments, argv, "sweep")
    check_json(wanted["json"])
    plans = [varied(load_plan(path, wanted["budget"] or None), wanted["grid"]) for path in wanted["plans"]]
    if not plans:
        raise InputError("no sweep file: name at least one, such as experiments/baselines.toml")
    folder = Path(wanted["out"] or f"runs/sweep-{Path(wanted['plans'][0]).stem}")
    console = Console()
    found = run_plans(plans, folder, workers=wanted["workers"], say=_say)
    for plan, results in zip(plans, found, strict=True):
        for table in sweep_tables(results, folder, validate=plan.validate):
            console.print(table)
    _write_json(wanted["json"], {"results": [result for results in found for result in results]})
    wanted_points = sum(len(expand(plan)) for plan in plans)
    if missing := wanted_points - sum(map(len, found)):
        raise InputError(
            f"{missing} of {wanted_points} points have no result: the lines above and {folder}/worker-*.log say why; "
            "the same command runs them alone again"
        )


def _reproduce(argv: list[str]) -> None:
    from dsrm_jax.pipeline import use_compilation_cache
    from dsrm_jax.report.plan import wanted_environments
    from dsrm_jax.report.reproduce import reproduce

    def arguments(
        env: str = "all", budget: str = "quick", out: str = "", data: str = "", workers: int = 0
    ) -> dict[str, Any]:
        """Reproduce.

        Args:
            env: Data set: kuairec, kuairand, or all.
            budget: How much each run spends: tiny, quick (a tenth of the paper's), default, paper.
            out: Folder of runs and report; finished runs in it are not run again. Empty: runs/reproduce-<env>-<budget>.
            data: Folder of real data, for one env.
            workers: Worker processes, one core each; 0: one per core.
        """
        return {"env": env, "budget": budget, "out": out, "data": data, "workers": workers}

    wanted = _cli(arguments, argv, "reproduce")
    use_compilation_cache()
    reproduce(
        wanted_environments(wanted["env"]),
        wanted["budget"],
        Path(wanted["out"] or f"runs/reproduce-{wanted['env']}-{wanted['budget']}"),
        data_path=wanted["data"],
        workers=wanted["workers"],
        say=_say,
    )


def _headroom(argv: list[str]) -> None:
    from rich.console import Console

    from dsrm_jax.evaluation.headroom_surface import Surface, headroom_surface
    from dsrm_jax.evaluation.headroom_table import headroom_table, surface_table

    output, config, surface = parse_with(argv, "headroom", COMMANDS["headroom"], {}, Surface())
    check_json(output.json)
    _no_folder(output, "headroom")
    results = headroom_surface(config, surface, say=_say)
    console = Console()
    for result in results.values():
        console.print(headroom_table(result))
    if len(results) > 1:
        console.print(surface_table(results))
    _write_json(output.json, results)


def _probe(argv: list[str]) -> None:
    from dsrm_jax.evaluation.probe_report import run_probe

    output, config = parse(argv, "probe", COMMANDS["probe"])
    report = run_probe(config, output.out or f"runs/probe-{config.data.env}")
    _write_json(output.json, report)


def _fcpo(argv: list[str]) -> None:
    from rich.console import Console

    from dsrm_jax.evaluation.fcpo_table import fcpo_table, render_fcpo_table
    from dsrm_jax.training.fcpo_ranking import SETTINGS

    base = {"data": {"env": "ml-100k"}, "agent": {"fcpo": dataclasses.asdict(SETTINGS)}}
    output, config = parse(argv, "fcpo", COMMANDS["fcpo"], base)
    _no_folder(output, "fcpo")
    result = fcpo_table(config, seeds=config.training.seeds)
    Console().print(render_fcpo_table(result))
    _write_json(output.json, result)


def _export(argv: list[str]) -> None:
    from dsrm_jax import pipeline
    from dsrm_jax.training.run_directory import open_run

    def arguments(
        run: tyro.conf.Positional[str], out: str = "", seed: int = -1, json: str = ""
    ) -> dict[str, Any]:
        """Export.

        Args:
            run: Run directory that training wrote.
            out: File to write; empty: policy.dsrm in the run directory.
            seed: Which of the run's seeds; -1: the first.
            json: File to write the latencies to, as JSON.
        """
        return {"run": run, "out": out, "seed": seed, "json": json}

    wanted = _cli(arguments, argv, "export")
    check_json(wanted["json"])
    run, config = open_run(wanted["run"])
    seed = config.training.seeds[0] if wanted["seed"] == -1 else wanted["seed"]
    _write_json(wanted["json"], pipeline.export(run, config, wanted["out"] or run.path / "policy.dsrm", seed))


def _bench(argv: list[str]) -> None:
    from dsrm_jax import bench

    def arguments(
        size: str = "paper", json: str = "", repeats: int = 5, scaling: bool = False
    ) -> dict[str, Any]:
        """Measure.

        Args:
            size: Named size: paper, paper-quick, easyrl4rec, kuaisim, fcpo, large (a million users and items) or tiny.
            json: File to write the numbers to, as JSON.
            repeats: Timings of each part; medians are reported.
            scaling: Instead of a size, how cost grows with users, diffusion steps and items.
        """
        return {"size": size, "json": json, "repeats": repeats, "scaling": scaling}

    wanted = _cli(arguments, argv, "bench")
    check_json(wanted["json"])
    if wanted["scaling"]:
        numbers = bench.run_scaling(repeats=wanted["repeats"])
    else:
        numbers = bench.run(wanted["size"], repeats=wanted["repeats"])
    _write_json(wanted["json"], numbers)


def _cli(arguments: Callable[..., Any], argv: list[str], command: str) -> Any:
    description = COMMANDS[command].capitalize() + "."
    return tyro.cli(arguments, args=argv, prog=f"dsrm-jax {command}", description=description)


def _no_folder(output: Output, command: str) -> None:
    """Refuse a folder that nothing would be written to."""
    if output.out:
        raise InputError(f"--out {output.out}: {command} writes no folder; --json takes its numbers")


def _say(text: str) -> None:
    from rich.console import Console

    Console().print(text, highlight=False, markup=False, soft_wrap=True)


def _write_json(path: str, numbers: dict[str, Any]) -> None:
    if not path:
        return
    from dsrm_jax.training.serialise import json_value, write_text

    write_text(Path(path), json.dumps(json_value(numbers), indent=2) + "\n")


RUN: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "data": _data,
    "sweep": _sweep,
    "reproduce": _reproduce,
    "headroom": _headroom,
    "probe": _probe,
    "fcpo": _fcpo,
    "export": _export,
    "bench": _bench,
}
