"""A run's folder is taken up by the same configuration, refused to another, and refused when damaged."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.config import Config
from dsrm_jax.errors import InputError
from dsrm_jax.runs import run_directory


def with_(section: str, **changes) -> Config:
    return dataclasses.replace(Config(), **{section: dataclasses.replace(getattr(Config(), section), **changes)})


def test_created_run_opens_with_the_same_configuration_and_says_what_it_ran_on(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_some_flag")
    config = with_("training", seeds=(1, 2), tensorboard=False)
    run = run_directory.create(tmp_path / "deep" / "run", config)
    opened, read = run_directory.open_run(tmp_path / "deep" / "run")
    assert (opened, read) == (run, config)
    document = json.loads(run.config.read_text())
    assert document["versions"]["jax"] == jax.__version__
    assert document["versions"]["numpy"] == np.__version__
    assert document["versions"]["python"] == sys.version.split()[0]
    assert document["xla_flags"] == "--xla_some_flag"
    assert [p.name for p in run.path.iterdir()] == ["config.json"]


def test_names_of_the_parts(tmp_path):
    run = run_directory.create(tmp_path, Config())
    parts = {part: path.name for part, path in run._asdict().items() if part != "path"}
    assert parts == {
        "config": "config.json",
        "metrics": "metrics.jsonl",
        "summary": "summary.json",
        "checkpoints": "checkpoints",
        "curves": "curves.png",
        "tensorboard": "tensorboard",
        "card": "MODEL_CARD.md",
        "lock": ".lock",
    }


def test_default_path_is_one_per_meaning():
    path = run_directory.default_path(Config())
    assert path.parts[0] == "runs"
    assert path.name.startswith(f"kuairec-{Config().agent.method}-")
    assert len(path.name.rsplit("-", 1)[1]) == 8
    assert run_directory.default_path(with_("evaluation", num_sessions=9), "elsewhere").name == path.name
    assert run_directory.default_path(with_("training", steps=9)).name.startswith("kuairec-dsrm_hrl-9-")
    assert run_directory.default_path(with_("agent", clip=0.3)) != path
    strange = run_directory.default_path(with_("data", env="../a b/c"))
    assert strange.parent == path.parent


def test_another_configuration_is_refused_with_what_differs_and_nothing_changes(tmp_path):
    run = run_directory.create(tmp_path, Config())
    before = run.config.read_bytes()
    with pytest.raises(InputError, match=r"another configuration \(agent\.clip 0\.2 there, 0\.3 here\): choose"):
        run_directory.create(tmp_path, with_("agent", clip=0.3))
    many = with_("agent", clip=0.3, epochs=9, minibatches=9, hidden=9, value_weight=9.0)
    with pytest.raises(InputError, match=r"and 2 more\)"):
        run_directory.create(tmp_path, many)
    assert run.config.read_bytes() == before


def test_the_same_run_is_taken_up_and_may_be_longer(tmp_path):
    run = run_directory.create(tmp_path, Config())
    (run.checkpoints / "step_00000001").mkdir(parents=True)
    longer = with_("training", steps=10**6)
    assert run_directory.create(tmp_path, longer) == run
    assert run_directory.open_run(tmp_path)[1] == longer
    assert (run.checkpoints / "step_00000001").is_dir()


def test_folders_that_are_no_run_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"not a run directory \(it holds 'thesis\.tex' but no config\.json\)"):
        run_directory.create(tmp_path, Config())
    with pytest.raises(InputError, match=r"cannot make run directory .*thesis\.tex"):
        run_directory.create(tmp_path / "thesis.tex", Config())
    with pytest.raises(InputError, match=r"not a run directory: it has no config\.json"):
        run_directory.open_run(tmp_path)
    with pytest.raises(InputError, match="there is no run directory"):
        run_directory.open_run(tmp_path / "absent")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thesis.tex"]


def test_what_a_kill_in_create_leaves_does_not_stop_the_next_one(tmp_path):
    (tmp_path / ".config.json.123.tmp").write_text("{")
    (tmp_path / ".lock").write_text("")
    run_directory.create(tmp_path, Config())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], r"config\.json is damaged: line \d+ is not valid JSON"),
        (lambda text: "", r"config\.json is damaged: line 1"),
        (lambda text: "[]", r"config\.json is damaged: expected one JSON object"),
        (lambda text: "{}", r"config\.json is damaged: it has no 'config' object"),
        (lambda text: text.replace('"clip"', '"clpi"'), r"unknown field in .*config\.json 'agent\.clpi'"),
        (lambda text: text.replace('"clip": 0.2', '"clip": "x"'), r"config\.json: agent\.clip is 'x'"),
    ],
)
def test_damaged_config_is_refused_by_resume_and_by_create(tmp_path, change, message):
    run = run_directory.create(tmp_path, Config())
    changed = change(run.config.read_text())
    run.config.write_text(changed)
    for use in (lambda: run_directory.open_run(tmp_path), lambda: run_directory.create(tmp_path, Config())):
        with pytest.raises(InputError, match=message):
            use()
    assert run.config.read_text() == changed


def test_a_run_of_another_version_is_refused_in_one_sentence_and_left_as_it_is(tmp_path):
    run = run_directory.create(tmp_path, Config())
    document = json.loads(run.config.read_text())
    del document["config"]["agent"]["manager"]  # that version did not know it, and had another fingerprint
    document["fingerprint"] = "0" * 64
    document["versions"]["dsrm-jax"] = "0.1.0"
    run.config.write_text(json.dumps(document))
    message = (
        r"was made by another version of this program \(0\.1\.0, this is [^)]+\), .*: train again in another folder"
    )
    for use in (lambda: run_directory.open_run(tmp_path), lambda: run_directory.create(tmp_path, Config())):
        with pytest.raises(InputError, match=message):
            use()
    assert json.loads(run.config.read_text()) == document


def test_other_versions_are_a_warning(tmp_path, caplog):
    run = run_directory.create(tmp_path, Config())
    run_directory.open_run(tmp_path)
    assert not caplog.text
    text = run.config.read_text()
    run.config.write_text(text.replace(f'"jax": "{jax.__version__}"', '"jax": "0.1.2"'))
    assert run_directory.open_run(tmp_path)[1] == Config()
    assert f"jax 0.1.2 then, {jax.__version__} now" in caplog.text


def test_summary_round_trips_and_a_failed_write_keeps_the_old_one(tmp_path, monkeypatch):
    run = run_directory.create(tmp_path, Config())
    with pytest.raises(InputError, match=r"has no summary\.json: the run has not finished"):
        run_directory.read_summary(run)
    summary = {"reward": jnp.array([0.1, np.inf], jnp.float32), "n": np.int32(3), "inner": {"a": float("nan")}}
    run_directory.write_summary(run, summary)
    read = run_directory.read_summary(run)
    assert read["reward"] == [0.1, None]  # numbers or null, whoever reads it
    assert read["n"] == 3
    assert read["inner"] == {"a": None}

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"cannot write .*summary\.json: No space left on device"):
        run_directory.write_summary(run, {"n": 4})
    assert run_directory.read_summary(run)["n"] == 3


def test_a_second_process_cannot_train_in_the_same_folder(tmp_path):
    run = run_directory.create(tmp_path, Config())
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_SH); "
        "print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(run.lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match="another process is training in"), run_directory.locked(run):
        pass
    child.kill()
    child.communicate()
    with run_directory.locked(run):
        pass


def test_what_killed_writes_left_goes_with_the_next_lock_and_what_others_write_stays(tmp_path):
    run = run_directory.create(tmp_path, Config())
    writes = (
        "import os, sys; from dsrm_jax.files import write_text; "
        "os.fsync = lambda _: (print('writes', flush=True), sys.stdin.read()); write_text(sys.argv[1], 'half')"
    )
    command = [sys.executable, "-c", writes, str(run.summary)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"writes\n"
    left = tmp_path / f".summary.json.{child.pid}.tmp"
    others = [
        tmp_path / name for name in (".tmp", ".notes.tmp", f"summary.json.{child.pid}.tmp", ".a.0.tmp", ".a.-1.tmp")
    ]
    for path in others:
        path.touch()
    with run_directory.locked(run):
        assert left.read_text() == "half"  # its process lives
    child.kill()
    child.communicate()
    with run_directory.locked(run):
        assert not left.exists()
    assert all(path.exists() for path in others)
    left.touch()
    run_directory.write_summary(run, {})  # the next write of the same file does it, too
    assert not left.exists()


def test_a_run_under_way_keeps_its_settings(tmp_path):
    """A second command with other steps is refused before it writes."""
    config = Config()
    run = run_directory.create(tmp_path, config)
    before = run.config.read_bytes()
    more = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=640))
    with run_directory.locked(run), pytest.raises(InputError, match="another process is training"):
        run_directory.create(tmp_path, more)
    assert run.config.read_bytes() == before


def test_checkpoints_that_are_gone_are_missed(tmp_path):
    run = run_directory.create(tmp_path, Config())
    run_directory.check_checkpoints(run)  # nothing was learnt yet
    run.metrics.write_text('{"step": 16}\n')
    for make in (lambda: None, run.checkpoints.mkdir):
        make()
        with pytest.raises(InputError, match=r"metrics\.jsonl says"):
            run_directory.check_checkpoints(run)
    (run.checkpoints / "step_00000016").mkdir()
    run_directory.check_checkpoints(run)
    (run.checkpoints / "step_00000016").rmdir()
    run.checkpoints.rmdir()
    run.checkpoints.write_text("")
    with pytest.raises(InputError, match="is no folder"):
        run_directory.check_checkpoints(run)
