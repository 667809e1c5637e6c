"""The folder of one run: `config.json`, `metrics.jsonl`, `summary.json`, `MODEL_CARD.md`, `checkpoints/`, `curves.png`."""

import contextlib
import json
import logging
import os
import platform
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from dsrm_jax import __version__
from dsrm_jax.config import Config
from dsrm_jax.config.serialise import config_fingerprint, differences, from_json, to_json
from dsrm_jax.errors import InputError
from dsrm_jax.files import digest, from_json_value, json_value, load_json, load_sealed, or_null, sealed, write_text
from dsrm_jax.parallel.devices import platform_if_started
from dsrm_jax.runs.lock import held
from dsrm_jax.types import Json

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")

_log = logging.getLogger("dsrm_jax")


class RunDirectory(NamedTuple):
    """Where the parts of a run lie; the paths need not exist yet."""

    path: Path  # the folder of all of them
    config: Path  # JSON, the configuration and what it ran on; the file that makes a folder a run
    metrics: Path  # JSON lines, one row per chunk of training
    summary: Path  # JSON, the result
    checkpoints: Path  # folder of steps
    curves: Path  # PNG, its numbers as CSV beside it
    tensorboard: Path  # folder of event files
    card: Path  # Markdown
    lock: Path  # held while a process trains here


def default_path(config: Config, root: str | os.PathLike[str] = "runs") -> Path:
    """Return `<root>/<env>-<method>-<steps>-<8 digits of the fingerprint>`, the same for the same configuration."""
    name = f"{config.data.env}-{config.agent.method}-{config.training.steps}-{config_fingerprint(config)[:8]}"
    return Path(root) / re.sub(r"[^\w.-]+", "_", name)


def layout(path: str | os.PathLike[str]) -> RunDirectory:
    """Return where the parts of the run in a folder lie; reads and writes nothing."""
    path = Path(path)
    results = "summary.json", "checkpoints", "curves.png", "tensorboard", "MODEL_CARD.md"
    return RunDirectory(path, *(path / name for name in ("config.json", "metrics.jsonl", *results, ".lock")))


def create(out: str | os.PathLike[str], config: Config) -> RunDirectory:
    """Make a run's folder and write its `config.json`; a folder of the same run is taken up as it is.

    Args:
        out: the folder; absent, empty, or a run whose configuration has the same fingerprint.
        config: a validated configuration.

    Raises:
        InputError: the folder belongs to another configuration or version or holds other files, or cannot be written.
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
    settings = to_json(config)
    document = {
        "config": settings,
        "sha256": digest(settings),
        "fingerprint": config_fingerprint(config),
        **surroundings(),
    }
    with locked(run):  # the settings of a run under way are its own
        write_text(run.config, json.dumps(document, indent=2) + "\n")
    return run


def open_run(path: str | os.PathLike[str]) -> tuple[RunDirectory, Config]:
    """Open the folder of an earlier run, to resume or evaluate it.

    Other package versions than the run's are reported as a warning of the logger ``dsrm_jax``: numbers may then differ in
    their last bits.

    Raises:
        InputError: `create` did not make the folder, or its config.json is damaged, of an unknown configuration, or of a version
            of this program that took its configuration to mean something else.
    """
    run = layout(path)
    if not run.path.is_dir():
        raise InputError(f"there is no run directory {run.path}: give the folder that a training run wrote")
    if not run.config.is_file():
        raise InputError(
            f"{run.path} is not a run directory: it has no config.json; give the folder that training wrote"
        )
    config, versions = _read(run)
    _warn_of_versions(run, versions)
    return run, config


def write_summary(run: RunDirectory, summary: Json) -> None:
    """Write `summary.json`, whole or not at all; values as `json_value` takes them, null for numbers that are not known.

    It says of which run it is.

    Raises:
        InputError: it cannot be written; an earlier summary is untouched.
    """
    document = sealed(or_null(json_value(summary)) | {"fingerprint": _fingerprint(run)})
    write_text(run.summary, json.dumps(document, indent=2, allow_nan=False) + "\n")


def check_checkpoints(run: RunDirectory) -> None:
    """Refuse a run that learnt something, as its metrics say, and whose checkpoints are gone: it would start afresh unasked.

    Raises:
        InputError: they are absent, or no folder.
    """
    if run.checkpoints.exists() and not run.checkpoints.is_dir():
        raise InputError(
            f"{run.checkpoints} is no folder: it should hold the run's checkpoints; train again in another folder"
        )
    kept = run.checkpoints.is_dir() and any(run.checkpoints.iterdir())
    if not kept and run.metrics.is_file() and run.metrics.stat().st_size:
        raise InputError(
            f"the checkpoints of {run.path} are gone, and metrics.jsonl says that it had some: put them back, or delete the "
            "folder to train from the start"
        )


def read_summary(run: RunDirectory) -> Json:
    """Return what `write_summary` wrote, arrays as lists; an `InputError` where the run has none yet, or it is damaged."""
    if not run.summary.is_file():
        raise InputError(f"{run.path} has no summary.json: the run has not finished; resume it first")
    found = load_sealed(run.summary)
    if found.pop("fingerprint", _fingerprint(run)) != _fingerprint(run):
        raise InputError(
            f"{run.summary} is another run's: put back this one's, or delete it and evaluate the run again"
        )
    return from_json_value(found)


def _fingerprint(run: RunDirectory) -> str:
    """Return what a run's `config.json` says that it is; an empty text where it has none."""
    return str(load_json(run.config).get("fingerprint", "")) if run.config.is_file() else ""


@contextlib.contextmanager
def locked(run: RunDirectory) -> Iterator[None]:
    """Keep other processes from training in a run's folder; the lock goes with the process, however it ends.

    Raises:
        InputError: another process holds it, or the folder cannot be written.
    """
    busy = f"another process is training in {run.path}: wait for it, or choose another output folder"
    with held(run.lock, busy=busy) as without:
        if without is not None:
            _log.warning("%s is not locked: %s", run.path, without.strerror or without)
        yield


def surroundings() -> Json:
    """Return what else numbers depend on: package versions, platform, XLA flags; and the time."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "dsrm-jax": __version__,
            **{name: version(name) for name in PACKAGES},
        },
        "platform": {"system": platform.platform(), "cpus": os.cpu_count(), "backend": platform_if_started()},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _read(run: RunDirectory) -> tuple[Config, Mapping[str, object]]:
    """Return the configuration of a run and the versions it was made with."""
    document = load_json(run.config)
    if not isinstance(document.get("config"), Mapping):
        raise InputError(f"{run.config} is damaged: it has no 'config' object; train again in another folder")
    versions = document.get("versions")
    versions = versions if isinstance(versions, Mapping) else {}
    config = from_json(document["config"], str(run.config))
    if document.get("fingerprint", "") != config_fingerprint(config):
        raise InputError(
            f"{run.path} was made by another version of this program ({versions.get('dsrm-jax', 'unknown')}, this is "
            f"{__version__}), or its config.json was changed since, and cannot be continued or evaluated: "
            "train again in another folder, or use that version"
        )
    written = digest(document["config"])
    if document.get("sha256", written) != written:  # a fingerprint leaves some fields free
        raise InputError(
            f"{run.config} was changed since it was written (its SHA-256 says so): put it back as it was; more steps are "
            f"asked for by the train command with --out {run.path}"
        )
    return config, versions


def _refuse_other(run: RunDirectory, config: Config) -> None:
    old, versions = _read(run)
    if config_fingerprint(old) == config_fingerprint(config):
        _warn_of_versions(run, versions)
        return
    changed = differences(old, config)
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    raise InputError(
        f"{run.path} holds a run with another configuration ({'; '.join(changed[:3])}{more}): "
        "choose another output folder, resume that run as it is, or delete the folder"
    )


def _warn_of_versions(run: RunDirectory, recorded: Mapping[str, object]) -> None:
    now = surroundings()["versions"]
    changed = [
        f"{name} {recorded[name]} then, {now[name]} now" for name in now if recorded.get(name, now[name]) != now[name]
    ]
    if changed:
        _log.warning(
            "%s was made with other versions (%s): numbers may differ in the last bits", run.path, "; ".join(changed)
        )
