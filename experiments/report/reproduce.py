"""`dsrm-jax reproduce`: run what is missing of the paper's grid, then write the report."""

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dsrm_jax.config import Config
from dsrm_jax.data.sources import data_path as folder_of
from dsrm_jax.errors import InputError
from dsrm_jax.files import load_json, write_text
from dsrm_jax.runs.pieces import log_of
from dsrm_jax.runs.prepare import Say
from dsrm_jax.sweep.plan import Point
from dsrm_jax.sweep.pool import cores, run_points
from dsrm_jax.types import Json
from experiments.report.claims import Claim, Judgement, judge_all, load_claims
from experiments.report.csvs import write_csvs
from experiments.report.data_facts import data_facts
from experiments.report.document import report
from experiments.report.estimate import in_words, read_times
from experiments.report.figures import draw_all
from experiments.report.findings import Findings, read_results
from experiments.report.negative import about, check_control, own_name, spoilt, verdicts_of
from experiments.report.page import page
from experiments.report.paper import env_name
from experiments.report.plan import CLAIMS, Agenda, by_name, load_agenda, plans_folder, unfinished
from experiments.report.studies import read_studies

RunPoints = Callable[..., object]  # `pool.run_points`, or a stand-in that leaves the same files
PROBE_PICTURES = {"states": "t-SNE of raw and purified states", "controls": "the purifier among its controls"}
FAILED = ("FAILED", "left out")  # how the pool reports a group without a result


def reproduce(
    envs: Sequence[str],
    budget: str,
    out: str | Path,
    *,
    workers: int = 0,
    say: Say = print,
    data_path: str = "",
    plans: Path | None = None,
    control: str = "",
    run: RunPoints = run_points,
    with_probes: bool = True,
) -> None:
    """Reproduce every table and figure of the paper, and judge its claims and ours.

    Runs every point of `experiments/paper/*.toml` that has no result in `<out>/points` yet, probes Stage I, and writes
    `<out>/report/`: `report.md`, `report.html` (one file, pictures inside), PNG pictures and CSV files. A point that fails is
    reported and stands in the report; calling again runs only what is missing.

    Args:
        envs: data sets, such as `plan.wanted_environments("all")`.
        budget: name of the budget: quick is a tenth of the paper's.
        out: folder; made if absent.
        workers: processes, each on a core of its own; 0: one per core.
        say: told about how long it will take, then one line per finished program, with how much of the whole is finished.
        data_path: folder of one data set's files; the report is then reduced (`plan.load_agenda`). Empty: the default folder,
            and the synthetic worlds where it has no files.
        plans: folder of the plans and of `claims.toml`; None: `experiments/paper`.
        control: a negative control (`negative.ABOUT`) to run instead, in the same folder; its verdicts stand in the next report.
        run: runs points, as `pool.run_points`.
        with_probes: also make Figure 4, minutes of work in this process.

    Raises:
        InputError: plans, claims, data, control or output folder that cannot be used.
    """
    check_control(control)
    plans, out = plans or plans_folder(), Path(out)
    agenda = load_agenda(plans, envs, budget, data_path=data_path)
    claims = load_claims(plans / CLAIMS)
    asked = spoilt(agenda, claims, control) if control else agenda
    known = read_times(plans.parent / "results" / "paper" / "times.csv")
    missing = unfinished(list(by_name(asked.points).values()), out / "points")
    say(in_words(asked.points, missing, workers or cores(), known))
    if control:
        _run_control(asked, claims, out, control, workers=workers, say=say, run=run)
        return
    findings = _findings(agenda, plans, out, budget, workers=workers, say=say, run=run, with_probes=with_probes)
    judgements = judge_all(claims, findings)
    command = f"make reproduce ENV={'all' if len(envs) > 1 else envs[0]} BUDGET={budget}" + (
        " DATA=folder" if data_path else ""
    )
    controls = {path.stem: load_json(path) for path in sorted((out / "controls").glob("*.json"))}
    path = write_report(findings, judgements, _made(out / "report"), command=command, controls=controls)
    failed = len(findings.missing())
    say((f"{failed} points did not finish; " if failed else "") + f"the report is {path}")


def _findings(
    agenda: Agenda, plans: Path, out: Path, budget: str, *, workers: int, say: Say, run: RunPoints, with_probes: bool
) -> Findings:
    """Read the logs, run what is missing, and return all numbers."""
    facts = {env: _facts(config, agenda) for env, config in agenda.configs.items()}
    folder = _made(out / "points")
    failures = run_agenda(agenda, folder, workers=workers, say=say, run=run)
    probes, probe_failures = _probes(agenda.probes, out / "probes", say) if with_probes else ({}, [])
    results, numbers = read_results(agenda.points, folder)
    return Findings(
        folder=folder,
        results=results,
        points=agenda.points,
        data={env: of_seeds[0] for env, of_seeds in facts.items()},
        data_seeds=facts,
        probes=probes,
        probe_folders={env: out / "probes" / env for env in probes},
        studies=read_studies(plans.parent / "results"),
        failures=failures + probe_failures,
        budget=budget,
        numbers=numbers,
    )


def _run_control(
    agenda: Agenda, claims: Sequence[Claim], out: Path, control: str, *, workers: int, say: Say, run: RunPoints
) -> None:
    """Run the points of a negative control that are missing, judge the claims that it must lose, and keep the verdicts."""
    folder = _made(out / "points")
    failures = run_agenda(agenda, folder, workers=workers, say=say, run=run)
    results, numbers = read_results(agenda.points, folder, name_of=lambda config: own_name(config, control))
    findings = Findings(folder=folder, results=results, points=agenda.points, failures=failures, numbers=numbers)
    verdicts = verdicts_of(judge_all(about(claims, control), findings))
    write_text(_made(out / "controls") / f"{control}.json", json.dumps(verdicts, indent=1) + "\n")
    for name, verdict in verdicts.items():
        say(f"{control}: {name}: {verdict}")


def run_agenda(agenda: Agenda, folder: Path, *, workers: int, say: Say, run: RunPoints) -> list[str]:
    """Run all points that have no result, those that are timed first, and return what was reported as failed."""
    failures: list[str] = []
    points = list(by_name(agenda.points).values())
    tell = _with_progress(points, folder, say, failures)
    for part in (agenda.first, agenda.then):
        if unfinished(part, folder):
            run(part, folder, validate=False, workers=workers, say=tell)
    return failures


def write_report(
    findings: Findings,
    judgements: Sequence[Judgement],
    folder: Path,
    *,
    command: str,
    controls: dict[str, Json] | None = None,
) -> Path:
    """Write the report's files and return the HTML page's path; `controls` as `document.report`."""
    pictures = draw_all(findings, folder) | _copied_pictures(findings, folder)
    write_csvs(findings, judgements, folder)
    text = report(findings, judgements, pictures, command=command, controls=controls)
    write_text(folder / "report.md", text)
    write_text(folder / "report.html", page(text, folder))
    return folder / "report.html"


def _facts(config: Config, agenda: Agenda) -> list[Json]:
    """Return Table 1's and Figure 2's numbers of each data seed; a log's memory is given back at once."""
    folder, env = folder_of(config.data.env, config.data.path), config.data.env
    seeds = {p.config.data.seed for p in by_name(agenda.points).values() if p.config.data.env == env}
    found = []
    for seed in sorted(seeds) or [config.data.seed]:
        of_seed = replace(config, data=replace(config.data, seed=seed))
        found.append(data_facts(log_of(of_seed), folder if folder.is_dir() else None))
    return found


def _with_progress(points: Sequence[Point], folder: Path, say: Say, failures: list[str]) -> Say:
    """Return a `say` that counts the points of the whole report, and keeps what failed; the pool tells how long."""

    def tell(text: str) -> None:
        if any(word in text for word in FAILED):
            failures.append(text)
        say(f"{text}; of the whole report {len(points) - len(unfinished(points, folder))}/{len(points)}")

    return tell


def _probes(configs: dict[str, Config], folder: Path, say: Say) -> tuple[dict[str, Json], list[str]]:
    """Probe the purifier of each data set that was not probed yet; what fails is reported and left out."""
    found, failures = {}, []
    for env, config in configs.items():
        path = folder / env / "probe.json"
        try:
            if not path.exists():
                _probe(config, path.parent, say)
            found[env] = load_json(path)
        except Exception as error:  # one figure's fault must not stop the report
            failures.append(f"Figure 4, {env}: {type(error).__name__}: {error}".splitlines()[0])
            say(f"FAILED: {failures[-1]}")
    return found, failures


def _probe(config: Config, folder: Path, say: Say) -> None:
    from rich.console import Console

    from experiments.probes.report import run_probe

    say(f"Figure 4: probing Stage I on {env_name(config.data.env)}")
    log = io.StringIO()
    try:
        run_probe(config, _made(folder), Console(file=log, width=120))
    finally:
        write_text(folder / "probe.log", log.getvalue())


def _copied_pictures(findings: Findings, folder: Path) -> dict[str, str]:
    """Copy the probes' pictures beside the report."""
    found = {}
    for env, source in findings.probe_folders.items():
        for name, text in PROBE_PICTURES.items():
            if (source / f"{name}.png").exists():
                shutil.copyfile(source / f"{name}.png", folder / f"fig4_{env}_{name}.png")
                found[f"fig4_{env}_{name}"] = f"{env_name(env)}: {text}"
    return found


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror or error}; choose another --out") from error
    return folder
