"""The studies' commands, which `dsrm-jax` finds by entry points; JAX is imported inside, after the flags are set."""

import dataclasses
from pathlib import Path

import tyro

from dsrm_jax.cli.commands import Command, parse_arguments, refuse_folder, say, write_json
from dsrm_jax.cli.options import check_json, parse, parse_with
from dsrm_jax.types import Json

ABOUT = {
    "reproduce": "run the paper's tables and figures, resumably, and write the report",
    "headroom": "measure how much of the oracle state's lead the purifier recovers (synthetic worlds)",
    "ruler": "measure each purifier's estimates against exact inference, in small worlds where that can be computed",
    "ladder": "measure what each state, from popularity up, says of later clicks of users left out of a log",
    "probe": "probe whether the purifier purifies, beside controls that must fail; tables and pictures",
    "fcpo": "train and evaluate FCPO on ratings (MovieLens) at several limits on popular items",
    "bench": "measure speed, compile time and memory at a named size, or how they grow with size",
    "worlds": "measure what there is to plan in each world, and what rules that know the users earn beside the bound",
    "sardine": "play SARDINE's worlds by rules that know the user and by rules that infer the user from clicks",
    "kuaisim": "report a run's last ten entries as KuaiSim and its forks do, to compare with their numbers",
}


def _reproduce(argv: list[str]) -> None:
    def arguments(
        env: str = "all",
        budget: str = "quick",
        out: str = "",
        data: str = "",
        workers: int = 0,
        control: str = "",
        tune: bool = False,
        methods: tuple[str, ...] = (),
    ) -> Json:
        """Reproduce.

        Args:
            env: Data set: kuairec, kuairand, or all.
            budget: How much each run spends: tiny, quick (a tenth of the paper's), default, paper.
            out: Folder of runs and report; finished runs in it are not run again. Empty: runs/reproduce-<env>-<budget>.
            data: Folder of real data, for one env.
            workers: Worker processes, one core each; 0: one per core.
            control: Instead, a negative control of the ledger, which has to lose the claims it is about: shuffled (purified
                states of other users) or random_goal (manager's goals drawn at random). Run it before the report, in its folder.
            tune: Instead, choose each method's settings by one protocol (experiments/report/ranges.toml), which the next
                report uses; hours, resumable.
            methods: With --tune: some methods, with +half under the half-and-half head; empty: all.
        """
        run = {"out": out, "workers": workers, "tune": tune, "methods": methods}
        return {"env": env, "budget": budget, "data": data, "control": control, **run}

    wanted = parse_arguments(arguments, argv, "reproduce", ABOUT["reproduce"])
    from dsrm_jax.parallel.xla import use_compilation_cache
    from experiments.report.plan import WINNERS, plans_folder, wanted_environments
    from experiments.report.reproduce import reproduce

    use_compilation_cache()
    if wanted["tune"]:
        from experiments.report.tune import tune

        out, toml = wanted["out"] or "runs/tune", plans_folder() / WINNERS
        tune(out, toml, methods=wanted["methods"], workers=wanted["workers"], say=say)
        return
    reproduce(
        wanted_environments(wanted["env"]),
        wanted["budget"],
        Path(wanted["out"] or f"runs/reproduce-{wanted['env']}-{wanted['budget']}"),
        data_path=wanted["data"],
        workers=wanted["workers"],
        control=wanted["control"],
        say=say,
    )


def _headroom(argv: list[str]) -> None:
    from rich.console import Console

    from experiments.headroom.surface import Surface, headroom_surface
    from experiments.headroom.table import headroom_table, surface_table

    output, config, surface = parse_with(argv, "headroom", ABOUT["headroom"], {}, Surface())
    check_json(output.json)
    refuse_folder(output, "headroom")
    results = headroom_surface(config, surface, say=say)
    console = Console()
    for result in results.values():
        console.print(headroom_table(result))
    if len(results) > 1:
        console.print(surface_table(results))
    write_json(output.json, results)


def _ruler(argv: list[str]) -> None:
    from rich.console import Console

    def arguments(
        truths: tuple[str, ...] = (),
        seeds: tuple[int, ...] = (11, 15, 19),
        methods: tuple[str, ...] = (),
        out: str = "",
        json: str = "",
        quick: bool = False,
    ) -> Json:
        """Measure.

        Args:
            truths: What tastes are like: clusters, sheet, student, gaussian; empty: all.
            seeds: Each with a truth, users, clicks and training of its own.
            methods: What to measure beside what it is compared with; empty: every purifier, control and baseline.
            out: Folder of finished cells, which are not measured again. Empty: runs/ruler, or runs/ruler-quick.
            json: File to write the numbers to, as JSON, after each truth and seed.
            quick: A toy size, to try the command.
        """
        return {"truths": truths, "seeds": seeds, "methods": methods, "out": out, "json": json, "quick": quick}

    wanted = parse_arguments(arguments, argv, "ruler", ABOUT["ruler"])
    check_json(wanted["json"])
    from dsrm_jax.parallel.xla import use_compilation_cache
    from experiments.ruler.study import run_ruler
    from experiments.ruler.table import ruler_tables
    from experiments.ruler.truths import NAMES

    use_compilation_cache()
    results: Json = {}
    for results in run_ruler(
        Path(wanted["out"] or ("runs/ruler-quick" if wanted["quick"] else "runs/ruler")),
        truths=wanted["truths"] or NAMES,
        seeds=wanted["seeds"],
        methods=wanted["methods"],
        quick=wanted["quick"],
        say=say,
    ):
        write_json(wanted["json"], results)
    console = Console()
    for table in ruler_tables(results):
        console.print(table)


def _ladder(argv: list[str]) -> None:
    from rich.console import Console

    from experiments.ladder.study import Ladder, run_ladder
    from experiments.ladder.table import ladder_tables

    output, config, ladder = parse_with(argv, "ladder", ABOUT["ladder"], {}, Ladder())
    check_json(output.json)
    refuse_folder(output, "ladder")
    from dsrm_jax.parallel.xla import use_compilation_cache

    use_compilation_cache()
    result = run_ladder(config, ladder, say=say)
    console = Console()
    for table in ladder_tables(result):
        console.print(table)
    write_json(output.json, result)


def _probe(argv: list[str]) -> None:
    from experiments.probes.report import run_probe

    output, config = parse(argv, "probe", ABOUT["probe"])
    report = run_probe(config, output.out or f"runs/probe-{config.data.env}")
    write_json(output.json, report)


def _fcpo(argv: list[str]) -> None:
    from rich.console import Console

    from experiments.fcpo_ml100k.ranker import SETTINGS
    from experiments.fcpo_ml100k.table import fcpo_table, render_fcpo_table

    base = {"data": {"env": "ml-100k"}, "agent": {"fcpo": dataclasses.asdict(SETTINGS)}}
    output, config = parse(argv, "fcpo", ABOUT["fcpo"], base)
    refuse_folder(output, "fcpo")
    result = fcpo_table(config, seeds=config.training.seeds)
    Console().print(render_fcpo_table(result))
    write_json(output.json, result)


def _bench(argv: list[str]) -> None:
    def arguments(size: str = "paper", json: str = "", repeats: int = 5, scaling: bool = False) -> Json:
        """Measure.

        Args:
            size: Named size: paper, paper-quick, easyrl4rec, kuaisim, fcpo, large (a million users and items) or tiny.
            json: File to write the numbers to, as JSON.
            repeats: Timings of each part; medians are reported.
            scaling: Instead of a size, how cost grows with users, diffusion steps and items.
        """
        return {"size": size, "json": json, "repeats": repeats, "scaling": scaling}

    wanted = parse_arguments(arguments, argv, "bench", ABOUT["bench"])
    check_json(wanted["json"])
    from experiments import bench

    if wanted["scaling"]:
        numbers = bench.run_scaling(repeats=wanted["repeats"])
    else:
        numbers = bench.run(wanted["size"], repeats=wanted["repeats"])
    write_json(wanted["json"], numbers)


def _worlds(argv: list[str]) -> None:
    def arguments(
        env: str = "kuairand",
        world: tuple[str, ...] = (),
        seed: int = 0,
        users: int = 200,
        sessions: int = 10,
        json: str = "",
        learners: bool = False,
        seeds: tuple[int, ...] = (11, 15, 19),
        methods: tuple[str, ...] = ("dsrm_hrl", "flat"),
        state: str = "gaussian",
        search: str = "",
        out: str = "runs/worlds-learners",
        tiny: bool = False,
    ) -> Json:
        """Measure.

        Args:
            env: Synthetic data set: kuairec or kuairand.
            world: Worlds, by the names of the table's first column; empty: all.
            learners: Instead of rules that know the users, what methods learn to win, beside rules on the same state.
            seeds: With --learners: of the data; three training seeds of each.
            methods: With --learners: what is trained.
            state: With --learners: purifier.kind of the state that all act on.
            search: With --learners: instead, what methods earn in the training simulator by a setting, manager_discount=0.8,0.9.
            out: With --learners: folder of finished cells, one of each data set in it; they are not measured again.
            tiny: With --learners: a toy size, to try the command.
            seed: Of the data.
            users: Users of each world; as many others are what constants and prices are chosen on.
            sessions: Of each user and rule; four times as many where users come back.
            json: File to write the numbers to, as JSON.
        """
        learning = {"seeds": seeds, "methods": methods, "state": state, "tiny": tiny}
        rules = {"seed": seed, "users": users, "sessions": sessions}
        asked = {"names": world, "json": json, "out": out, "learners": learners, "search": search}
        return {"env": env, **asked, "rules": rules, "learning": learning}

    wanted = parse_arguments(arguments, argv, "worlds", ABOUT["worlds"])
    env, names, json_file = wanted["env"], wanted["names"], wanted["json"]
    check_json(json_file)
    from rich.console import Console

    if wanted["learners"]:
        from dsrm_jax.parallel.xla import use_compilation_cache
        from experiments.worlds.learners import LEARNT
        from experiments.worlds.learners_table import learners_table
        from experiments.worlds.report import report
        from experiments.worlds.search import search, setting_of

        use_compilation_cache()
        folder, names = Path(wanted["out"]), names or LEARNT
        if wanted["search"]:
            field, values = setting_of(wanted["search"])
            search(env=env, worlds=names, field=field, values=values, json=json_file, say=say, **wanted["learning"])
            return
        learnt = report(folder, env=env, worlds=names, json=json_file, say=say, **wanted["learning"])
        Console().print(learners_table(learnt))
        return
    from experiments.worlds.studies import WORLDS
    from experiments.worlds.table import measure, worlds_table

    result = measure(env, names or tuple(WORLDS), **wanted["rules"], say=say)
    Console().print(worlds_table(result))
    write_json(json_file, result)


def _kuaisim(argv: list[str]) -> None:
    def arguments(run: tyro.conf.Positional[str], json: str = "") -> tuple[str, str]:
        """Name a run.

        Args:
            run: Run directory that training wrote.
            json: File to write the numbers to, as JSON.
        """
        return run, json

    folder, json_file = parse_arguments(arguments, argv, "kuaisim", ABOUT["kuaisim"])
    check_json(json_file)
    from dsrm_jax.runs.run_directory import open_run
    from experiments.kuaisim.report import report_run

    write_json(json_file, report_run(*open_run(folder), say))


def _sardine(argv: list[str]) -> None:
    def arguments(world: str = "all", sessions: int = 200, seed: int = 0, json: str = "") -> Json:
        """Play.

        Args:
            world: sardine-topk-bored, sardine-topk-boredinf, sardine-topk-uncertain, or all.
            sessions: Sessions of each rule.
            seed: Of the items, the users and the luck.
            json: File to write the numbers to, as JSON.
        """
        return {"world": world, "sessions": sessions, "seed": seed, "json": json}

    wanted = parse_arguments(arguments, argv, "sardine", ABOUT["sardine"])
    check_json(wanted["json"])
    from rich.console import Console

    from dsrm_jax.data.sardine import RULES
    from experiments.worlds.sardine_table import render_sardine_table, sardine_table

    names = tuple(RULES) if wanted["world"] == "all" else (wanted["world"],)
    result = sardine_table(names, sessions=wanted["sessions"], seed=wanted["seed"], say=say)
    Console().print(render_sardine_table(result))
    write_json(wanted["json"], result)


reproduce = Command(ABOUT["reproduce"], _reproduce)
headroom = Command(ABOUT["headroom"], _headroom)
ruler = Command(ABOUT["ruler"], _ruler)
ladder = Command(ABOUT["ladder"], _ladder)
probe = Command(ABOUT["probe"], _probe)
fcpo = Command(ABOUT["fcpo"], _fcpo)
bench = Command(ABOUT["bench"], _bench, spread=True)
sardine = Command(ABOUT["sardine"], _sardine)
kuaisim = Command(ABOUT["kuaisim"], _kuaisim)
worlds = Command(ABOUT["worlds"], _worlds)
