"""What the first attack found, tried again: each command once more, beside what must come of it now."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability.campaign import ROOT, Outcome, folder, whole
from tests.reliability.runs import SENTENCE, facts, judged, reference, server, train
from tests.reliability.server import Ended
from tests.reliability.test_numbers import EXAMPLES

pytestmark = [pytest.mark.timeout(0)]
OUT = "first-attack"


def fresh() -> Path:
    out = folder() / OUT
    shutil.rmtree(out, ignore_errors=True)
    return out


def copied() -> Path:
    return Path(shutil.copytree(reference(), fresh()))


def refused(ended: Ended, *words: str, nothing_at: Path | None = None) -> Outcome:
    """Return whether a command ended in one sentence that holds some words, and left nothing behind."""
    last = ended.said.strip().splitlines()[-1] if ended.said.strip() else ""
    if ended.status is None:
        return Outcome("hang", ended.said[-200:])
    if ended.status != 2 or "Traceback" in ended.said or not last.startswith(SENTENCE):
        return Outcome("traceback", f"status {ended.status}: {ended.said[-250:]}")
    missing = [word for word in words if word not in last]
    if missing or (nothing_at is not None and nothing_at.exists()):
        return Outcome("silent", f"{missing or 'left its folder'}: {last}")
    return Outcome("refused", last)


def diverging(field: str) -> Outcome:
    out = fresh()
    ended = server().run(*train(out, "--data.no-cache", f"--{field}", "1e30"), seconds=600)
    return refused(ended, field.replace("-", "_"), nothing_at=out)


def too_large(flag: str) -> Outcome:
    out = fresh()
    outcome = refused(server().run(*train(out, flag, EXAMPLES[flag])), nothing_at=out)
    told = any(
        word in outcome.detail for word in ("lower", "expected in")
    )  # by an estimate, or by the field's own range
    return outcome if told or outcome.kind != "refused" else outcome._replace(kind="silent")


def locale_without_utf8() -> Outcome:
    out = folder() / "first-attack-é"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(reference(), out)
    told = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT / "src")}
    code = "from dsrm_jax.cli.main import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "evaluate", str(out)], env=os.environ | told, capture_output=True, text=True
    )
    shutil.rmtree(out)
    return refused(Ended(ended.returncode, ended.stdout + ended.stderr), "this locale does not know", "LC_ALL=C.UTF-8")


def without_checkpoints(how: str) -> Outcome:
    place = copied() / "checkpoints"
    shutil.rmtree(place)
    if how == "emptied":
        place.mkdir()
    elif how == "a file":
        place.write_text("")
    return refused(server().run("resume", folder() / OUT), "checkpoints")


def config_says(old: str, new: str) -> Outcome:
    path = copied() / "config.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return refused(server().run("resume", path.parent), "config.json" if "fingerprint" not in old else "version")


def no_parser_can_hold(text: str, name: str) -> Outcome:
    if name == "config.json":
        (copied() / name).write_text(text)
        return refused(server().run("resume", folder() / OUT), name)
    path = folder() / name
    path.write_text(text)
    out = fresh()
    return refused(server().run("train", "--config", path, "--out", out), name, nothing_at=out)


def a_run_under_way() -> Outcome:
    """Another process holds the lock: a command that asks for more steps changes none of its files."""
    out = copied()
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with (out / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = server().run(*train(out, "--training.steps", "640"))
    (out / ".lock").unlink(missing_ok=True)
    after = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    return refused(ended, "another process is training") if before == after else Outcome("silent", "files changed")


def byte_order_mark() -> Outcome:
    path, out = folder() / "marked.toml", fresh()
    path.write_bytes(b"\xef\xbb\xbf[training]\nsteps = -1\n")
    return refused(server().run("train", "--config", path, "--out", out), "steps", nothing_at=out)


def metrics_that(change: Callable[[str], str]) -> Outcome:
    """A finished run whose rows are damaged says so, or refuses; its checkpoint and summary are whole."""
    path = copied() / "metrics.jsonl"
    path.write_text(change(path.read_text()))
    ended = server().run("resume", path.parent, seconds=600)
    if ended.status == 2:
        return refused(ended, "metrics.jsonl")
    outcome = judged(path.parent, ended, unread=("metrics",), notices=("rows up to step",))
    return Outcome("silent", "nothing was said") if outcome.kind == "exact" else outcome


def summary_with_another_digit() -> Outcome:
    path = copied() / "summary.json"
    path.write_text(path.read_text().replace('"mean": 4.', '"mean": 5.', 1))
    return refused(server().run("resume", path.parent, seconds=600), "summary.json was changed")


def summary_that_is_gone() -> Outcome:
    """`resume` makes it anew."""
    out = copied()
    (out / "summary.json").unlink()
    ended = server().run("resume", out, seconds=600)
    same = ended.status == 0 and facts(out)["leaves"] == facts(reference())["leaves"]
    return Outcome("recovered", "made anew") if same else Outcome("traceback", ended.said[-250:])


def stopped_in_stage_one() -> Outcome:
    out = fresh()
    command = server().start(*train(out, "--data.no-cache"))
    while "users: " not in command.out.read_text(errors="replace") and command.server.wait(command.pid, 0.05) is None:
        pass
    command.send(signal.SIGTERM)
    ended = command.wait(120)
    wrong = ended.status != 143 or "stopped by SIGTERM" not in ended.said or (out / ".lock").exists()
    return (
        Outcome("silent", f"{ended.status}: {ended.said[-200:]}") if wrong else Outcome("refused", "stopped by SIGTERM")
    )


def results_to(kind: str) -> Outcome:
    """A device or a link that results are written to is written through."""
    target, link = folder() / "results.json", folder() / "results"
    link.unlink(missing_ok=True)
    target.unlink(missing_ok=True)
    link.symlink_to("/dev/null" if kind == "device" else target)
    ended = server().run("evaluate", reference(), "--json", link, seconds=600)
    stayed = link.is_symlink() and (Path("/dev/null").is_char_device() if kind == "device" else target.is_file())
    if kind == "link" and stayed:
        json.loads(target.read_text())
    return (
        Outcome("exact") if ended.status == 0 and stayed else Outcome("silent", f"{ended.status}: {ended.said[-200:]}")
    )


def ended_output(command: str, status: int) -> Outcome:
    """A shell's pipeline around a command: nobody reads on, or the disk is full."""
    call = f"{sys.executable} -c 'from dsrm_jax.cli.main import main; main()'"
    told = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    shell = f"set -o pipefail; {call} {command}"
    ended = subprocess.run(["bash", "-c", shell], env=told, capture_output=True, text=True, cwd=folder())
    wrong = ended.returncode != status or "Traceback" in ended.stderr
    return Outcome("silent", f"{ended.returncode}: {ended.stderr[-200:]}") if wrong else Outcome("refused", command)


def gone() -> Outcome:
    """The working directory is deleted under the command."""
    call = f"{sys.executable} -c 'from dsrm_jax.cli.main import main; main()' data --env kuairec"
    place = folder() / "gone"
    place.mkdir(exist_ok=True)
    shell = f"cd {place} && rmdir {place} && PYTHONSAFEPATH=1 {call}"
    told = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(["bash", "-c", shell], env=told, capture_output=True, text=True)
    return refused(Ended(ended.returncode, ended.stdout + ended.stderr), "was it deleted")


def long_name() -> Outcome:
    return refused(server().run(*train(folder() / ("x" * 5000))), "name")


DEEP = {"json": "[" * 100_000, "toml": "x = " + "[" * 100_000}
DIGITS = {"json": '{"config": ' + "9" * 5000 + "}", "toml": "[training]\nsteps = " + "9" * 5000}
ATTACKS: dict[str, Callable[[], Outcome]] = {
    **{
        f"a Stage I that diverges by {f}": lambda f=f: diverging(f)
        for f in ("encoder.learning-rate", "purifier.learning-rate")
    },
    **{f"a size that cannot fit: {flag}": lambda flag=flag: too_large(flag) for flag in EXAMPLES},
    "a locale that does not know the path": locale_without_utf8,
    **{f"checkpoints {how}": lambda how=how: without_checkpoints(how) for how in ("removed", "emptied", "a file")},
    "NaN in config.json": lambda: config_says('"learning_rate": 0.003', '"learning_rate": NaN'),
    "an infinity in config.json": lambda: config_says('"learning_rate": 0.003', '"learning_rate": Infinity'),
    "another fingerprint in config.json": lambda: config_says('"fingerprint": "', '"fingerprint": "0'),
    **{f"5,000 digits in {kind}": lambda kind=kind: no_parser_can_hold(DIGITS[kind], NAMED[kind]) for kind in DIGITS},
    **{f"deep nesting in {kind}": lambda kind=kind: no_parser_can_hold(DEEP[kind], NAMED[kind]) for kind in DEEP},
    "more steps of a run under way": a_run_under_way,
    "output on a full device": lambda: ended_output("data --env kuairec > /dev/full", 2),
    "a pipe that is read once": lambda: ended_output("train --help-all | head -1", 141),
    "a working directory that is gone": gone,
    "a name of 5,000 letters": long_name,
    "metrics.jsonl cut in half": lambda: metrics_that(lambda text: text[: len(text) // 2]),
    "metrics.jsonl emptied": lambda: metrics_that(lambda text: ""),
    "metrics.jsonl with another digit": lambda: metrics_that(lambda text: text.replace('"step": 16', '"step": 17', 1)),
    "summary.json with another digit": summary_with_another_digit,
    "summary.json removed": summary_that_is_gone,
    "SIGTERM in Stage I": stopped_in_stage_one,
    "a byte order mark in TOML": byte_order_mark,
    "--json to a device": lambda: results_to("device"),
    "--json to a link": lambda: results_to("link"),
}
NAMED = {"json": "config.json", "toml": "deep.toml"}


def trial(number: int) -> Outcome:
    """Try one again; the rest of the list (exports, downloads, archives, kills, odd logs) are classes of their own."""
    name = list(ATTACKS)[number]
    outcome = ATTACKS[name]()
    return Outcome(outcome.kind, f"{name}: {outcome.detail}")


@pytest.mark.slow
def test_what_the_first_attack_found():
    whole("found by the first attack, tried again", trial, len(ATTACKS))
