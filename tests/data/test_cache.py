import dataclasses
import os
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsrm_jax.data.cache import fingerprint, read_log, through_cache, write_log
from dsrm_jax.data.log import InteractionLog, Interactions, ObservedMatrix


def rows(rng, count):
    return Interactions(
        user=np.sort(rng.integers(0, 5, count)).astype(np.int32),
        item=rng.integers(0, 7, count).astype(np.int32),
        click=rng.random(count) < 0.5,
        time=rng.integers(0, 2**50, count),
        feedback=rng.random(count).astype(np.float32),
    )


def make_log(seed=0):
    rng = np.random.default_rng(seed)
    return InteractionLog(
        name="own",
        source="a test, 20 % held out; naïve",
        user_ids=np.array(["ann", "bob", "cy", "di", "élan"]),
        item_ids=np.arange(7) * 10,
        train=rows(rng, 40),
        test=rows(rng, 9),
        catalogue=np.array([1, 2, 5], dtype=np.int32),
        categories=rng.random((7, 2)) < 0.5,
        category_names=("film", "9"),
        user_features={"age/range": np.array([0, -1, 2, 1, 0], dtype=np.int32)},
        item_features={"file": np.arange(7, dtype=np.int32)},
        test_matrix=ObservedMatrix(np.array([0, 3], dtype=np.int32), rng.random((2, 3)).astype(np.float32)),
    )


def assert_same(left, right):
    """Same fields, types and bits, all the way down."""
    assert type(left) is type(right)
    if isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    elif dataclasses.is_dataclass(left):
        for field in dataclasses.fields(left):
            assert_same(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    else:
        assert left == right


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("one")
    return path


@pytest.fixture(autouse=True)
def _strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_every_field_comes_back_bit_for_bit(tmp_path):
    log = make_log()
    write_log(tmp_path / "below" / "a.npz", log, "key")
    assert_same(read_log(tmp_path / "below" / "a.npz", "key"), log)
    assert os.listdir(tmp_path / "below") == ["a.npz"]


def test_it_is_an_archive_of_plain_uncompressed_columns(tmp_path):
    write_log(tmp_path / "a.npz", make_log(), "key")
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert {name for name in archive.files if archive[name].dtype.hasobject} == set()


def test_the_second_read_parses_nothing(tmp_path, source):
    calls = []

    def parse():
        calls.append(1)
        return make_log()

    first = through_cache(tmp_path / "a.npz", [source], {"k_core": 0}, parse)
    second = through_cache(tmp_path / "a.npz", [source], {"k_core": 0}, parse)
    assert len(calls) == 1
    assert_same(first, second)


@pytest.mark.parametrize("change", ["size", "mtime", "settings", "code"])
def test_a_stale_cache_is_rebuilt_with_a_warning(tmp_path, source, change):
    code = tmp_path / "parser.py"
    code.write_text("1")
    chosen = {"k_core": 0}
    through_cache(tmp_path / "a.npz", [source], chosen, make_log, code=[code])
    if change == "size":
        state = source.stat()
        source.write_text("longer")
        os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif change == "mtime":
        os.utime(source, ns=(1, 1))
    elif change == "code":
        code.write_text("2")
    else:
        chosen = {"k_core": 5}
    newer = make_log(seed=1)
    with pytest.warns(UserWarning, match="have changed; the cache is rebuilt"):
        log = through_cache(tmp_path / "a.npz", [source], chosen, lambda: newer, code=[code])
    assert_same(log, newer)
    assert_same(through_cache(tmp_path / "a.npz", [source], chosen, pytest.fail, code=[code]), newer)


def test_the_fingerprint_does_not_depend_on_the_order_of_files_or_settings(tmp_path, source):
    other = tmp_path / "other.csv"
    other.write_text("two")
    assert fingerprint([source, other], {"a": 1, "b": 2}) == fingerprint([other, source], {"b": 2, "a": 1})
    assert fingerprint([source], {"a": 1}) != fingerprint([source, other], {"a": 1})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.npz"
    write_log(path, make_log(), "key")
    return path.read_bytes()


def read_quietly(path: Path, key="key"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return read_log(path, key), [str(warning.message) for warning in caught]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_is_never_believed(tmp_path, whole, data):
    position = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "damaged.npz"
    path.write_bytes(damaged)
    log, messages = read_quietly(path)
    if log is None:
        assert "rebuilt" in messages[0]
    else:  # a byte that carries no data, such as a member's date
        assert_same(log, make_log())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_short_is_never_believed(tmp_path, whole, data):
    path = tmp_path / "short.npz"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    log, messages = read_quietly(path)
    assert log is None
    assert "damaged" in messages[0]


def test_a_damaged_cache_is_replaced(tmp_path, source):
    path = tmp_path / "a.npz"
    through_cache(path, [source], {}, make_log)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="damaged"):
        through_cache(path, [source], {}, make_log)
    assert_same(through_cache(path, [source], {}, pytest.fail), make_log())


def test_a_write_that_fails_leaves_the_old_cache_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    write_log(path, make_log(), "key")

    def fail(stream, **arrays):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        write_log(path, make_log(seed=1), "key")
    assert os.listdir(tmp_path) == ["a.npz"]
    assert_same(read_log(path, "key"), make_log())


def test_what_a_killed_write_left_goes_after_a_day(tmp_path):
    path = tmp_path / "a[1].npz"
    old, new, another = (tmp_path / f".{name}.0f.tmp" for name in ("a[1].npz", "a[1].npz.x", "a1.npz"))
    for left, age in ((old, 90_000), (new, 80_000), (another, 90_000)):
        left.touch()
        os.utime(left, (time.time() - age,) * 2)
    write_log(path, make_log(), "key")
    assert sorted(tmp_path.iterdir()) == sorted([path, new, another])


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path, source):
    blocked = tmp_path / "file-not-folder"
    blocked.write_text("")
    with pytest.warns(UserWarning, match="cannot be written"):
        log = through_cache(blocked / "a.npz", [source], {}, make_log)
    assert_same(log, make_log())


def test_synthetic_worlds_and_python_objects_are_refused(tmp_path):
    with pytest.raises(ValueError, match="synthetic"):
        write_log(tmp_path / "a.npz", dataclasses.replace(make_log(), synthetic=object()), "key")
    objects = dataclasses.replace(make_log(), user_features={"odd": np.array([None] * 5)})
    with pytest.raises(ValueError, match="Python objects"):
        write_log(tmp_path / "a.npz", objects, "key")
    assert os.listdir(tmp_path) == []
