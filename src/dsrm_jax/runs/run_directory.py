"""The folder of one run: `config.json`, `metrics.jsonl`, `summary.json`, `checkpoints/`, `curves.png`."""

import contextlib
import json
import logging
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dsrm_jax.config import Config
from dsrm_jax.config.serialise import config_fingerprint, differences, from_json, to_json
from dsrm_jax.errors import InputError
from dsrm_jax.files import from_json_value, json_value, load_json, write_text
from dsrm_jax.parallel.devices import platform_if_started
from dsrm_jax.runs.lock import held
from dsrm_jax.types import Json

PACKAGES = ("dsrm-jax", "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")

_log = logging.getLogger("dsrm_jax")


@dataclass(frozen=True)
class RunDirectory:
    """Where the parts of a run lie; the paths need not exist yet.

    Attributes:
        path: the run's folder.
        config: JSON, the configuration and what it ran on; the file that makes a folder a run.
        metrics: JSON lines, one row per chunk of training.
        summary: JSON, the result.
        checkpoints: folder of steps.
        curves: PNG.
        tensorboard: folder of event files.
        lock: held while a process trains here.
    """

    path: Path
    config: Path
    metrics: Path
    summary: Path
    checkpoints: Path
    curves: Path
    tensorboard: Path
    lock: Path


def default_path(config: Config, root: str | os.PathLike[str] = "runs") -> Path:
    """Return `<root>/<env>-<method>-<steps>-<8 digits of the fingerprint>`, the same for the same configuration."""
    name = f"{config.data.env}-{config.agent.method}-{config.training.steps}-{config_fingerprint(config)[:8]}"
    return Path(root) / re.sub(r"[^\w.-]+", "_", name)


def layout(path: str | os.PathLike[str]) -> RunDirectory:
    """Return where the parts of the run in a folder lie; reads and writes nothing."""
    path = Path(path)
    return RunDirectory(
        path=path,
        config=path / "config.json",
        metrics=path / "metrics.jsonl",
        summary=path / "summary.json",
        checkpoints=path / "checkpoints",
        curves=path / "curves.png",
        tensorboard=path / "tensorboard",
        lock=path / ".lock",
    )


def create(out: str | os.PathLike[str], config: Config) -> RunDirectory:
    """Make a run's folder and write its `config.json`; a folder of the same run is taken up as it is.

    Args:
        out: the folder; absent, empty, or a run whose configuration has the same fingerprint.
        config: a validated configuration.

    Returns:
        The paths; of the files only `config.json` is there.

    Raises:
        InputError: the folder belongs to another configuration or holds other files, or cannot be written.
    """
    run = layout(out)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        others = sorted(p.name for p in run.path.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise InputError(
            f"cannot make run directory {run.path}: {error.strerror or error}; choose another output folder"
        ) from error
    if run.config.exists():
        _refuse_other(run, config)
    elif others:
        raise InputError(
            f"{run.path} is not empty and not a run directory (it holds {others[0]!r} but no config.json): "
            "choose a new or empty output folder"
        )
    document = {"config": to_json(config), "fingerprint": config_fingerprint(config), **surroundings()}
    write_text(run.config, json.dumps(document, indent=2) + "\n")
    return run


def open_run(path: str | os.PathLike[str]) -> tuple[RunDirectory, Config]:
    """Open the folder of an earlier run, to resume or evaluate it.

    Other package versions than the run's are reported as a warning of the logger ``dsrm_jax``: numbers may
    then differ in their last bits.

    Args:
        path: a folder that `create` made.

    Returns:
        The paths and the configuration it was created with.

    Raises:
        InputError: there is no such folder, or its config.json is missing, damaged or of an unknown
            configuration.
    """
    run = layout(path)
    if not run.path.is_dir():
        raise InputError(f"there is no run directory {run.path}: give the folder that a training run wrote")
    if not run.config.is_file():
        raise InputError(
            f"{run.path} is not a run directory: it has no config.json; give the folder that training wrote"
        )
    document = load_json(run.config)
    config = _config_of(run, document)
    _warn_of_versions(run, document.get("versions"))
    return run, config


def write_summary(run: RunDirectory, summary: Json) -> None:
    """Write `summary.json`, whole or not at all; values as `json_value` takes them.

    Raises:
        InputError: it cannot be written; an earlier summary is untouched.
    """
    write_text(run.summary, json.dumps(json_value(summary), indent=2, allow_nan=False) + "\n")


def read_summary(run: RunDirectory) -> Json:
    """Return what `write_summary` wrote, arrays as lists.

    Raises:
        InputError: the run has no summary yet, or it is damaged.
    """
    if not run.summary.is_file():
        raise InputError(f"{run.path} has no summary.json: the run has not finished; resume it first")
    return from_json_value(load_json(run.summary))


@contextlib.contextmanager
def locked(run: RunDirectory) -> Iterator[None]:
    """Keep other processes from training in a run's folder; the lock goes with the process, however it ends.

    Raises:
        InputError: another process holds it, or the folder cannot be written.
    """
    busy = f"another process is training in {run.path}: wait for it, or choose another output folder"
    with held(
        run.lock, busy=busy, unwritable=lambda why: f"cannot write {run.lock}: {why}; choose another folder"
    ) as without:
        if without is not None:
            _log.warning("%s is not locked: %s", run.path, without.strerror or without)
        yield


def surroundings() -> Json:
    """Return what else numbers depend on: package versions, platform, XLA flags; and the time."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "platform": {"system": platform.platform(), "cpus": os.cpu_count(), "backend": platform_if_started()},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _config_of(run: RunDirectory, document: Json) -> Config:
    if not isinstance(document.get("config"), Mapping):
        raise InputError(f"{run.config} is damaged: it has no 'config' object; train again in another folder")
    return from_json(document["config"], str(run.config))


def _refuse_other(run: RunDirectory, config: Config) -> None:
    document = load_json(run.config)
    old = _config_of(run, document)
    if config_fingerprint(old) == config_fingerprint(config):
        _warn_of_versions(run, document.get("versions"))
        return
    changed = differences(old, config)
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    raise InputError(
        f"{run.path} holds a run with another configuration ({'; '.join(changed[:3])}{more}): "
        "choose another output folder, resume that run as it is, or delete the folder"
    )


def _warn_of_versions(run: RunDirectory, recorded: object) -> None:
    now = surroundings()["versions"]
    recorded = recorded if isinstance(recorded, Mapping) else {}
    changed = [
        f"{name} {recorded[name]} then, {now[name]} now" for name in now if recorded.get(name, now[name]) != now[name]
    ]
    if changed:
        _log.warning(
            "%s was made with other versions (%s): numbers may differ in the last bits", run.path, "; ".join(changed)
        )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
