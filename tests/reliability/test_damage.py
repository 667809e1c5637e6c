"""Files that were damaged after they were written: the same result, the checkpoint before with a notice, or one sentence."""

import contextlib
import json
import logging
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from dsrm_jax.cli import pipeline
from dsrm_jax.config import Config, TrainingConfig
from dsrm_jax.config.serialise import config_fingerprint
from dsrm_jax.data.cache import read_log, write_log
from dsrm_jax.data.log import InteractionLog
from dsrm_jax.data.sources import load_log
from dsrm_jax.errors import InputError
from dsrm_jax.files import load_sealed, sealed, write_text
from dsrm_jax.runs import checkpoint, run_directory
from dsrm_jax.runs.handover import hand_over
from dsrm_jax.runs.logging import append_metrics, read_metrics, truncate_metrics
from dsrm_jax.runs.prepare import StageOne
from tests.reliability.campaign import Outcome, folder, sample, whole
from tests.reliability.runs import judged, reference, server

pytestmark = [pytest.mark.timeout(0), pytest.mark.filterwarnings("ignore:.*the cache is:UserWarning")]
STEPS, PER = (16, 24, 32), 8
SAVED = {
    "weights": np.linspace(-1, 1, 60, dtype=np.float32),
    "keys": np.arange(8, dtype=np.uint32),
    "none": np.zeros((0, 3)),
}


class Listening(logging.Handler):
    """Keeps what the library says."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    def __enter__(self) -> "Listening":
        logging.getLogger("dsrm_jax").addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("dsrm_jax").removeHandler(self)


def damage(path: Path, rng: random.Random, other: Path) -> str:
    """Do one of eight kinds of damage to a file; `other` is the same file of another run."""
    kind = rng.randrange(8)
    content = path.read_bytes()
    at = rng.randrange(len(content)) if content else 0
    if kind in (0, 1, 2) and content:
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :])
        return f"bit {at} flipped"
    if kind == 3:
        path.write_bytes(content[:at])
        return f"cut to {at} bytes"
    if kind == 4:
        path.write_bytes(b"")
        return "emptied"
    if kind == 5:
        path.unlink()
        path.mkdir()
        return "replaced by a folder"
    if kind == 6 and other.is_file():
        shutil.copy(other, path)
        return "swapped with another's"
    path.unlink()
    return "deleted"


def parameters(step: int, seed: int) -> dict[str, np.ndarray]:
    return {name: (array * (step + seed)).astype(array.dtype) for name, array in SAVED.items()}


def config_of(seed: int) -> Config:
    return Config(training=TrainingConfig(seeds=(seed,)))


def write_run(out: Path, seed: int) -> None:
    run, done, fingerprint = run_directory.create(out, config_of(seed)), 0, config_fingerprint(config_of(seed))
    for step in STEPS:
        rows = [{"step": s, "reward": [s / 7 + seed]} for s in range(done + PER, step + 1, PER)]
        append_metrics(run.metrics, rows, of=fingerprint)
        checkpoint.save(run.checkpoints, step, parameters(step, seed), fingerprint)
        done = step
    run_directory.write_summary(run, {"results": {"x": 0.125 + seed}})


@cache
def runs() -> tuple[Path, Path]:
    places = folder() / "whole-0", folder() / "whole-1"
    for seed, place in enumerate(places):
        shutil.rmtree(place, ignore_errors=True)
        write_run(place, seed)
    return places


def fresh(name: str, whole_one: Path) -> Path:
    copy = folder() / name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole_one, copy)
    return copy


def run_trial(number: int) -> Outcome:
    """Damage one file of a run directory, and open, restore, read rows and summary as `resume` and `evaluate` do."""
    rng = random.Random(number)
    mine, theirs = runs()
    copy = fresh("damaged", mine)
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    target = files[rng.randrange(len(files))]
    relative = target.relative_to(copy)
    what = f"{relative}: {damage(target, rng, theirs / relative)}"
    wanted_rows = read_metrics(mine / "metrics.jsonl")
    with Listening() as heard:
        try:
            run, config = run_directory.open_run(copy)
            run_directory.check_checkpoints(run)
            fingerprint = config_fingerprint(config)
            found = checkpoint.restore(run.checkpoints, parameters(0, 0), fingerprint)
            if found is None:
                return Outcome("silent", f"{what}: nothing was found to continue from")
            step, state = found
            if not all(np.array_equal(state[name], array) for name, array in parameters(step, 0).items()):
                return Outcome("silent", f"{what}: step {step} came back as something else")
            kept = truncate_metrics(run.metrics, step, of=fingerprint)
            if kept != step // PER:  # as `runs.run.train` says it
                heard.said.append(f"{kept} rows up to step {step}")
            summary = run_directory.read_summary(run)
            rows = read_metrics(run.metrics, of=fingerprint) if run.metrics.exists() else []
        except InputError as error:
            return Outcome("refused", f"{what}: {error}")
        except Exception as error:
            return Outcome("traceback", f"{what}: {type(error).__name__}: {error}")
    if (config, summary) != (config_of(0), {"results": {"x": 0.125}}) or any(row not in wanted_rows for row in rows):
        return Outcome("silent", f"{what}: {summary} {rows}")
    if heard.said:
        return Outcome("recovered", f"{what}: {heard.said[0]}")
    same = step == STEPS[-1] and rows == wanted_rows
    return (
        Outcome("exact", what) if same else Outcome("silent", f"{what}: step {step}, {len(rows)} rows, without a word")
    )


def stage_one(scale: float) -> StageOne:
    arrays = {"vectors": np.arange(30, dtype=np.float32) * scale}
    return StageOne(arrays, {"mode": np.ones(4, np.float32) * scale}, {"loss": 0.5 * scale})  # type: ignore[arg-type]


def shared(place: Path, name: str, make: Callable[[], StageOne], said: list[str]) -> StageOne:
    return hand_over(place, lambda: None, said.append, name, stage_one(1.0), make)


@cache
def kept() -> tuple[Path, Path]:
    places = folder() / "kept-0", folder() / "kept-1"
    for scale, place in enumerate(places, 1):
        shutil.rmtree(place, ignore_errors=True)
        shared(place, f"log {scale}", lambda scale=scale: stage_one(float(scale)), [])
    return places


def kept_trial(number: int) -> Outcome:
    """Damage one file of a Stage I that is kept between runs: it is read as it was, or made anew."""
    rng = random.Random(number)
    mine, theirs = kept()
    copy = fresh("kept-damaged", mine)
    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.name != ".lock")
    target = files[rng.randrange(len(files))]
    what = f"{target.name}: {damage(target, rng, theirs / str(target.relative_to(copy)).replace('log 1', 'log 2'))}"
    said: list[str] = []
    anew: list[bool] = []
    try:
        with Listening() as heard:
            found = shared(copy, "log 1", lambda: (anew.append(True), stage_one(1.0))[1], said)
    except Exception as error:
        return Outcome("traceback", f"{what}: {type(error).__name__}: {error}")
    want = stage_one(1.0)
    same = (
        jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), found, want)) and found.facts == want.facts
    )
    if not same:
        return Outcome("silent", f"{what}: {found}")
    return Outcome("recovered", f"{what}: {(said + heard.said + ['made anew'])[0]}") if anew else Outcome("exact", what)


@cache
def log() -> InteractionLog:
    rng = np.random.default_rng(0)
    rows = {"user_id": rng.integers(0, 30, 400), "item_id": rng.integers(0, 40, 400), "click": rng.integers(0, 2, 400)}
    path = folder() / "rows.csv"
    lines = ["user_id,item_id,click", *(",".join(map(str, row)) for row in zip(*rows.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return load_log("log", path=str(path), cache=False)


def cache_trial(number: int) -> Outcome:
    """Damage a parsed log's cache: it is read as it was, or parsed again with a warning."""
    rng = random.Random(number)
    path = folder() / "cache.npz"
    if path.is_dir():
        path.rmdir()
    write_log(path, log(), "k")
    what = damage(path, rng, folder() / "absent")
    try:
        found = read_log(path, "k")
    except Exception as error:
        return Outcome("traceback", f"{what}: {type(error).__name__}: {error}")
    if found is None:
        return Outcome("recovered", what)
    return Outcome("exact", what) if found.digest == log().digest else Outcome("silent", f"{what}: another log")


def data_trial(number: int) -> Outcome:
    """Damage a log itself: refused, or its digest, which every checkpoint holds, is another."""
    log()
    rng = random.Random(number)
    path = folder() / "damaged.csv"
    if path.is_dir():
        path.rmdir()
    shutil.copy(folder() / "rows.csv", path)
    what = damage(path, rng, folder() / "absent")
    try:
        found = load_log("log", path=str(path), cache=False)
    except InputError as error:
        return Outcome("refused", f"{what}: {error}")
    except Exception as error:
        return Outcome("traceback", f"{what}: {type(error).__name__}: {error}")
    return Outcome("exact" if found.digest == log().digest else "recovered", f"{what}: another digest")


@contextlib.contextmanager
def keeping_programs(place: Path) -> Iterator[None]:
    """Let JAX keep compiled programs in a folder, as `xla.use_compilation_cache` does."""
    settings = {"jax_compilation_cache_dir": str(place), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: jax.config.values[name] for name in settings}

    def use(values: dict[str, object]) -> None:
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    use(settings)
    try:
        yield
    finally:
        use(before)


def program(x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ x.T).sum(0) + jnp.sort(x[:, 0])


def program_trial(number: int) -> Outcome:
    """Damage a compiled program that JAX keeps: it is compiled again with a warning, and computes the same."""
    place = folder() / "programs"
    shutil.rmtree(place, ignore_errors=True)
    x = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    with keeping_programs(place), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        want = np.asarray(jax.jit(lambda x: program(x))(x))
        (path,) = [path for path in place.iterdir() if path.stat().st_size > 2000]
        what = damage(path, random.Random(number), folder() / "absent")
        found = np.asarray(jax.jit(lambda x: program(x))(x))
    if not np.array_equal(found, want):
        return Outcome("silent", f"{what}: another result")
    warned = any("compilation cache" in str(each.message) for each in heard)
    return Outcome("recovered" if warned else "exact", what)


def test_samples_of_damage():
    for trial, count in ((run_trial, 40), (kept_trial, 15), (cache_trial, 40), (data_trial, 20)):
        sample(trial, count)


@pytest.mark.slow
def test_damaged_runs():
    whole("damage: run directories", run_trial, 5000)


@pytest.mark.slow
def test_damaged_stages():
    whole("damage: Stage I kept between runs", kept_trial, 2000)


@pytest.mark.slow
def test_damaged_caches():
    whole("damage: caches of logs", cache_trial, 5000)


@pytest.mark.slow
def test_damaged_programs():
    whole("damage: compiled programs that JAX keeps", program_trial, 200)


@pytest.mark.slow
def test_damaged_logs():
    whole("damage: logs", data_trial, 2000)


COMMANDS = ("resume", "evaluate", "export", "recommend")


def command_trial(number: int) -> Outcome:
    """Damage one file of the least run, and let a command use it."""
    rng = random.Random(number)
    command = COMMANDS[number % len(COMMANDS)]
    copy = fresh("command-damaged", reference())
    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.suffix not in (".png", ".dsrm"))
    # most files are of checkpoints: the others come as often
    own = [path for path in files if path.parent == copy]
    target = rng.choice(own if rng.random() < 0.5 else files)
    what = f"{command}, {target.relative_to(copy)}: {damage(target, rng, copy / 'absent')}"
    log()
    words = {
        "export": ("export", copy, "--out", copy / "policy.dsrm"),
        "recommend": ("recommend", copy, "--log", folder() / "rows.csv", "--out", copy / "out.csv", "-k", 3),
    }.get(command, (command, copy))
    before = sorted(path.name for path in copy.iterdir())
    ended = server().run(*words, seconds=300)
    notices = (
        "trying the one before it",
        "rows up to step",
        "UNFINISHED",
        "was changed",
        "other versions",
        "is gone, and what",
    )
    if command in ("resume", "evaluate"):
        outcome = judged(copy, ended, unread=("metrics",) if command == "evaluate" else (), notices=notices)
    elif ended.status == 0 and "Traceback" not in ended.said:
        outcome = _same_answer(copy, command, ended.said, notices)
    else:
        outcome = judged(copy, ended)
    left = (
        {path.name for path in copy.iterdir()}
        - set(before)
        - {"policy.dsrm", "out.csv", "curves.png", "summary.json", "metrics.jsonl"}
    )
    if outcome.kind == "refused" and left:
        return Outcome("silent", f"{what}: left {left}")
    return Outcome(outcome.kind, f"{what}: {outcome.detail}")


def _same_answer(copy: Path, command: str, said: str, notices: tuple[str, ...]) -> Outcome:
    name = {"export": "policy.dsrm", "recommend": "out.csv"}[command]
    whole_one = folder() / f"whole-{name}"
    noticed = any(notice in said for notice in notices)
    if not whole_one.exists():
        words = ("export", reference(), "--out", whole_one)
        if command == "recommend":
            words = ("recommend", reference(), "--log", folder() / "rows.csv", "--out", whole_one, "-k", 3)
        ended = server().run(*words, seconds=300)
        assert ended.status == 0, ended.said
    if command == "export":
        from zipfile import ZipFile

        contents = [ZipFile(path).read("program.bin") for path in (copy / name, whole_one)]
    else:
        contents = [path.read_bytes() for path in (copy / name, whole_one)]
    if contents[0] != contents[1]:
        return Outcome("recovered" if noticed else "silent", said[-200:])
    return Outcome("recovered" if noticed else "exact")


@pytest.mark.slow
def test_damage_seen_by_commands():
    whole("damage: seen by resume, evaluate, export, recommend", command_trial, 80)


def test_a_summary_that_is_gone_is_missed(tmp_path):
    run, said = run_directory.create(tmp_path, Config()), []
    assert pipeline.earlier(run, said.append) == {}
    assert "summary.json is gone, and what it said of Stage I with it" in said.pop()
    run_directory.write_summary(run, {"devices": "one"})
    assert pipeline.earlier(run, said.append) == {"devices": "one"}
    assert said == []


def test_an_older_summary_has_no_digest_and_is_read(tmp_path):
    document = {"results": {"x": 1.0}}
    write_text(tmp_path / "summary.json", json.dumps(document))
    assert load_sealed(tmp_path / "summary.json") == document
    write_text(tmp_path / "summary.json", json.dumps(sealed(document)))
    assert load_sealed(tmp_path / "summary.json") == document
