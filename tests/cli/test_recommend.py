"""`dsrm-jax recommend`: every user of a log, from a shell, against what the same policy answers in Python."""

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dsrm_jax.data import spool
from dsrm_jax.serving import log_histories
from dsrm_jax.serving.log_histories import LogFile
from dsrm_jax.serving.recommend_log import recommend_log
from tests.cli.test_cli import run
from tests.serving.test_export import RAW, path, policy, trained  # noqa: F401

USERS = 300


@pytest.fixture(scope="module")
def rows():
    """Rows of users in no order, some of items that no policy knows, with times that are not the rows' order."""
    rng = np.random.default_rng(0)
    user = np.concatenate([rng.integers(0, USERS, 3 * USERS), rng.integers(0, 9, 60)])
    item = np.where(rng.random(len(user)) < 0.2, 1 + rng.integers(0, 3, len(user)), RAW[rng.integers(0, 16, len(user))])
    clicks, time = rng.integers(0, 2, len(user)), rng.integers(0, 40, len(user))
    return pl.DataFrame({"user_id": [f"cust, {u}" for u in user], "item_id": item, "click": clicks, "time": time})


def histories_of(rows):
    """Each user's events in order, straight from the rows."""
    found = {}
    for user, item, click, _ in sorted(rows.iter_rows(), key=lambda row: row[3]):
        found.setdefault(user, []).append((item, bool(click)))
    return found


@pytest.fixture
def place(rows, path, tmp_path: Path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(log_histories, "PART", 200)  # several parts and pieces
    monkeypatch.setattr(spool, "PIECE", 128)
    rows.write_csv("log.csv")
    rows.write_parquet("log.parquet")
    (tmp_path / "policy.dsrm").write_bytes(path.read_bytes())
    return tmp_path


def lists_of(file):
    """Users to items and scores, from any of the three kinds of file."""
    if file.endswith(".jsonl"):
        lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
        return {line["user_id"]: (line["item_ids"], line["scores"]) for line in lines}
    frame = pl.read_parquet(file) if file.endswith(".parquet") else pl.read_csv(file)
    found = {}
    for user, own in frame.sort("user_id", "rank").group_by("user_id", maintain_order=True):
        assert own["rank"].to_list() == list(range(1, len(own) + 1))
        found[user[0]] = own["item_id"].to_list(), own["score"].to_list()
    return found


@pytest.mark.parametrize("log", ["log.csv", "log.parquet"])
@pytest.mark.parametrize("out", ["recs.csv", "recs.parquet", "recs.jsonl"])
def test_every_user_gets_what_the_policy_answers_in_python(capsys, place, policy, rows, log, out):  # noqa: F811
    status, said, err = run(
        capsys, "recommend", "policy.dsrm", "--log", log, "--out", out, "-k", "7", "--scores", "--json", "n.json"
    )
    assert (status, err) == (0, "")
    histories = histories_of(rows)
    expected = policy.recommend(histories, k=7, scores=True)
    found = lists_of(out)
    assert found.keys() == set(histories)
    for row, user in enumerate(histories):
        assert found[user][0] == expected[user]
        np.testing.assert_allclose(found[user][1], expected.score[row, : expected.count[row]], rtol=1e-6)
    numbers = json.loads(Path("n.json").read_text())
    assert numbers["users"] == len(histories)
    assert numbers["strangers"] == expected.stranger.sum() > 0
    assert numbers["short"] == (expected.count < 7).sum() > 0
    assert {int(item): count for item, count in numbers["unknown_items"].items()} == expected.unknown
    words = " ".join(said.split())
    assert (
        f"7 items for each of {len(histories)} users; items that a user has seen are left out (--exclude seen)" in words
    )
    assert f"{expected.stranger.sum()} users are strangers" in words
    assert f"of {len(rows):,} events are of items that the policy does not know: " in words
    assert sorted(p.name for p in place.iterdir()) == sorted(["log.csv", "log.parquet", "policy.dsrm", "n.json", out])


def test_progress_runs_to_the_end_of_every_phase(place, policy):  # noqa: F811
    told = []
    log = LogFile(Path("log.csv"))
    recommend_log(policy, log, Path("o.csv"), k=2, report=lambda *now: told.append(now))
    phases = list(dict.fromkeys(phase for phase, *_ in told))
    assert phases == ["copying the log", "reading the log", "recommending"]
    for phase in phases:
        done, total = zip(*((done, total) for name, done, total in told if name == phase), strict=True)
        assert list(done) == sorted(done)
        assert len(set(total)) == 1
        assert done[-1] == total[0]


def test_users_and_items_may_be_chosen_by_files(capsys, place, policy, rows):  # noqa: F811
    histories = histories_of(rows)
    known = RAW[policy.catalogue]
    Path("allowed.txt").write_text("".join(f"{item}\n" for item in known[:9]) + "\n777\n")
    pl.DataFrame({"item_id": known[:2]}).write_csv("banned.csv")
    asked = ["cust, 3", "nobody", "cust, 5"]
    pl.DataFrame({"user_id": asked, "age": [1, 2, 3]}).write_parquet("users.parquet")
    flags = ["--users", "users.parquet", "--allowed", "allowed.txt", "--exclude", "banned.csv", "-k", "7", "--scores"]
    status, said, err = run(capsys, "recommend", "policy.dsrm", "--log", "log.csv", "--out", "o.jsonl", *flags)
    assert (status, err) == (0, "")
    assert "items of banned.csv are left out, items already seen may return" in said
    found = lists_of("o.jsonl")
    assert set(found) == set(asked)
    for user in asked:
        assert set(found[user][0]) == set(known[2:9].tolist())
    whole = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]
    assert {line["user_id"]: line["stranger"] for line in whole}["nobody"]
    status, said, _ = run(
        capsys,
        "recommend",
        "policy.dsrm",
        "--log",
        "log.csv",
        "--out",
        "o.jsonl",
        "--exclude",
        "nothing",
        "-k",
        "3",
        "--scores",
    )
    assert status == 0
    assert "items already seen may return (--exclude nothing)" in " ".join(said.split())
    assert lists_of("o.jsonl")["cust, 3"][0] == policy.recommend([histories["cust, 3"]], k=3, exclude=None)[0]


def test_columns_and_whole_number_ids_are_as_the_log_has_them(capsys, place, policy):  # noqa: F811
    """Without a column of times the rows' order counts; a rating is a click from the number asked for."""
    Path("other.csv").write_text(f"who,what,stars\n7,{RAW[1]},2\n12,{RAW[2]},5\n7,{RAW[3]},4\n")
    flags = ["--user-column", "who", "--item-column", "what", "--click-column", "stars", "--click-from", "4"]
    status, _, err = run(capsys, "recommend", "policy.dsrm", "--log", "other.csv", "--out", "o.parquet", *flags)
    assert (status, err) == (0, "")
    found = pl.read_parquet("o.parquet")
    assert found.schema["user_id"] == pl.Int64
    expected = policy.recommend({7: [(RAW[1], False), (RAW[3], True)], 12: [(RAW[2], True)]}, k=10)
    for user in (7, 12):
        assert found.filter(pl.col("user_id") == user)["item_id"].to_list() == expected[user]


def test_a_log_may_be_of_any_kind_that_own_logs_are(capsys, place, policy, rows):  # noqa: F811
    """Files of a folder, compressed ones, with quoted lines in them; days of the month first; empty lines; ids such as 7.0."""
    Path("days").mkdir()
    days = [f"{1 + t % 28:02}/{1 + t // 28:02}/2020" for t in rows["time"]]
    given = rows.with_columns(time=pl.Series(days), note=pl.lit('a "line"\nmore'))
    given[:400].write_csv("days/a.csv")
    with gzip.open("days/b.csv.gz", "wb") as stream:
        stream.write(given[400:700].drop("note").write_csv().replace("\n", "\n\n").encode())
    given[700:].with_columns(pl.col("item_id").cast(pl.Float64)).write_parquet("days/c.parquet")
    status, _, err = run(capsys, "recommend", "policy.dsrm", "--log", "days", "--out", "o.jsonl", "--scores", "-k", "2")
    assert (status, err) == (0, "")
    by_day = rows.with_columns(time=pl.Series(days).str.to_date("%d/%m/%Y"))
    histories = histories_of(by_day)
    expected = policy.recommend(histories, k=2)
    found = lists_of("o.jsonl")
    assert {user: found[user][0] for user in found} == {user: expected[user] for user in histories}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--log", "absent.csv"], ["--log absent.csv: there is no such file"]),
        (["--out", "recs.xlsx"], ["--out recs.xlsx", "expected one of .parquet, .csv, .jsonl"]),
        (["--out", "absent/recs.csv"], ["--out absent/recs.csv", "cannot be written"]),
        (["-k", "13"], ["k is 13, and 12 of the policy's 12 items may be recommended"]),
        (["--exclude", "sene"], ["--exclude sene: there is no such file; expected seen, nothing, or a CSV"]),
        (["--allowed", "empty.txt"], ["empty.txt: the file is empty"]),
        (["--user-column", "user"], ["unknown column 'user'", "did you mean 'user_id'"]),
        (["--user-column", "click"], ["are one; expected different ones"]),
        (["--log", "bad.csv"], ["bad.csv, line 152, column 'click'", "'perhaps'"]),
        (["--users", "ages.csv"], ["ages.csv", "unknown column 'user_id'"]),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(capsys, place, flags, words):
    Path("bad.csv").write_text("user_id,item_id,click\n" + "1,5,1\n" * 150 + "1,5,perhaps\n" + "1,5,1\n" * 150)
    Path("empty.txt").write_text("\n")
    Path("ages.csv").write_text("age\n3\n")
    Path("recs.csv").write_text("what was there")
    before = sorted(p.name for p in place.iterdir())
    status, _, err = run(capsys, "recommend", "policy.dsrm", "--log", "log.csv", "--out", "recs.csv", *flags)
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    for word in words:
        assert word in err
    assert sorted(p.name for p in place.iterdir()) == before
    assert Path("recs.csv").read_text() == "what was there"
