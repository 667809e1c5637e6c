"""Help is one screen that names what exists, completions complete, and --quiet prints nothing but errors."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from dsrm_jax.cli.commands import COMMANDS, commands
from dsrm_jax.cli.completion import all_options, script
from tests.cli.in_process import run


@cache
def flags(command: str) -> frozenset[str]:
    return frozenset(option.flag for option in all_options(COMMANDS[command].run))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_one_screen_that_ends_with_examples_of_options_that_exist(capsys, command):
    status, out, err = run(capsys, command, "--help")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) <= 23  # and a prompt, of 24
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: dsrm-jax {command} ")
    assert lines[-1].startswith(f"  dsrm-jax {command} ")
    named = set(re.findall(r"(?<![\w-])--?[a-z][\w.-]*", out)) - {"-jax"}
    assert named <= flags(command)
    assert "--quiet" in named


def test_help_all_is_every_option_and_the_listing_fits_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run(capsys, "train", "--help-all")
    assert status == 0
    assert len(set(re.findall(r"^[│ ] (--[a-z][\w.-]*)", out, flags=re.MULTILINE))) > 200
    _, out, _ = run(capsys, "--help")
    assert max(map(len, out.splitlines())) <= 80
    for name in commands():
        assert f"  {name} " in out


@cache
def bash_script() -> str:
    return script("bash", {name: (c.about, c.run) for name, c in commands().items()})


def completed(tmp_path: Path, *words: str) -> list[str]:
    """Return what bash itself completes the last word to."""
    (tmp_path / "completion").write_text(bash_script())
    array = " ".join(f"'{word}'" for word in words)
    code = f"""
        source ./completion; COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}
        _dsrm_jax; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-ec", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("re",), {"resume", "recommend", "reproduce"}),
        (("train", "--env", "kuaira"), {"kuairand"}),
        (("train", "--env", "=", "kuaira"), {"kuairand"}),
        (("train", "--data.env", "="), None),
        (("train", "--budget", "q"), {"quick"}),
        (("train", "--method", "quota_greedy_"), {"quota_greedy_purified"}),
        (("train", "--world", "mo"), {"mood"}),
        (("train", "--encoder.kind", ""), {"clicked", "exposure"}),
        (("train", "--purifier.diffusion-s"), {"--purifier.diffusion-steps"}),
        (("recommend", "runs/x", "--al"), {"--allowed"}),
        (("recommend", "runs/x", "--log", "ev"), set()),  # files are bash's own part
        (("worlds", "--use"), {"--users"}),  # a command of another package
        (("completion", ""), {"bash", "zsh", "fish"}),
        (("train", "--qu"), {"--quiet"}),
    ],
)
def test_bash_completes(tmp_path, words, found):
    told = completed(tmp_path, "dsrm-jax", *words)
    if found is None:
        assert {"kuairec", "log"} <= set(told)
    else:
        assert set(told) == found


def test_every_field_is_completed_and_every_shell_has_a_script(capsys):
    from dsrm_jax.config import Config
    from dsrm_jax.config.serialise import to_json

    def leaves(document, prefix=""):
        for name, value in document.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{name}.")
            else:
                yield f"--{prefix}{name}".replace("_", "-")

    wanted = set(leaves(to_json(Config())))
    assert len(wanted) > 200
    assert wanted <= flags("train")
    for shell, words in (("zsh", "#compdef dsrm-jax"), ("fish", "-l exclude -r")):
        assert words in script(shell, {name: (c.about, c.run) for name, c in COMMANDS.items()})
    status, out, err = run(capsys, "completion", "csh")
    assert (status, out) == (2, "")
    assert "valid names are bash, fish, zsh" in err


def test_quiet_prints_nothing_but_errors(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{u},{i},{(u * i) % 3 == 0:d}" for u in range(20) for i in range(15)]
    Path("log.csv").write_text("user_id,item_id,click\n" + "\n".join(rows) + "\n")
    log = ("data", "--env", "log", "--data", "log.csv")
    assert run(capsys, *log, "--json", "loud.json")[1] != ""
    assert run(capsys, *log, "--json", "quiet.json", "--quiet") == (0, "", "")
    assert Path("quiet.json").read_text() == Path("loud.json").read_text()
    status, out, err = run(capsys, "data", "--env", "log", "--data", "absent.csv", "--quiet")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "absent.csv" in err
    assert sys.stdout.writable()


@pytest.mark.parametrize("command", [*COMMANDS, "bench", "fcpo", "ruler", "worlds", "sardine", "reproduce"])
def test_errors_go_to_standard_error_alone(capsys, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for argv in (["--absent-option", "3"], ["--json"], ["one", "two", "--seed", "x"]):
        status, out, err = run(capsys, command, *argv)
        assert status == 2
        assert out == ""
        assert err
    assert not list(tmp_path.iterdir())
