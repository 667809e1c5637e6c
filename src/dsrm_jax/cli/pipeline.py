"""What the commands do, as functions: train a run to its end, evaluate it, describe a data set."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import jax
from rich.console import Console
from rich.text import Text

from dsrm_jax.agents.methods import METHODS, method_of
from dsrm_jax.cli.figures import learning_curves
from dsrm_jax.cli.pictures import look_of
from dsrm_jax.config import Config
from dsrm_jax.config.serialise import config_fingerprint, from_json, to_json
from dsrm_jax.config.worlds import whereabouts
from dsrm_jax.data.log import InteractionLog
from dsrm_jax.data.sources import SOURCES, check_source, data_path
from dsrm_jax.data.statistics import describe
from dsrm_jax.errors import InputError
from dsrm_jax.evaluation.tables import data_table, results_table
from dsrm_jax.evaluation.verdicts import verdicts, warnings
from dsrm_jax.files import digest, sha256_of, write_text
from dsrm_jax.parallel.devices import described, platform
from dsrm_jax.parallel.processes import check_joined, everywhere, first, is_first, require_same
from dsrm_jax.parallel.processes import console as default_console
from dsrm_jax.parallel.sharding import from_first
from dsrm_jax.parallel.xla import use_compilation_cache
from dsrm_jax.progress import phase
from dsrm_jax.runs import checkpoint
from dsrm_jax.runs.evaluate import evaluate_all
from dsrm_jax.runs.logging import read_metrics
from dsrm_jax.runs.model_card import model_card
from dsrm_jax.runs.pieces import agent_of, environment_of, log_of, perceive_of
from dsrm_jax.runs.prepare import Share, load_worlds, prepare
from dsrm_jax.runs.run import Saved, num_updates, restore, run_mesh, start
from dsrm_jax.runs.run import train as train_loop
from dsrm_jax.runs.run_directory import (
    RunDirectory,
    check_checkpoints,
    create,
    layout,
    locked,
    open_run,
    read_summary,
    write_summary,
)
from dsrm_jax.simulator.build import Worlds
from dsrm_jax.types import Json, Say


def new_run(out: str | os.PathLike[str], config: Config) -> RunDirectory:
    """Make a run's folder, from process 0 where many processes train; see `run_directory.create`."""
    first("create", lambda: create(out, config) and None)
    return layout(out)


def old_run(path: str | os.PathLike[str]) -> tuple[RunDirectory, Config]:
    """Open the folder of an earlier run, read by process 0 where many go on with it; see `run_directory.open_run`."""
    document = first("open", lambda: to_json(open_run(path)[1]))
    return layout(path), from_json(document, str(path))


def go_back(run: RunDirectory, step: int) -> None:
    """Remove the checkpoints of a run beyond a step, which a resumed run then continues from; see `checkpoint.go_back`."""

    def remove() -> None:
        with locked(run):
            checkpoint.go_back(run.checkpoints, step)

    first("back", remove)


def train(
    run: RunDirectory,
    config: Config,
    *,
    console: Console | None = None,
    keep: Callable[[Config, Say], Share | None] = lambda config, say: None,
) -> Json:
    """Train a run of `new_run` or `old_run` from its newest checkpoint (or from nothing) to its end, and evaluate it.

    Training uses all devices that JAX sees, of all processes that were joined (`parallel.processes.joined`); each of those calls
    this. Stage I and the evaluation run on one device. Tables and phases are printed to `console`, standard output of process 0
    by default; what is returned is the summary, as written to `summary.json`. `keep` says what becomes of Stage I between runs,
    such as `kept.share_kept`; by default every run makes its own.

    Raises:
        InputError: data, settings or checkpoints that cannot be used.
        SystemExit: after a signal, with everything reached saved.
    """
    check_joined()
    require_same("settings", digest(to_json(config)))
    check_trainable(config)
    console = console or default_console()
    say = _speaker(console)
    with contextlib.ExitStack() as stack:
        first("lock", lambda: stack.enter_context(locked(run)))
        stack.enter_context(abandoned_if_nothing_was_learnt(run))
        mesh = run_mesh(config)  # refuses at once what cannot be shared
        use_compilation_cache()
        started = time.perf_counter()
        saved, worlds, facts = _stage_one(run, config, say, keep(config, say))
        say(
            f"Stage II: {config.agent.method}, {config.training.steps:,} steps, seeds {list(config.training.seeds)}"
            f"{'' if mesh is None else f'; {described(mesh)}'}"
        )
        state, training = train_loop(run, config, saved, worlds.train, facts["data_digest"])
        if training:
            say(
                f"trained in {training['train_seconds']:.0f} s after {training['compile_seconds']:.0f} s of compiling: "
                f"{training['user_steps_per_second']:,.0f} user-steps/s"
            )
            facts["training"] = training
        saved = Saved(state, saved.perception)
        summary = first("finish", lambda: _finish(run, config, saved, worlds, facts, started, console))
    say(f"everything is in {run.path} ({summary['seconds']:.0f} s)")
    return summary


def _finish(
    run: RunDirectory, config: Config, saved: Saved, worlds: Worlds, facts: Json, started: float, console: Console
) -> Json:
    """Evaluate what was trained and write summary and curves."""
    summary = _measure(run, config, saved, worlds, facts, console) | {"seconds": time.perf_counter() - started}
    _write(run, config, summary)
    rows = read_metrics(run.metrics, of=config_fingerprint(config)) if run.metrics.exists() else []
    if rows and method_of(config.agent.method).learns:
        try:
            title = f"{method_of(config.agent.method).label} on {summary['source']}"
            learning_curves(run.curves, rows, title=title, colour=look_of(config.agent.method)[0])
        except ImportError:
            _speaker(console)("no curves.png: matplotlib is not installed (pip install 'dsrm-jax[plot]')")
    return summary


def evaluate(run: RunDirectory, config: Config, *, console: Console | None = None) -> Json:
    """Evaluate the newest good checkpoint of a run and rewrite its summary; the table is printed to `console`.

    Raises:
        InputError: the run has no usable checkpoint.
    """
    console = console or Console()
    use_compilation_cache()
    step, saved, _, worlds, facts = newest(run, config, _speaker(console))
    last = num_updates(config) * config.training.rollout_length
    facts["source"] += _unfinished(step, config)
    _speaker(console)(f"checkpoint of step {step:,} of {last:,}")
    with locked(run):
        summary = _measure(run, config, saved, worlds, facts, console) | {"step": step}
        _write(run, config, summary)
    return summary


def _write(run: RunDirectory, config: Config, summary: Json) -> None:
    """Write what was measured, for programs and for people."""
    write_summary(run, summary)
    write_text(run.card, model_card(config, summary, folder=str(run.path)))


def export(
    run: RunDirectory, config: Config, path: str | os.PathLike[str], seed: int, *, console: Console | None = None
) -> Json:
    """Write the newest checkpoint's policy of one of `training.seeds` to a file, and time loading it and what it answers.

    The times are printed to `console`; returned are `path`, `bytes`, `load_seconds` (it compiles then) and `latency`, as
    `serving.latency.latency` gives it.

    Raises:
        InputError: no such seed, no usable checkpoint, or the file cannot be written.
    """
    from dsrm_jax.serving.latency import latency
    from dsrm_jax.serving.load import load_policy

    say = _speaker(console or Console())
    written = write_policy(run, config, path, seed, say)
    begun = time.perf_counter()
    with phase("compiling the policy", config.agent.method):
        loaded = load_policy(path)
    load_seconds, size = time.perf_counter() - begun, os.path.getsize(path)
    with phase("timing answers"):
        rows = latency(loaded)
    say(f"wrote {path} ({size / 1e6:.1f} MB), {written}")
    say(f"its SHA-256, for whom you give it to (load_policy(path, sha256=...)): {sha256_of(path)}")
    say(f"loading it, which compiles it for this machine, takes {load_seconds:.1f} s")
    for row in rows:
        say(f"{row['users']:>5,} users: p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms")
    return {"path": str(path), "bytes": size, "load_seconds": load_seconds, "latency": rows}


def write_policy(
    run: RunDirectory, config: Config, path: str | os.PathLike[str], seed: int, say: Say, platforms: Sequence[str] = ()
) -> str:
    """Write the newest checkpoint's policy of one of `training.seeds` to a file, and return in words which it is.

    It is lowered for `platforms`, all by default; raises as `export`.
    """
    from dsrm_jax.serving.export import PLATFORMS, export_policy

    check_exportable(config.agent.method)
    if seed not in config.training.seeds:
        raise InputError(f"{run.path} has no seed {seed}: choose one of {list(config.training.seeds)}")
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {folder}; make it first")
    step, saved, log, worlds, _ = newest(run, config, say)
    index = config.training.seeds.index(seed)
    policy, purifier = jax.tree.map(lambda x: x[index], (saved.train.agent, saved.perception.purifier))
    perception = replace(saved.perception, purifier=purifier)
    last = num_updates(config) * config.training.rollout_length
    facts = {"method": config.agent.method, "source": log.source, "seed": seed, "step": step, "steps": last}
    facts["card"] = run.card.read_text("utf-8", errors="replace") if run.card.exists() else ""
    with phase("writing the policy", config.agent.method, work=len(platforms or PLATFORMS)):
        export_policy(
            path,
            agent_of(config),
            policy,
            worlds.test,
            perception,
            perceive_of(config),
            item_ids=log.item_ids,
            history_length=config.environment.history_length,
            environment=environment_of(config),
            platforms=platforms or PLATFORMS,
            facts=facts | {"config": to_json(config)},
        )
    return f"the policy of seed {seed} at step {step:,}{_unfinished(step, config)}"


def newest(run: RunDirectory, config: Config, say: Say) -> tuple[int, Saved, InteractionLog, Worlds, Json]:
    """Return step and state of a run's newest good checkpoint, its log, worlds and facts; InputError where it has none."""
    log, worlds, facts = load_worlds(config, say)
    found = restore(run, config, worlds.train, log.num_items, log.digest)
    if found is None:
        raise InputError(f"{run.path} has no checkpoint yet: train it first (dsrm-jax resume {run.path})")
    return *found, log, worlds, facts


def _unfinished(step: int, config: Config) -> str:
    last = num_updates(config) * config.training.rollout_length
    return "" if step >= last else f"; UNFINISHED, step {step:,} of {last:,}"


def check_exportable(method: str) -> None:
    """Refuse, with an `InputError`, a method that acts at random whatever it is asked: an exported policy could not be it."""
    if method_of(method).draws:
        raise InputError(
            f"method {method} draws its slates, and an exported policy answers the same question alike: "
            "export the run of another method"
        )


def describe_data(config: Config, *, console: Console | None = None) -> Json:
    """Make a data set's log available (downloading it where it is public and absent), parse it and print its statistics."""
    console = console or Console()
    check_source(config.data.env)
    source = SOURCES.get(config.data.env)
    if not config.data.path and source and not source.drawn and config.data.env != "log":
        from dsrm_jax.data.download import download

        download(config.data.env, data_path(config.data.env))
    with phase("reading the data", f"{config.data.env} {config.data.path}"):
        facts = describe(log_of(config))
    console.print(data_table(facts))
    return facts


def check_trainable(config: Config) -> None:
    """Refuse, with an `InputError`, what could only fail after minutes of Stage I."""
    method = method_of(config.agent.method)
    if method.make is None:
        able = ", ".join(name for name, other in METHODS.items() if other.make is not None)
        raise InputError(
            f"method {method.name} learns nothing and is not a policy that could be used: it stands in the table of every run on "
            f"a synthetic world; methods to train or compare are {able}"
        )
    samples = config.training.num_users * config.training.rollout_length
    if samples % config.agent.minibatches:
        raise InputError(
            f"agent.minibatches is {config.agent.minibatches} and does not divide the {samples} samples of a rollout "
            "(training.num_users x training.rollout_length): choose a divisor"
        )


@contextlib.contextmanager
def abandoned_if_nothing_was_learnt(run: RunDirectory) -> Iterator[None]:
    """Leave no run behind where bad input stops it before its first checkpoint; hold the run's lock around it."""
    try:
        yield
    except InputError:
        if is_first() and not run.checkpoints.exists():
            for path in (run.config, run.lock):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                run.path.rmdir()
        raise


def _speaker(console: Console) -> Say:
    return lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)


def _stage_one(run: RunDirectory, config: Config, say: Say, share: Share | None) -> tuple[Saved, Worlds, Json]:
    """Restore what was saved, or train everything that Stage II takes as given."""
    first("checkpoints", lambda: check_checkpoints(run))
    if first("continue", run.checkpoints.exists):
        log, worlds, facts = everywhere("data", lambda: load_worlds(config, say))
        require_same("data", facts["data_digest"])
        found = restore(run, config, worlds.train, log.num_items, log.digest)
        if found is not None:
            say(f"continuing from step {found[0]:,}")
            if moved := first("devices", lambda: other_devices(run, config)):
                say(moved)
            return found[1], from_first(worlds), facts
    prepared = everywhere("stage one", lambda: prepare(config, say, share=share))
    require_same("data of stage one", prepared.facts["data_digest"])
    begun = {"method": config.agent.method, "devices": _devices(config), **prepared.facts}
    first("facts", lambda: write_summary(run, begun))
    worlds, perception = from_first((prepared.worlds, prepared.perception))
    state = start(config, worlds.train, perception, mesh=run_mesh(config))
    return Saved(state, perception), worlds, prepared.facts


def other_devices(run: RunDirectory, config: Config) -> str:
    """Return a sentence where a run was begun on other devices than it goes on on, else an empty text."""
    then, now = earlier(run, lambda _: None).get("devices"), _devices(config)
    if then in (None, now):
        return ""
    return f"it was begun on {then}, and goes on on {now}: sums are taken in another order, and last digits may differ"


def earlier(run: RunDirectory, say: Say) -> Json:
    """Return a run's summary as it stands: Stage I's facts are there already, where this process skipped it."""
    if run.summary.exists():
        return read_summary(run)
    say(f"{run.summary} is gone, and what it said of Stage I with it: it is written again without")
    return {}


def _devices(config: Config) -> str:
    mesh = run_mesh(config)
    return f"one {platform()} device" if mesh is None else described(mesh)


def _measure(run: RunDirectory, config: Config, saved: Saved, worlds: Worlds, facts: Json, console: Console) -> Json:
    """Evaluate what was trained, print its table, and return the summary, on top of what an earlier one says."""
    results = evaluate_all(config, saved.train.agent, worlds, saved.perception, _speaker(console))
    table = results_table(
        results,
        source=facts["source"] + whereabouts(config).removeprefix(config.data.env),
        env=whereabouts(config),
        max_len=config.environment.max_len,
        num_seeds=len(config.training.seeds),
    )
    summary = earlier(run, _speaker(console)) | facts
    said = {"verdicts": verdicts(results), "warnings": warnings(summary, results)}
    console.print(*said["verdicts"], "", sep="\n", highlight=False, markup=False)
    console.print(table)
    for warning in said["warnings"]:
        console.print(Text(f"warning: {warning}", style="yellow"))
    return summary | {"method": config.agent.method, "results": results} | said
