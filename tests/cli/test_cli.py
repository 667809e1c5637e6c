"""The command line as a user meets it: help, precedence of settings, and one clear sentence for every bad input."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from dsrm_jax.cli import commands, options
from dsrm_jax.cli import main as cli
from tests.cli.in_process import run


def parse(*argv: str):
    return options.parse(list(argv), "train", "train a method")[1]


SMALL_CATALOGUE = "user_id,item_id,click\n" + "".join(f"{u},{i},{(u + i) % 2}\n" for u in range(8) for i in range(4))


def test_flags_win_over_the_file_and_the_file_over_the_budget(tmp_path: Path):
    file = tmp_path / "a.toml"
    file.write_text("[training]\nsteps = 123\nnum_users = 7\n[agent]\nclip = 0.3\n")
    config = parse("--budget", "quick", "--config", str(file), "--training.num-users", "9", "--seeds", "4", "5")
    assert (config.training.steps, config.training.num_users) == (123, 9)
    assert config.agent.clip == 0.3
    assert config.training.seeds == (4, 5)
    assert parse("--budget=paper").training.steps == 20_000
    assert parse("--budget=quick").training.steps == 2_000


def test_short_forms_set_the_fields_they_stand_for():
    config = parse("--env=kuairand", "--max-len", "50", "--method", "quota_greedy", "--data", "here")
    assert (config.data.env, config.environment.max_len) == ("kuairand", 50)
    assert (config.agent.method, config.data.path) == ("quota_greedy", "here")


def test_help_lists_every_field_with_its_text(capsys):
    status, out, _ = run(capsys, "train", "--help-all")
    assert status == 0
    flat = " ".join(out.replace("│", " ").split())
    for flag in (
        "--environment.ad-bound",
        "--purifier.diffusion-steps",
        "--agent.fairness-weight",
        "--budget",
        "--json",
    ):
        assert flag in flat
    assert "Length S of the reverse scan" in flat
    for flag in ("--data.env", "--environment.reward", "--environment.leave", "--environment.response"):
        assert "module:function" in flat.split(f" {flag} ")[1].split(" --")[0], flag


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], ["command 'trian'", "did you mean 'train'"]),
        (["train", "--env", "kuairek"], ["kuairek", "did you mean 'kuairec'"]),
        (["train", "--method", "dsrm_hlr"], ["dsrm_hlr", "did you mean 'dsrm_hrl'"]),
        (["train", "--env", "absent_lab.logs:load"], ["no module absent_lab", "current folder", "PYTHONPATH"]),
        (["train", "--env", "json:lods"], ["environment (env) 'json:lods'", "did you mean 'loads'"]),
        (["train", "--environment.reward", "absent_lab:f"], ["reward 'absent_lab:f'", "no module absent_lab"]),
        (["train", "--environment.leave", "json:decoder"], ["leave rule 'json:decoder'", "expected a function"]),
        (["train", "--environment.leave", "temper"], ["unknown leave rule 'temper'", "module:function"]),
        (["train", "--environment.response", "fited"], ["unknown response 'fited'", "did you mean 'fitted'"]),
        (["train", "--environment.response", "absent_lab:f"], ["response 'absent_lab:f'", "no module absent_lab"]),
        (["train", "--budget", "tinny"], ["tinny", "did you mean 'tiny'"]),
        (["train", "--config", "nowhere.toml"], ["nowhere.toml"]),
        (["train", "--training.steps", "0"], ["training.steps", "0"]),
        (["train", "--environment.ad-bound", "nan"], ["environment.ad_bound"]),
        (["train", "--purifier.start-fraction", "1.5"], ["purifier.start_fraction", "1.5"]),
        (["train", "--env", "log"], ["data.path"]),
        (["train", "--env", "log", "--data", "absent.csv"], ["absent.csv"]),
        (["train", "--env", "kuairec", "--data", "absent-folder"], ["absent-folder"]),
        (["resume", "no-such-run"], ["no-such-run"]),
        (["evaluate", "no-such-run"], ["no-such-run"]),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(capsys, tmp_path: Path, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, *argv)
    assert status == 2
    lines = err.strip().splitlines()
    assert len(lines) == 1
    assert "Traceback" not in err
    for word in words:
        assert word in lines[0]
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[environment]\nslate_sise = 4\n", ["slate_sise", "slate_size"]),
        ("[enviroment]\nslate_size = 4\n", ["enviroment", "environment"]),
        ('[training]\nsteps = "many"\n', ["training.steps"]),
        ("[training\n", ["a.toml"]),
    ],
)
def test_a_bad_toml_file_names_the_key_and_the_nearest_one(capsys, tmp_path: Path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text(text)
    status, _, err = run(capsys, "train", "--config", "a.toml")
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    for word in words:
        assert word in err


def test_an_unknown_flag_exits_with_status_2_and_names_the_nearest(capsys, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, "train", "--purifier.difusion-steps", "3")
    assert status == 2
    assert "--purifier.diffusion-steps" in out + err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user_id,item_id,clik\n1,1,1\n", ["click", "clik"]),
        ("user_id,item_id,click\n", ["log.csv"]),
        ("user_id,item_id,click\n1,1,-1\n1,2,1\n", ["click", "log.csv"]),
        ("user_id,item_id,click\n1,1,nan\n1,2,1\n", ["click", "log.csv"]),
        ("user_id,item_id,click\n1,1,perhaps\n1,2,no\n", ["click", "log.csv"]),
        ("user_id,item_id,click\n1,1,1\n1,2,0\n2,1,1\n2,2,0\n", ["test_fraction"]),
        (SMALL_CATALOGUE, ["catalogue", "slate_size"]),
    ],
)
def test_a_bad_log_names_the_file_and_what_is_wrong(capsys, tmp_path: Path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text(text)
    status, _, err = run(capsys, "train", "--env", "log", "--data", "log.csv", "--out", "run", "--budget", "tiny")
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    for word in words:
        assert word in err


def test_a_folder_with_other_files_or_another_configuration_is_not_overwritten(capsys, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    status, _, err = run(capsys, "train", "--budget", "tiny", "--out", "mine")
    assert status == 2
    assert "thesis.txt" in err
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_importing_the_package_neither_loads_jax_nor_sets_flags():
    code = (
        "import os, sys, dsrm_jax; assert 'jax' not in sys.modules and 'polars' not in sys.modules; "
        "assert 'XLA_FLAGS' not in os.environ; print(dsrm_jax.__version__)"
    )
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr


def test_data_describes_a_log_and_writes_its_numbers(capsys, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{u},{i},{(u * i) % 3 == 0:d},2020-07-{i + 1:02}" for u in range(20) for i in range(15)]
    (tmp_path / "log.csv").write_text("user_id,item_id,click,time\n" + "\n".join(rows) + "\n")
    status, out, err = run(capsys, "data", "--env", "log", "--data", "log.csv", "--json", "facts.json")
    assert status == 0, err
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["train"]["rows"] + facts["test"]["rows"] == 300
    assert "log.csv" in out
    for words in (
        "users (user_id): whole numbers",
        "times (time): dates and times, in UTC",
        "2020-07-15 00:00:00",
        "50 %",
    ):
        assert words in out


@pytest.mark.parametrize("command", ["sweep", "train", "resume", "evaluate", "export", "bench", "headroom"])
def test_numbers_that_could_not_be_written_are_refused_before_the_work(capsys, tmp_path: Path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text('budget = "tiny"\n')
    (tmp_path / "folder").mkdir()
    what = {"sweep": ["plan.toml"], "resume": ["run"], "evaluate": ["run"], "export": ["run"]}.get(command, [])
    for json_file, words in (("absent/x.json", "there is no folder"), ("folder", "cannot be written")):
        status, out, err = run(capsys, command, *what, "--json", json_file)
        assert (status, out) == (2, "")
        assert len(err.strip().splitlines()) == 1
        assert f"--json {json_file}" in err
        assert words in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "plan.toml"]


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("agent.method=dsrm_hlr", "did you mean 'dsrm_hrl'"),
        ("data.env=kuairek", "did you mean 'kuairec'"),
        ("environment.reward=absent_lab:f", "no module absent_lab"),
        ("agent.clip=abc", "agent.clip is 'abc', a string, expected a number"),
    ],
)
def test_a_sweep_of_what_does_not_exist_makes_no_folder(capsys, tmp_path: Path, monkeypatch, phrase, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text('budget = "tiny"\n')
    status, out, err = run(capsys, "sweep", "plan.toml", "--grid", phrase)
    assert (status, out) == (2, "")
    assert words in err
    assert [p.name for p in tmp_path.iterdir()] == ["plan.toml"]


def test_a_sweep_with_points_that_failed_says_so_and_does_not_exit_with_status_0(capsys, tmp_path: Path, monkeypatch):
    from dsrm_jax.sweep import pool

    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text('budget = "tiny"\n')
    monkeypatch.setattr(pool, "run_points", lambda points, *args, **kwargs: [])
    status, _, err = run(capsys, "sweep", "plan.toml", "--json", "found.json")
    assert status == 2
    assert "1 of 1 points have no result" in err
    assert json.loads((tmp_path / "found.json").read_text()) == {"results": []}


@pytest.mark.parametrize("command", ["data", "headroom", "fcpo"])
def test_a_folder_that_nothing_would_be_written_to_is_refused(capsys, tmp_path: Path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, command, "--out", "mine")
    assert (status, out) == (2, "")
    assert err == f"dsrm-jax: --out mine: {command} writes no folder; --json takes its numbers\n"


def test_modules_of_the_current_folder_are_found(capsys, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    (tmp_path / "lab_of_this_folder.py").write_text(
        "def load(seed):\n    return {'user_id': [1, 1, 2, 2], 'item_id': [5, 6, 5, 6], 'click': [1, 0, 0, seed]}\n"
    )
    flags = ["--env", "lab_of_this_folder:load", "--data.test-fraction", "0.5", "--data.seed", "1"]
    status, out, err = run(capsys, "data", *flags, "--json", "found.json")
    assert (status, err) == (0, "")
    assert "lab_of_this_folder:load: rows in memory, click at click >= 1" in out
    facts = json.loads((tmp_path / "found.json").read_text())
    assert (facts["train"]["rows"], facts["test"]["rows"]) == (2, 2)


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "dsrm_jax", "trian"], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'train'" in done.stderr


def test_a_broken_command_of_another_package_takes_none_down(capsys, monkeypatch):
    group = commands.ENTRY_POINTS
    points = [
        EntryPoint("absent", "absent_lab.commands:RUN", group),
        EntryPoint("other", "json:loads", group),
        EntryPoint("train", "json:loads", group),
        EntryPoint("again", "dsrm_jax.cli.commands:COMMAND_OF_A_PACKAGE", group),
    ]
    mine = commands.Command("say it", lambda argv: print(f"said {argv}"))
    monkeypatch.setattr(commands, "COMMAND_OF_A_PACKAGE", mine, raising=False)
    monkeypatch.setattr(commands, "entry_points", lambda group: points)
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert "absent      not available" in out
    assert "train       train a method" in out
    assert run(capsys, "again", "it") == (0, "said ['it']\n", "")
    for name, words in (("absent", "No module named 'absent_lab'"), ("other", "not a Command")):
        status, out, err = run(capsys, name)
        assert (status, out) == (2, "")
        assert words in err
        assert len(err.strip().splitlines()) == 1
