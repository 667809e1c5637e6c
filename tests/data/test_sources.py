import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.data import sources
from dsrm_jax.data.log import InteractionLog, Interactions
from dsrm_jax.data.settings import DataConfig, SyntheticConfig
from dsrm_jax.data.sources import describe, gini, load_log, top_share
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
    module.generate = lambda env, config, seed: calls.append((env, config, seed)) or "a world"
    monkeypatch.setitem(sys.modules, "dsrm_jax.data.synthetic", module)
    return calls


def test_a_misspelt_data_set_gets_the_nearest_name():
    with pytest.raises(InputError, match=r"'kuairex'.*did you mean 'kuairec'"):
        load_log(DataConfig(env="kuairex"), SyntheticConfig())


@pytest.mark.parametrize("env", ["kuairec", "kuairand"])
def test_without_files_and_path_the_synthetic_world_stands_in(env, made):
    synthetic = SyntheticConfig(history_scale=0.5)
    assert load_log(DataConfig(env=env, seed=4), synthetic) == "a world"
    assert made == [(env, synthetic, 4)]


@pytest.mark.parametrize("env", ["kuairec", "kuairand", "kuairec-signed", "ml-100k", "ml-1m", "log"])
def test_a_given_path_without_files_is_an_input_error(env, made, tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        load_log(DataConfig(env=env, path=str(tmp_path / "absent")), SyntheticConfig())
    assert made == []


def test_a_given_folder_without_the_data_sets_files_is_an_input_error(made, tmp_path):
    with pytest.raises(InputError, match=r"big_matrix\.csv: file not found"):
        load_log(DataConfig(env="kuairec", path=str(tmp_path)), SyntheticConfig())


def test_a_half_unpacked_default_folder_is_an_input_error_not_a_synthetic_world(made):
    write_kuairec(Path("data/kuairec"))
    Path("data/kuairec/small_matrix.csv").unlink()
    with pytest.raises(InputError, match=r"small_matrix\.csv: file not found"):
        load_log(DataConfig(env="kuairec"), SyntheticConfig())
    assert made == []


def test_own_logs_need_a_path():
    with pytest.raises(InputError, match=r"needs data\.path"):
        load_log(DataConfig(env="log"), SyntheticConfig())


def test_the_default_folder_is_data_here_or_where_the_variable_says(made, tmp_path, monkeypatch):
    write_kuairec(tmp_path / "here" / "data" / "kuairec", num_rows=2)
    write_kuairec(tmp_path / "elsewhere" / "KuaiRec", num_rows=3)
    assert len(load_log(DataConfig(), SyntheticConfig()).train) == 2
    monkeypatch.setenv("DSRM_DATA", str(tmp_path / "elsewhere"))
    assert len(load_log(DataConfig(), SyntheticConfig()).train) == 3
    assert made == []


def test_the_cache_lies_beside_the_folder_and_follows_files_and_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MIN_CACHED_BYTES", 0)
    folder = write_kuairec(tmp_path / "set" / "kuairec")
    config = DataConfig(path=str(folder))
    assert load_log(config, SyntheticConfig()).train.click.tolist() == [True, True]
    assert len(os.listdir(tmp_path / "set" / ".dsrm_cache")) == 1

    def refuse(*args, **kwargs):
        raise AssertionError("parsed although cached")

    monkeypatch.setattr("dsrm_jax.data.kuairec.read_table", refuse)
    assert load_log(config, SyntheticConfig()).train.click.tolist() == [True, True]
    # Fields of other data sets do not matter; a field of this one does.
    assert len(load_log(replace(config, user_column="x", seed=3), SyntheticConfig()).train) == 2
    with pytest.raises(AssertionError, match="parsed"):
        load_log(replace(config, click_threshold=0.95), SyntheticConfig())
    with pytest.raises(AssertionError, match="parsed"):
        load_log(replace(config, cache=False), SyntheticConfig())
    write_kuairec(folder, num_rows=3)
    with (
        pytest.raises(AssertionError, match="parsed"),
        pytest.warns(UserWarning, match="have changed; the cache is rebuilt"),
    ):
        load_log(config, SyntheticConfig())


def test_the_cache_goes_where_the_variable_says_and_small_sources_have_none(tmp_path, monkeypatch):
    folder = write_kuairec(tmp_path / "set" / "kuairec")
    monkeypatch.setenv("DSRM_CACHE", str(tmp_path / "cache"))
    load_log(DataConfig(path=str(folder)), SyntheticConfig())
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(sources, "MIN_CACHED_BYTES", 0)
    load_log(DataConfig(path=str(folder)), SyntheticConfig())
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
        load_log(DataConfig(path=str(folder)), SyntheticConfig())


counts = st.lists(st.integers(0, 50), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(counts)
def test_gini_is_half_the_relative_mean_absolute_difference(values):
    values = np.array(values, dtype=np.float64)
    if values.sum() == 0:
        assert gini(values) == 0
    else:
        difference = np.abs(values[:, None] - values[None, :]).mean()
        assert gini(values) == pytest.approx(difference / (2 * values.mean()), abs=1e-12)


def test_top_share_counts_the_rounded_up_fifth():
    assert top_share(np.array([1, 2, 3, 4, 10])) == 0.5
    assert top_share(np.array([1, 1, 1, 1, 1, 5])) == 0.6
    assert top_share(np.r_[np.zeros(12), [1, 1, 1]]) == 1.0
    assert top_share(np.r_[np.zeros(11), [1, 1, 1, 1]]) == 0.75
    assert top_share(np.zeros(5)) == 0.0


def test_describe_counts_by_hand():
    train = Interactions(
        user=np.array([0, 0, 0, 2], dtype=np.int32),
        item=np.array([1, 1, 3, 3], dtype=np.int32),
        click=np.array([True, False, False, True]),
        time=np.arange(4),
        feedback=np.array([1, 0, 0, 3], dtype=np.float32),
    )
    empty = Interactions(
        *(column[:0] for column in (train.user, train.item, train.click, train.time, train.feedback))
    )
    log = InteractionLog(
        name="hand",
        source="by hand",
        user_ids=np.arange(3),
        item_ids=np.arange(4),
        train=train,
        test=empty,
        catalogue=np.array([1, 2], dtype=np.int32),
        categories=np.zeros((4, 0), dtype=bool),
    )
    result = describe(log)
    assert (result["users"], result["items"], result["catalogue"]) == (3, 4, 2)
    assert result["train"]["rows"] == 4
    assert (result["train"]["users"], result["train"]["items"]) == (2, 2)
    assert result["train"]["click_rate"] == 0.5
    assert result["train"]["mean_feedback"] == 1.0
    assert result["train"]["density"] == 0.75
    assert result["train"]["rows_per_user"]["mean"] == 2.0
    assert result["train"]["rows_per_user"]["q50"] == 2.0
    assert result["train"]["rows_per_user"]["max"] == 3.0
    assert result["train"]["user_click_rate"]["mean"] == pytest.approx(2 / 3)
    assert result["test"] == {"rows": 0, "users": 0, "items": 0}
    # Exposure 0, 2, 0, 2: two of four equal, none of the others.
    assert result["popularity"]["gini"] == 0.5
    assert result["popularity"]["top_share"] == 0.5
    assert result["popularity"]["catalogue_gini"] == 0.5
    assert result["popularity"]["catalogue_top_share"] == 1.0


def test_density_counts_each_pair_once_whatever_the_block(monkeypatch):
    rng = np.random.default_rng(1)
    user = np.sort(rng.integers(0, 9, 200)).astype(np.int32)
    item = rng.integers(0, 11, 200).astype(np.int32)
    column = np.zeros(200)
    rows = Interactions(user, item, column > 0, column, column)
    expected = len(set(zip(user.tolist(), item.tolist(), strict=True)))
    for block_pairs in (1, 30, 1 << 24):
        monkeypatch.setattr(sources, "BLOCK_PAIRS", block_pairs)
        assert sources._num_pairs(rows, 11) == expected
