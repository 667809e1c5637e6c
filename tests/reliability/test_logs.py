"""Logs as nobody expects them: one user, one item, clicks that never change, ids beyond every number; refused, or read whole."""

import json
import math
import random
import shutil

import pytest

from dsrm_jax.data.sources import load_log
from dsrm_jax.errors import InputError
from tests.reliability.campaign import Outcome, folder, sample, whole
from tests.reliability.runs import SENTENCE, TINY, server

pytestmark = [pytest.mark.timeout(0)]
IDS = (
    *(
        "1",
        "0",
        "-1",
        str(2**31),
        str(2**63 - 1),
        str(2**63),
        "9" * 30,
        "1e30",
        "1.5",
        "x" * 3000,
        "",
        " ",
        "NaN",
        "inf",
    ),
    *("Ü", "a,b", 'q"uote', "line\nfeed", "\ufeff1", "0x10", "1_000", "True", "null", "-0"),
)
CLICKS = ("0", "1", "0.5", "-1", "nan", "inf", "1e400", "yes", "", "2", "true", "9" * 400)
TIMES = ("0", "1", str(2**63), "-5", "2020-01-01", "nan", "1e300", "", "99999999999999999999", "31/12/2020 25:00")


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in ',"\n') else text


def trial(number: int) -> Outcome:
    """Read a log of few rows, of which one value in so many is strange."""
    rng = random.Random(number)
    users, items, rows = rng.choice((1, 2, 30)), rng.choice((1, 2, 40)), rng.choice((0, 1, 2, 5, 60, 300))
    odd, constant = rng.choice((0, 0, 0.02, 0.5)), rng.choice((None, None, "0", "1"))
    kinds = rng.sample(("user", "item", "click", "time"), rng.randrange(0, 4)) if odd else []
    texts = (IDS, IDS, CLICKS, TIMES)
    lines = []
    for row in range(rows):
        values = [str(rng.randrange(users)), str(rng.randrange(items)), constant or str(rng.randrange(2)), str(row)]
        for place, kind in enumerate(("user", "item", "click", "time")):
            if kind in kinds and rng.random() < odd:
                values[place] = rng.choice(texts[place])
        lines.append(",".join(map(quoted, values)))
    path = folder() / "odd.csv"
    path.write_text("\n".join(["user_id,item_id,click,time", *lines]) + "\n")
    try:
        log = load_log("log", path=str(path), cache=False)
    except InputError as error:
        return Outcome("refused", str(error))
    except Exception as error:
        return Outcome("traceback", f"{type(error).__name__}: {error}")
    counted = len(log.train) + len(log.test)
    if not kinds and counted != rows:
        return Outcome("silent", f"{counted} of {rows} rows")
    if counted < rows and not log.notes:
        return Outcome("silent", f"{rows - counted} rows are gone without a word")
    return Outcome("exact")


def test_a_sample_of_odd_logs():
    found = sample(trial, 150)
    assert found["exact"] > 10
    assert found["refused"] > 30


@pytest.mark.slow
def test_odd_logs():
    whole("logs: odd ones, read", trial, 3000)


def table(users: int, items: int, rows: int, click=lambda i: i % 2, user=str, item=str) -> str:
    rng = random.Random(users + items)
    lines = [f"{user(rng.randrange(users))},{item(rng.randrange(items))},{click(i)}" for i in range(rows)]
    return "\n".join(["user_id,item_id,click", *lines]) + "\n"


ODD = {
    "clicks alone": table(30, 40, 600, click=lambda i: 1),
    "no click": table(30, 40, 600, click=lambda i: 0),
    "one user": table(1, 40, 600),
    "one item": table(30, 1, 600),
    "as many items as a slate": table(30, 4, 600),
    "fewer items than a slate": table(30, 3, 600),
    "huge ids": table(30, 40, 600, user=lambda u: str(2**63 - 1 - u), item=lambda i: str(2**62 + i)),
    "long ids": table(30, 40, 600, user=lambda u: f"{u:0900d}", item=lambda i: "item-" * 100 + str(i)),
    "one row a user": table(10**6, 40, 600),
    "one row": table(1, 1, 1),
    "one click": table(30, 40, 600, click=lambda i: int(i == 7)),
}


def training(number: int) -> Outcome:
    """Train the least run on a log, and evaluate it."""
    name = list(ODD)[number]
    path, out = folder() / "trained.csv", folder() / "trained"
    path.write_text(ODD[name])
    shutil.rmtree(out, ignore_errors=True)
    words = ("train", "--budget", "tiny", "--config", TINY, "--out", out, "--env", "log", "--data", path)
    ended = server().run(*words, "--data.no-cache", seconds=400)
    if ended.status is None:
        return Outcome("hang", name)
    last = ended.said.strip().splitlines()[-1] if ended.said.strip() else ""
    if ended.status == 0 and "Traceback" not in ended.said:
        result = json.loads((out / "summary.json").read_text())["results"]
        bad = [
            f"{method} {n}" for method, row in result.items() for n in ("length", "reward", "ad") if not _number(row[n])
        ]
        return Outcome("silent", f"{name}: {bad}") if bad else Outcome("exact", name)
    if ended.status == 2 and last.startswith(SENTENCE):
        return Outcome("silent", f"{name}: left {out}") if out.exists() else Outcome("refused", f"{name}: {last}")
    return Outcome("traceback", f"{name}: {ended.status}: {ended.said[-300:]}")


def _number(measured: dict) -> bool:
    """Return whether a measure has a mean that is a number."""
    return isinstance(measured["mean"], (int, float)) and math.isfinite(measured["mean"])


@pytest.mark.slow
def test_training_on_odd_logs():
    whole("logs: odd ones, trained on", training, len(ODD))
