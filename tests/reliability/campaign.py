"""What every class of the campaign shares: numbered trials of a seed, outcomes that are kept, one table of all classes.

A class is a function `trial(number) -> Outcome`; the number seeds it, so that any trial can be had again alone. A fast sample of
each class runs with the tests, and three trials with the slow ones. `make campaign` runs them whole, one trial after the other,
and goes on where it was stopped: what was found lies in `DSRM_CAMPAIGN` (a folder, by default `.campaign`), and the table in
`experiments/results/reliability.md`. `DSRM_TRIALS` bounds the trials of each class, `DSRM_MINUTES` the long runs.
"""

import atexit
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "experiments" / "results" / "reliability.md"
GOOD = ("exact", "recovered", "refused")
BAD = ("silent", "traceback", "hang")
WORDS = dict(
    zip(
        (*GOOD, *BAD),
        ("exact", "recovered with notice", "clear refusal", "silent wrong", "traceback", "hang"),
        strict=True,
    )
)


class Outcome(NamedTuple):
    """How a trial ended."""

    kind: Literal["exact", "recovered", "refused", "silent", "traceback", "hang"]
    detail: str = ""  # the sentence that was said, or what was wrong
    trials: int = 1  # that ended so together: the kills of one run


def is_whole() -> bool:
    """Return whether this is the campaign, and not a sample of it."""
    return "DSRM_TRIALS" in os.environ


@cache
def folder() -> Path:
    """Return the folder that the campaign keeps its trials in, or, of a sample, one of this process that goes with it."""
    if "DSRM_CAMPAIGN" not in os.environ and not is_whole():
        path = Path(tempfile.mkdtemp(prefix="reliability-"))
        atexit.register(shutil.rmtree, path, ignore_errors=True)
        return path
    path = Path(os.environ.get("DSRM_CAMPAIGN", ROOT / ".campaign")).absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


def sample(trial: Callable[[int], Outcome], count: int, *, first: int = 0) -> Counter[str]:
    """Run some trials of a class, and fail with the first that ended badly; return how many ended how."""
    found: Counter[str] = Counter()
    for number in range(first, first + count):
        outcome = trial(number)
        assert outcome.kind in GOOD, f"trial {number}: {WORDS[outcome.kind]}: {outcome.detail}"
        found[outcome.kind] += 1
    return found


def whole(name: str, trial: Callable[[int], Outcome], count: int) -> None:
    """Run the trials of a class that were not run yet, renew the table, fail where one was bad; a few outside the campaign."""
    if not is_whole():
        sample(trial, min(count, 3))
        return
    kept = folder() / f"{name}.jsonl"
    done = {row["number"]: row for row in _rows(kept)}
    count = min(count, int(os.environ["DSRM_TRIALS"]))
    with kept.open("a") as file:
        for number in range(count):
            if number in done:
                continue
            begun = time.monotonic()
            outcome = trial(number)
            row = {"number": number, "kind": outcome.kind, "detail": outcome.detail[:300], "trials": outcome.trials}
            row["seconds"] = round(time.monotonic() - begun, 2)
            file.write(json.dumps(row) + "\n")
            file.flush()
            done[number] = row
            if number % 10 == 0:
                write_table()
    write_table()
    bad = [row for row in done.values() if row["kind"] in BAD]
    assert not bad, f"{len(bad)} of {len(done)} trials ended badly, such as {bad[0]}"


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def write_table() -> None:
    """Write the table of all classes that were run; a class that was not keeps the row that the file has."""
    head = ["class", "trials", *WORDS.values()]
    rows, more = {}, dict[str, str]()
    if TABLE.exists():
        lines = TABLE.read_text().partition("\n## ")[0].splitlines()
        cells = [line.strip("| \n").split(" | ") for line in lines if line.startswith("| ")]
        rows = {row[0]: row for row in cells[1:] if len(row) == len(head) and not row[0].startswith("-")}
        more = {line[2:].partition(" = ")[0]: line for line in lines if line.startswith("* ")}
    for path in sorted(folder().glob("*.jsonl")):
        found, counts = _rows(path), Counter[str]()
        for row in found:
            counts[row["kind"]] += row.get("trials", 1)
        more |= {path.stem: f"* {path.stem} = {said}"} if (said := _said(path.stem, found)) else {}
        rows[path.stem] = [path.stem, f"{sum(counts.values()):,}", *(f"{counts[kind]:,}" for kind in WORDS)]
    lines = [_line(head), _line(["---"] * len(head)), *(_line(rows[name]) for name in sorted(rows))]
    lines += ["", *(more[name] for name in sorted(more))] if more else []
    TABLE.write_text(
        "# Reliability\n\nTrials of `make campaign` (tests/reliability/), each seeded by its number; how each ended.\n\n"
        + "\n".join(lines)
        + "\n"
        + _notes()
    )


def _said(name: str, rows: list[dict]) -> str:
    """Return what the record says beside counts: where kills hit, what a long run measured."""
    if name.startswith("long runs: ") and len(rows) == 1:
        return rows[-1]["detail"] if rows else ""
    if not name.startswith("kills: ") or not all("trials" in row for row in rows):
        return ""
    hits = Counter(hit for row in rows for hit in row["detail"].split(", ") if hit and row["kind"] in GOOD)
    return ", ".join(f"{hit} {count}" for hit, count in hits.most_common())


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _notes() -> str:
    """Return what people wrote below the table."""
    text = TABLE.read_text() if TABLE.exists() else ""
    _, found, notes = text.partition("\n## ")
    return f"\n## {notes}" if found else ""
