import re

import polars as pl
import pytest

from dsrm_jax.data.sources import locate
from dsrm_jax.data.tables import read_table, require_binary, require_not_negative
from dsrm_jax.errors import InputError

COLUMNS = {"user": pl.Int32, "ratio": pl.Float64}


def write(tmp_path, text, name="log.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_reads_only_the_named_columns_with_their_types_in_file_order(tmp_path):
    path = write(tmp_path, 'ratio,junk,user\n0.5,"a,b",7\n1e-3,not a number,3\n')
    frame = read_table(path, COLUMNS)
    assert frame.columns == ["user", "ratio"]
    assert frame.dtypes == [pl.Int32, pl.Float64]
    assert frame.rows() == [(7, 0.5), (3, 0.001)]


def test_byte_order_mark_and_windows_lines_are_read(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbfuser,ratio\r\n1,0.25\r\n")
    assert read_table(path, COLUMNS).rows() == [(1, 0.25)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("user,ratio\n", "no rows"),
        ("user,other\n1,2\n", "column 'ratio' is missing; its columns are user, other"),
        ("user,ratio\n1,2\nx,3\n", r"line 3, column 'user': 'x' is not a whole number"),
        ("user,ratio\n1,2\n1.5,3\n", r"line 3, column 'user': '1.5' is not a whole number"),
        ("user,ratio\n3000000000,2\n", r"line 2, column 'user': '3000000000' is not a whole number"),
        ("user,ratio\n1,2\n2,many\n", r"line 3, column 'ratio': 'many' is not a number"),
        ("user,ratio\n1,2\n2,\n", r"line 3, column 'ratio': the value is missing"),
        ("user,ratio\n1,2\n,3\n", r"line 3, column 'user': the value is missing"),
        ("user,ratio\n1,2\n2\n", r"line 3, column 'ratio': the value is missing"),
        ("user,ratio\n1,2\n2,3,4\n", r"line 3: 3 fields; expected 2"),
        (b"\xff\xfe\x00user", "UTF-8"),
    ],
)
def test_each_defect_is_one_sentence_naming_file_and_place(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path, COLUMNS)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: file not found"):
        read_table(tmp_path / "none.csv", COLUMNS)


def test_a_bad_value_deep_in_a_long_file_is_found(tmp_path):
    lines = [f"{row},0.5" for row in range(50_000)]
    lines[43_210] = "oops,0.5"
    path = write(tmp_path, "user,ratio\n" + "\n".join(lines) + "\n")
    with pytest.raises(InputError, match="line 43212, column 'user': 'oops'"):
        read_table(path, COLUMNS)


def test_nullable_columns_may_have_gaps(tmp_path):
    path = write(tmp_path, "user,ratio\n1,\n2,3\n")
    assert read_table(path, COLUMNS, nullable=("ratio",)).rows() == [(1, None), (2, 3.0)]


@pytest.mark.parametrize("bad", ["-0.5", "NaN", "inf", "-inf"])
def test_negative_and_non_finite_feedback_is_refused_with_its_line(tmp_path, bad):
    path = write(tmp_path, f"user,ratio\n1,0\n2,{bad}\n")
    frame = read_table(path, COLUMNS)
    with pytest.raises(InputError, match=r"line 3, column 'ratio': .* not negative"):
        require_not_negative(path, frame, ["user", "ratio"])


def test_only_zero_and_one_are_binary(tmp_path):
    path = write(tmp_path, "user,ratio\n1,0\n0,0\n2,0\n")
    frame = read_table(path, COLUMNS)
    require_binary(path, frame, ["ratio"])
    with pytest.raises(InputError, match=r"line 4, column 'user': 2 is not allowed; expected 0 or 1"):
        require_binary(path, frame, ["user"])


def test_parquet_is_read_like_csv_and_its_defects_name_the_row(tmp_path):
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user": [1.0, 2.0], "ratio": [1, 2], "junk": ["a", "b"]}).write_parquet(path)
    frame = read_table(path, COLUMNS)
    assert frame.dtypes == [pl.Int32, pl.Float64]
    assert frame.rows() == [(1, 1.0), (2, 2.0)]
    pl.DataFrame({"user": [1.0, 2.5], "ratio": [1, 2]}).write_parquet(path)
    with pytest.raises(InputError, match=r"row 2, column 'user': '2\.5' is not a whole number"):
        read_table(path, COLUMNS)
    pl.DataFrame({"user": ["1", "x"], "ratio": [1, 2]}).write_parquet(path)
    with pytest.raises(InputError, match="row 2, column 'user': 'x' is not a whole number"):
        read_table(path, COLUMNS)
    path.write_bytes(b"PAR1 this is no table")
    with pytest.raises(InputError, match=re.escape(f"{path}: not a readable Parquet file")):
        read_table(path, COLUMNS)


@pytest.mark.parametrize("place", ["", "data", "KuaiRec 2.0", "KuaiRec 2.0/data"])
def test_an_unpacked_archive_is_found_whatever_its_top_folder(tmp_path, place):
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "big.csv").write_text("a\n")
    assert locate(tmp_path, ("other.csv", "big.csv")) == folder
    assert locate(tmp_path, ("other.csv",)) is None
    assert locate(tmp_path / "absent", ("big.csv",)) is None
