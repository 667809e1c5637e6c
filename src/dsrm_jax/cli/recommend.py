"""`dsrm-jax recommend`: an exported policy, or that of a run, for every user of a log."""

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from glob import has_magic
from pathlib import Path

from dsrm_jax.cli.pipeline import write_policy
from dsrm_jax.errors import InputError
from dsrm_jax.parallel.devices import platform
from dsrm_jax.parallel.xla import use_compilation_cache
from dsrm_jax.progress import phase, phases
from dsrm_jax.runs.run_directory import open_run
from dsrm_jax.serving.load import ExportedPolicy, load_policy
from dsrm_jax.serving.log_histories import LogFile
from dsrm_jax.serving.recommend_log import Recommended, check_out, recommend_log
from dsrm_jax.types import Json, Say

COLUMNS = ("user_column", "item_column", "click_column", "time_column", "time_format", "click_from")
NAMED = 5  # unknown items that are printed


def recommend(wanted: Json, say: Say) -> Json:
    """Recommend as `commands` was asked to, say what was done, and return it in numbers.

    Raises:
        InputError: a policy, file or option that cannot be used; nothing is written then.
    """
    started, out = time.perf_counter(), Path(wanted["out"])
    check_out(out)
    for name, also in (("log", ""), ("users", ""), ("allowed", ""), ("exclude", "seen, nothing, or ")):
        check_there(name, wanted[name], also)
    use_compilation_cache()
    policy = policy_of(wanted["policy"], wanted["seed"], say)
    loaded = time.perf_counter() - started
    exclude = {"seen": "seen", "nothing": None}.get(wanted["exclude"], Path(wanted["exclude"]))
    options = {name: Path(wanted[name]) if wanted[name] else None for name in ("users", "allowed")}
    with phases() as report:
        told = recommend_log(
            policy,
            log_file(policy, wanted),
            out,
            k=wanted["k"],
            exclude=exclude,
            scores=wanted["scores"],
            report=report,
            **options,
        )
    numbers = {
        "users": told.users,
        "strangers": told.strangers,
        "short": told.short,
        "events": told.found.events,
        "unknown_events": told.found.unknown_events,
        "unknown_items": dict(told.found.unknown.most_common()),
        "k": wanted["k"],
        "exclude": wanted["exclude"],
        "load_seconds": loaded,
        "seconds": time.perf_counter() - started,
        "peak_memory_mb": peak_memory(),
        "bytes": out.stat().st_size,
    }
    for line in in_words(told, numbers, wanted):
        say(line)
    return numbers


def check_there(option: str, path: str, also: str) -> None:
    """Refuse a file that does not exist, before the work; `also` are the words that an option takes instead of one."""
    if path and path not in also.split(", ") and not Path(path).exists() and not has_magic(path):
        raise InputError(f"--{option} {path}: there is no such file; expected {also}a CSV, Parquet or text file")


def policy_of(path: str, seed: int, say: Say) -> ExportedPolicy:
    """Return an exported policy, or that of a run directory's newest checkpoint, of one of its seeds (-1: the first)."""
    if not Path(path).is_dir():
        with phase("compiling the policy"):
            return load_policy(path)
    run, config = open_run(path)
    with tempfile.TemporaryDirectory(prefix="dsrm-jax-") as folder:
        file = Path(folder) / "policy.dsrm"
        say(write_policy(run, config, file, config.training.seeds[0] if seed == -1 else seed, say, [platform()]))
        with phase("compiling the policy", config.agent.method):
            return load_policy(file)


def log_file(policy: ExportedPolicy, wanted: Json) -> LogFile:
    """Return the log asked for; its columns are by default those that the policy's own log had."""
    trained = policy.meta.get("config", {}).get("data", {})
    own = {name: trained[name] for name in COLUMNS if name in trained} if trained.get("env") == "log" else {}
    given = {name: wanted[name] for name in COLUMNS if wanted[name] not in ("", None)}
    return LogFile(Path(wanted["log"]), **(own | given))


def in_words(told: Recommended, numbers: Json, wanted: Json) -> Iterator[str]:
    """Say what was recommended, to whom, and what was not."""
    left_out = {"seen": "items that a user has seen are left out", "nothing": "items already seen may return"}
    rule = left_out.get(wanted["exclude"], f"items of {wanted['exclude']} are left out, items already seen may return")
    yield f"{wanted['k']} items for each of {told.users:,} users; {rule} (--exclude {wanted['exclude']})"
    if told.strangers:
        known = "without an event of an item that the policy knows"
        yield f"{told.strangers:,} users are strangers, {known}: they get what newcomers get"
    if told.short:
        yield f"{told.short:,} users get fewer than {wanted['k']} items, since no more are left to recommend"
    found = told.found
    if found.unknown_events:
        named = ", ".join(f"{item} ({count:,})" for item, count in found.unknown.most_common(NAMED))
        more = "" if len(found.unknown) <= NAMED else ", ..."
        yield f"{found.unknown_events:,} of {found.events:,} events are of items that the policy does not know: {named}{more}"
    size, peak = numbers["bytes"] / 1e6, numbers["peak_memory_mb"]
    yield f"wrote {wanted['out']} ({size:.1f} MB) in {numbers['seconds']:.0f} s, with at most {peak:,.0f} MB of memory"


def peak_memory() -> float:
    """Return the most memory that this process has held, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)
