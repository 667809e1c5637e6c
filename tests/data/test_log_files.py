"""Logs in files of every kind and in many files: the same rows, and every error with the file that it is in."""

import bz2
import gzip
import lzma
from pathlib import Path

import polars as pl
import pytest

from dsrm_jax.data import log_files, sources
from dsrm_jax.data.sources import load_log
from dsrm_jax.data.tables import available_columns
from dsrm_jax.errors import InputError

COLUMNS = {"user_id": [1, 1, 2, 2], "item_id": [10, 11, 10, 12], "click": [1, 0, 0, 1], "title": ["a", 'b"', "c", "d"]}
FRAME = pl.DataFrame(COLUMNS)
ROWS = [(1, 10, True), (1, 11, False), (2, 10, False), (2, 12, True)]
CSV = FRAME.write_csv().encode()


def zstandard(data: bytes) -> bytes:
    """Return a frame of RFC 8878 whose blocks are not compressed."""
    size = 100_000
    blocks = [data[start : start + size] for start in range(0, len(data), size)]
    headers = [(len(block) << 3 | (block is blocks[-1])).to_bytes(3, "little") for block in blocks]
    body = b"".join(header + block for header, block in zip(headers, blocks, strict=True))
    return b"\x28\xb5\x2f\xfd\xa0" + len(data).to_bytes(4, "little") + body


def rows(source, **options):
    log = load_log(source, test_fraction=0.5, cache=False, **options)
    parts = (
        (log.user_ids[r.user].tolist(), log.item_ids[r.item].tolist(), r.click.tolist()) for r in (log.train, log.test)
    )
    return sorted(row for part in parts for row in zip(*part, strict=True))


def put(path: Path, data: bytes | pl.DataFrame) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.write_parquet(path) if isinstance(data, pl.DataFrame) else path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["log.csv", "log.CSV", "log.Csv.Gz", "log.txt", "log.part-0001", "log"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard])
def test_what_a_file_is_its_bytes_say(name, pack, tmp_path):
    path = put(tmp_path / name, pack(CSV))
    assert rows(path) == rows(str(path)) == ROWS


@pytest.mark.parametrize("name", ["log.parquet", "log.PARQUET", "log.pq", "part-00000"])
def test_parquet_by_any_name(name, tmp_path):
    assert rows(put(tmp_path / name, FRAME)) == ROWS


def test_other_separators_by_any_name(tmp_path):
    for separator in "\t;|":
        assert rows(put(tmp_path / "log.tsv", FRAME.write_csv(separator=separator).encode())) == ROWS


@pytest.mark.parametrize("pack", [gzip.compress, zstandard])
def test_the_columns_of_a_packed_file_are_those_of_its_head(pack, tmp_path):
    many = CSV + b"1,10,1," + b"x" * 3_000_000 + b"\n"
    path = put(tmp_path / "log.csv.packed", pack(many))
    assert available_columns(path) == tuple(COLUMNS)
    assert rows(path) == sorted([*ROWS, (1, 10, True)])
    FRAME.write_parquet(tmp_path / "made")
    assert rows(put(tmp_path / "log.parquet.packed", gzip.compress((tmp_path / "made").read_bytes()))) == ROWS


@pytest.mark.parametrize("pack", [gzip.compress, zstandard])
def test_packed_bytes_that_are_not_utf8_stay_such(pack, tmp_path):
    assert rows(put(tmp_path / "log.csv", pack(CSV.replace(b",a\n", b",caf\xe9\n")))) == ROWS
    with pytest.raises(InputError, match=r"line 3, column 'item_id': '\ufffd1' is not allowed; expected UTF-8"):
        rows(put(tmp_path / "log.csv", pack(CSV.replace(b"1,11", b"1,\xe91"))))
    whole = CSV.replace(b",a\n", ",\ufffd\n".encode())
    with log_files.plain(put(tmp_path / "log.csv", pack(whole))) as file:
        assert file.read_bytes() == whole


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard])
def test_a_damaged_file_is_named(pack, tmp_path):
    many = CSV + b"1,10,1,a\n" * 5000
    data = pack(many)
    path = put(tmp_path / "log.csv.packed", data[: len(data) // 2])
    with pytest.raises(InputError, match=r"log\.csv\.packed: the compressed file is damaged"):
        rows(path)


def test_the_line_of_a_compressed_file_is_told(tmp_path):
    path = put(tmp_path / "log.csv.gz", gzip.compress(CSV.replace(b"2,10,0", b"2,10,x")))
    with pytest.raises(InputError, match=r"log\.csv\.gz, line 4, column 'click': 'x'"):
        rows(path)


def two(folder: Path, ending: str = "csv") -> Path:
    halves = FRAME[:2], FRAME[2:].select("click", "item_id", "user_id", "title")
    for number, half in enumerate(halves):
        put(folder / f"day={number}" / f"log.{ending}", half if ending == "parquet" else half.write_csv().encode())
    return folder


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_folder_and_a_pattern_are_one_log(ending, tmp_path):
    folder = two(tmp_path / "logs", ending)
    put(folder / "_SUCCESS.csv", b"")
    put(folder / ".hidden" / "log.csv", b"no,log\n1,2\n")
    put(folder / "README.md", b"# Logs")
    assert rows(folder) == rows(f"{folder}/*/log.*") == rows("log", path=folder / "**" / f"lo?.{ending}") == ROWS
    assert rows(folder, time_column="day") == ROWS  # a column that only the folders' names hold
    notes = load_log(folder, test_fraction=0.5).notes
    assert notes[0] == f"2 files, day=0/log.{ending} to day=1/log.{ending}"
    assert notes[1].startswith("3 other files left out, such as ")


def test_a_type_that_polars_panics_at_is_one_sentence(tmp_path, monkeypatch):
    path = put(tmp_path / "log.parquet", FRAME)

    def panic(*_, **__):
        raise pl.exceptions.PanicException('Extension { name: "arrow.uuid" } not supported')

    monkeypatch.setattr(pl, "scan_parquet", panic)
    with pytest.raises(InputError, match=r"log\.parquet: not a readable Parquet file \(Extension.*update Polars"):
        rows(path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_folders_named_key_and_value_are_columns(ending, tmp_path):
    for user in (1, 2):
        part = FRAME.filter(pl.col("user_id") == user).drop("user_id")
        put(tmp_path / f"user_id={user}" / f"0.{ending}", part if ending == "parquet" else part.write_csv().encode())
    assert rows(tmp_path) == ROWS
    odd = tmp_path / "user_id=a%2Fb%20c" / "0.csv"
    put(odd, b"item_id,click\n10,1\n11,0\n")
    assert [user for user, *_ in rows(tmp_path)] == ["1", "1", "2", "2", "a/b c", "a/b c"]
    put(tmp_path / "user_id=__HIVE_DEFAULT_PARTITION__" / "0.csv", b"item_id,click\n10,1\n")
    with pytest.raises(
        InputError, match=r"user_id=__HIVE_DEFAULT_PARTITION__/0\.csv, line 2, column 'user_id': the value is missing"
    ):
        rows(tmp_path)


def test_an_error_names_the_file_and_its_own_line(tmp_path):
    put(tmp_path / "1.csv", CSV)
    put(tmp_path / "2.csv", b"user_id,item_id,click\n\n3,10,1\n3,oops,\n")
    with pytest.raises(InputError, match=r"/2\.csv, line 4, column 'click': the value is missing"):
        rows(tmp_path)
    put(tmp_path / "2.csv", b"user_id,item_id\n3,10\n")
    with pytest.raises(InputError, match=r"/2\.csv: column 'click' is missing; its columns are user_id, item_id"):
        rows(tmp_path)


def test_files_whose_types_differ_are_one_log(tmp_path):
    put(
        tmp_path / "1.parquet",
        FRAME[:2].with_columns(pl.col("user_id").cast(pl.Int8), pl.col("click").cast(pl.Boolean)),
    )
    put(
        tmp_path / "2.parquet",
        FRAME[2:].with_columns(pl.col("user_id").cast(pl.String), pl.col("item_id").cast(pl.Int32)),
    )
    assert rows(tmp_path) == ROWS
    put(tmp_path / "3.csv", b"user_id,item_id,click\nu3,10,1\n")
    assert [user for user, *_ in rows(tmp_path)] == ["1", "1", "2", "2", "u3"]


def test_nothing_to_read_is_said(tmp_path):
    put(tmp_path / "empty" / "README.md", b"")
    for path, message in (
        (tmp_path / "absent.csv", "no such file or folder"),
        (tmp_path / "empty", "the folder holds no CSV or Parquet file"),
        (tmp_path / "*.csv", "no file matches this pattern"),
    ):
        with pytest.raises(InputError, match=message):
            rows(path)


def test_the_cache_follows_every_file_and_stands_beside_the_first_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("DSRM_CACHE", raising=False)
    monkeypatch.setattr(sources, "MIN_CACHED_BYTES", 0)
    folder = two(tmp_path / "set" / "logs")
    items = put(tmp_path / "items.csv", b"item_id,kind\n10,x\n11,y\n12,x\n")
    options = {"test_fraction": 0.5, "item_path": str(items), "feature_columns": "kind"}
    for source, beside in ((folder, tmp_path / "set"), (f"{folder}/*/log.csv", folder)):
        log = load_log(source, **options)
        assert len(list((beside / ".dsrm_cache").iterdir())) == 1
        again = load_log(source, **options)
        assert again.notes == log.notes
        assert again.item_features["kind"].tolist() == log.item_features["kind"].tolist() == [0, 1, 0]
    items.write_text("item_id,kind\n10,x\n11,y\n12,z\n")
    with pytest.warns(UserWarning, match="have changed"):
        assert load_log(source, **options).item_features["kind"].tolist() == [0, 1, 2]


class Stream:
    """Anything with an Arrow stream, and nothing else."""

    def __init__(self, frame):
        self.__arrow_c_stream__ = frame.__arrow_c_stream__


def test_frames_and_arrow_streams_are_read():
    assert (
        rows(FRAME.lazy())
        == rows(Stream(FRAME))
        == rows(FRAME.with_columns(pl.col("title").cast(pl.Categorical)))
        == ROWS
    )


def test_pandas_duckdb_and_pyarrow_tables_are_read():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(COLUMNS)
    assert rows(frame) == rows(frame.astype({"user_id": "Int64", "click": bool, "item_id": "category"})) == ROWS
    with pytest.raises(InputError, match="row 2, column 'user_id': the value is missing"):
        rows(frame.assign(user_id=[1.0, None, 2.0, 2.0]))
    pyarrow = pytest.importorskip("pyarrow")
    assert rows(pyarrow.table(COLUMNS)) == rows(pyarrow.table(COLUMNS).to_reader()) == ROWS
    uuids = pyarrow.array([bytes([255, n] * 8) for n in (1, 1, 2, 2)], pyarrow.binary(16))  # a UUID's storage
    assert {user for user, *_ in rows(pyarrow.table(COLUMNS | {"user_id": uuids}))} == {
        "ff01ff01-ff01-ff01-ff01-ff01ff01ff01",
        "ff02ff02-ff02-ff02-ff02-ff02ff02ff02",
    }
    duckdb = pytest.importorskip("duckdb")
    query = "select user_id::hugeint user_id, item_id, click::boolean click from frame"
    assert rows(duckdb.sql(query)) == rows(duckdb.sql(query).arrow()) == ROWS
