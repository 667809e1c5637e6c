"""The least run, undisturbed, and what two runs must have in common bit for bit."""

import hashlib
import json
import os
from functools import cache
from pathlib import Path

from dsrm_jax.errors import InputError
from dsrm_jax.runs.logging import read_metrics
from tests.reliability.campaign import ROOT, Outcome, folder
from tests.reliability.server import Ended, Server

TINY = Path(__file__).with_name("tiny.toml")
TIMES = ("seconds", "timing", "training", "bytes", "created")
SENTENCE = "dsrm-jax: "


@cache
def server() -> Server:
    """Return the session's server of commands, whose caches are the campaign's own."""
    return Server(folder() / f"commands-{os.getpid()}", {"XDG_CACHE_HOME": str(folder() / "cache"), "COLUMNS": "120"})


def train(out: Path | str, *more: str) -> tuple[str, ...]:
    """Return the command that trains the least run."""
    return "train", "--budget", "tiny", "--config", str(TINY), "--out", str(out), *more


@cache
def reference() -> Path:
    """Return the folder of an undisturbed run, made once for each state of the program."""
    out = folder() / f"reference-{_program()}"
    if not (out / "curves.png").exists():
        ended = server().run(*train(out), seconds=400)
        assert ended.status == 0, ended.said
    return out


def _program() -> str:
    source = sorted((ROOT / "src").rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in [TINY, *source])).hexdigest()[:8]


def facts(run: Path) -> dict[str, object]:
    """Return what a finished run's files say, but for times: parameters' digests, rows of metrics, the summary."""
    checkpoints = sorted((run / "checkpoints").glob("step_*"))
    manifests = [json.loads((path / "manifest.json").read_text())["body"] for path in checkpoints]
    summary = json.loads((run / "summary.json").read_text())
    return {
        "steps": [manifest["step"] for manifest in manifests],
        "leaves": [manifest["leaves"] for manifest in manifests],
        "metrics": [_timeless(row) for row in _rows(run / "metrics.jsonl")],
        "summary": _timeless(summary | {"step": 0}),  # `evaluate` says of which step, `resume` has but one
    }


def _rows(path: Path) -> list[dict]:
    """Return a run's rows; none where they are gone or damaged."""
    try:
        return read_metrics(path)
    except InputError:
        return []


def _timeless(value: object) -> object:
    if isinstance(value, list):
        return [_timeless(x) for x in value]
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not k.endswith("_seconds") and k not in (*TIMES, "sha256", "crc")}
        return {k: _timeless(v) for k, v in kept.items()}
    return value


def judged(run: Path, ended: Ended, *, unread: tuple[str, ...] = (), notices: tuple[str, ...] = ()) -> Outcome:
    """Return how a command ended that should have brought a run to its end, or refused it; `unread`: what it does not read."""
    if ended.status is None:
        return Outcome("hang", ended.said[-200:])
    if "Traceback (most recent call last)" in ended.said or ended.status not in (0, 2):
        return Outcome("traceback", f"status {ended.status}: {ended.said[-250:]}")
    if ended.status == 2:
        last = ended.said.strip().splitlines()[-1] if ended.said.strip() else ""
        return Outcome("refused", last) if last.startswith(SENTENCE) else Outcome("traceback", f"no sentence: {last}")
    want, have = facts(reference()), facts(run)
    wrong = [name for name in want if want[name] != have[name] and name not in unread]
    said = next((line for line in ended.said.splitlines() if any(notice in line for notice in notices)), "")
    if wrong:
        return (
            Outcome("recovered", said) if said else Outcome("silent", f"{', '.join(wrong)} differ: {ended.said[-150:]}")
        )
    return Outcome("recovered", said) if said else Outcome("exact")
