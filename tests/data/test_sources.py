import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from dsrm_jax.data import sources
from dsrm_jax.data.sources import load_log
from dsrm_jax.errors import InputError

HEADER = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"


def write_kuairec(folder, num_rows=2):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"3,{video},9000,10000,,,{video}.0,0.9\n" for video in range(num_rows)]
    (folder / "big_matrix.csv").write_text(HEADER + "".join(rows))
    (folder / "small_matrix.csv").write_text(HEADER + rows[0])
    return folder


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("DSRM_DATA", raising=False)
    monkeypatch.delenv("DSRM_CACHE", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def made(monkeypatch):
    """Replace the synthetic generator by one that reports how it was called."""
    calls = []
    module = types.ModuleType("dsrm_jax.data.synthetic")
    module.generate = lambda env, *, seed, history_scale: calls.append((env, seed, history_scale)) or "a world"
    monkeypatch.setitem(sys.modules, "dsrm_jax.data.synthetic", module)
    return calls


def test_a_misspelt_data_set_gets_the_nearest_name():
    with pytest.raises(InputError, match=r"'kuairex'.*did you mean 'kuairec'"):
        load_log("kuairex")


@pytest.mark.parametrize("env", ["kuairec", "kuairand"])
def test_without_files_and_path_the_synthetic_world_stands_in(env, made):
    assert load_log(env, seed=4, history_scale=0.5) == "a world"
    assert made == [(env, 4, 0.5)]


@pytest.mark.parametrize("env", ["kuairec", "kuairand", "kuairec-signed", "ml-100k", "ml-1m", "log"])
def test_a_given_path_without_files_is_an_input_error(env, made, tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        load_log(env, path=str(tmp_path / "absent"))
    assert made == []


def test_a_given_folder_without_the_data_sets_files_is_an_input_error(made, tmp_path):
    with pytest.raises(InputError, match=r"big_matrix\.csv: file not found"):
        load_log("kuairec", path=str(tmp_path))


def test_a_half_unpacked_default_folder_is_an_input_error_not_a_synthetic_world(made):
    write_kuairec(Path("data/kuairec"))
    Path("data/kuairec/small_matrix.csv").unlink()
    with pytest.raises(InputError, match=r"small_matrix\.csv: file not found"):
        load_log("kuairec")
    assert made == []


def test_own_logs_need_a_path():
    with pytest.raises(InputError, match=r"needs data\.path"):
        load_log("log")


def test_the_default_folder_is_data_here_or_where_the_variable_says(made, tmp_path, monkeypatch):
    write_kuairec(tmp_path / "here" / "data" / "kuairec", num_rows=2)
    write_kuairec(tmp_path / "elsewhere" / "KuaiRec", num_rows=3)
    assert len(load_log().train) == 2
    monkeypatch.setenv("DSRM_DATA", str(tmp_path / "elsewhere"))
    assert len(load_log().train) == 3
    assert made == []


def test_the_cache_lies_beside_the_folder_and_follows_files_and_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MIN_CACHED_BYTES", 0)
    folder = write_kuairec(tmp_path / "set" / "kuairec")
    config = {"path": str(folder)}
    assert load_log(**config).train.click.tolist() == [True, True]
    assert len(os.listdir(tmp_path / "set" / ".dsrm_cache")) == 1

    def refuse(*args, **kwargs):
        raise AssertionError("parsed although cached")

    monkeypatch.setattr("dsrm_jax.data.kuairec.read_table", refuse)
    assert load_log(**config).train.click.tolist() == [True, True]
    # Fields of other data sets do not matter; a field of this one does.
    assert len(load_log(**config, user_column="x", seed=3).train) == 2
    with pytest.raises(AssertionError, match="parsed"):
        load_log(**config, click_threshold=0.95)
    with pytest.raises(AssertionError, match="parsed"):
        load_log(**config, cache=False)
    write_kuairec(folder, num_rows=3)
    with (
        pytest.raises(AssertionError, match="parsed"),
        pytest.warns(UserWarning, match="have changed; the cache is rebuilt"),
    ):
        load_log(**config)


def test_the_cache_goes_where_the_variable_says_and_small_sources_have_none(tmp_path, monkeypatch):
    folder = write_kuairec(tmp_path / "set" / "kuairec")
    monkeypatch.setenv("DSRM_CACHE", str(tmp_path / "cache"))
    load_log(path=folder)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(sources, "MIN_CACHED_BYTES", 0)
    load_log(path=folder)
    assert len(os.listdir(tmp_path / "cache")) == 1
    assert os.listdir(tmp_path / "set") == ["kuairec"]


def test_importing_the_room_needs_neither_jax_nor_polars():
    code = "import sys, dsrm_jax.data.sources; print(sorted({'jax', 'polars'} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(sources.__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout.strip() == "[]"


def test_missing_polars_is_said_in_one_sentence(tmp_path, monkeypatch):
    folder = write_kuairec(tmp_path / "kuairec")
    for name in ("kuairec", "tables"):
        monkeypatch.delitem(sys.modules, f"dsrm_jax.data.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(InputError, match=r"pip install dsrm-jax\[data\]"):
        load_log(path=folder)
