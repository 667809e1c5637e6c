"""CSV files in every dialect give the rows that were written, or a sentence with the line; nothing is lost without a word."""

import csv
import io
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dsrm_jax.data import csv_layout, csv_text
from dsrm_jax.data.tables import available_columns, place, read_table, read_text_columns
from dsrm_jax.errors import InputError

NAMES = ("user_id", "item_id", "click", "title")
HEAD = "user_id,item_id,click,title\n"
ROWS = [("1", "10", "1"), ("1", "11", "0"), ("2", "10", "0"), ("2", "12", "1")]
TITLES = ("a", "b", "c", "d")


def write(folder, text, name="log.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(path, names=NAMES[:3]):
    return read_text_columns(path, names).rows()


def lines(titles=TITLES, end="\n"):
    return "".join(",".join((*row, title)) + end for row, title in zip(ROWS, titles, strict=True))


# what is in a title must not bend the rows around it
GOOD = {
    "an inch mark": HEAD + lines(('5" disk', "b", '3" disk', "d")),
    "inch marks beside quoted fields": HEAD + lines(('5" disk', '"b, c"', "c", '3" disk')),
    "doubled marks": HEAD + lines(('"say ""hi"", you"', '""', '""""', "d")),
    "doubled marks in a bare field": HEAD + lines(('say ""hi""', "b", "c", "d")),
    "backslashes before marks": HEAD + lines(('"say \\"hi\\", you"', '"a\\\\"', "c", "d")),
    "backslashes before marks in bare fields": HEAD + lines(('\\"', 'say \\"hi\\"', "c", "d")),
    "backslashes before separators": HEAD + lines(("a\\, b", "b", "c", "d")),
    "a backslash at the end": HEAD + lines(('"C:\\"', "b", "c", "d")),
    "spaces after separators": HEAD.replace(",", ", ") + lines(('"a, b"', "b", "c", "d")).replace(",", ", "),
    "spaces before every mark": HEAD.replace(",", ", ") + lines(('"a"', '"b"', '"c"', '"d"')).replace(",", ", "),
    "a mark after a backslash, then a newline": HEAD + lines(('"\\"\n;"', "b", "c", "d")),
    "newlines in quotes": HEAD + lines(('"a\nb"', '"1,10,b\n\n"', '"\r\n"', "d")),
    "a comma line in quotes": HEAD + lines(('"dear all, this, that, and more:\nI, too, like, it"', "b", "c", "d")),
    "empty first lines": "\n\r\n" + HEAD + lines(),
    "empty lines": HEAD + "\n" + lines(end="\n\n") + "\r\n\n",
    "empty lines and newlines in quotes": "\n" + HEAD + "\n" + lines(('"\n"', "b", "c", "d"), end="\n\n"),
    "no last newline": (HEAD + lines())[:-1],
    "CRLF": (HEAD + lines(('"a\nb"', "b", "c", "d"))).replace("\n", "\r\n"),
    "CR": (HEAD + lines()).replace("\n", "\r"),
    "CR and empty lines": ("\n" + HEAD + lines(end="\n\n")).replace("\n", "\r"),
    "endings of every kind": HEAD + "1,10,1,a\r1,11,0,b\r\n2,10,0,c\n2,12,1,d",
    "LF after CR": (HEAD + lines()).replace("\n", "\r")[:-1] + "\n",
    "tabs": (HEAD + lines()).replace(",", "\t"),
    "semicolons": (HEAD + lines(("a,b", "b", "c", "d"))).replace(",", ";").replace("a;b", "a,b"),
    "bars": (HEAD + lines()).replace(",", "|"),
    "a quoted header": '"user_id","item_id","click","tit\nle"\n' + lines(),
    "spaces in the header": HEAD.replace(",", " , ") + lines(),
    "an unused name twice": HEAD.replace("title", "x,x,x_duplicated_0") + lines(("a,b,c",) * 4),
    "names without text": ","
    + HEAD.strip()
    + ",\n"
    + "".join(f"{n},{','.join(row)},t,\n" for n, row in enumerate(ROWS)),
    "a separator too many": HEAD + lines(end=",\n"),
    "a title too few": HEAD + lines()[:-3] + "\n",
    "byte order mark": b"\xef\xbb\xbf" + (HEAD + lines()).encode(),
    "Latin-1 in what nobody reads": HEAD.encode() + lines(("caf\xe9", "b", "c", "d")).encode("latin-1"),
    "Latin-1 in a quoted line break": HEAD.encode() + lines(('"caf\xe9\n"', "b", "c", "d")).encode("latin-1"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_the_rows_come_back_whatever_the_titles_hold(kind, tmp_path):
    assert read(write(tmp_path, GOOD[kind])) == ROWS


def test_titles_come_back_too(tmp_path):
    for kind, titles in {
        "an inch mark": ('5" disk', "b", '3" disk', "d"),
        "doubled marks": ('say "hi", you', "", '"', "d"),
        "backslashes before marks": ('say "hi", you', "a\\", "c", "d"),
        "backslashes before marks in bare fields": ('"', 'say "hi"', "c", "d"),
        "backslashes before separators": ("a, b", "b", "c", "d"),
        "a backslash at the end": ("C:\\", "b", "c", "d"),
        "spaces before every mark": ("a", "b", "c", "d"),
        "a mark after a backslash, then a newline": ('"\n;', "b", "c", "d"),
        "spaces after separators": ("a,  b", "b", "c", "d"),
    }.items():
        path = write(tmp_path, GOOD[kind])
        assert read_text_columns(path, ["title"])["title"].fill_null("").to_list() == list(titles), kind


BAD = {
    "a stray pair among ids of one word and two": (
        HEAD + 'A 1,x,1,a\nB 2,y z,0,"b\nC,y,0,c"\nD,x,1,d\n',
        r"line 3: the quoted text that begins here runs on to line 4, and its line 4 looks like a row",
    ),
    # the file of issue 20: two stray marks took the rows 2,10 to 2,13 away
    "two stray marks": (
        HEAD + '1,10,1,a\n1,11,0,"b\n2,10,0,c\n2,12,0,d\n2,13,1,"e\n3,10,0,f\n3,11,1,g\n',
        r"line 6: text follows a closing quotation mark, in a row that began on line 3: a stray quotation mark there\?",
    ),
    "a stray pair that ends a line": (
        HEAD + '1,10,1,a\n1,11,0,"b\n2,10,0,c\n2,12,0,d\n2,13,1,e"\n3,10,0,f\n',
        r"line 3: the quoted text that begins here runs on to line 6, and its line 4 looks like a row",
    ),
    "a stray pair on two lines": (
        HEAD + '1,10,1,a\n1,11,0,"b\n2,10,0,c"\n',
        r"line 3: the quoted text that begins here runs on to line 4, and its line 4 looks like a row",
    ),
    "never closed": (
        HEAD + '1,10,1,a\n1,11,0,"b\n2,10,0,c\n',
        "line 3: a quotation mark opens a field that never ends",
    ),
    "never closed, and long": (
        HEAD + '1,10,1,"a\n' + "word\n" * 30_000,
        "line 2: a quotation mark opens a field that never ends",
    ),
    "text after a closing mark": (HEAD + '1,10,1,a\n1,11,0,"b"x\n', "line 3: text follows a closing quotation mark;"),
    "a space after a closing mark": (HEAD + '1,10,1,"b" \n', "line 2: text follows a closing quotation mark;"),
    "too many fields": (HEAD + '1,10,1,"a\nb"\n1,11,0,b,c\n', "line 4: 5 fields; expected 4, as the header"),
    "a read name twice": (
        HEAD.replace("title", "click") + lines(),
        "line 1: 2 columns are named 'click'; rename all but one",
    ),
    "UTF-16": ((HEAD + lines()).encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    "a spreadsheet": (b"PK\x03\x04" + bytes(30), "ZIP archive or an Excel sheet"),
    "nothing": ("\n\n", "the file is empty"),
    "a stray mark in the header": (
        'user_id,item_id,"click\n' + "1,10,1\n" * 30_000,
        "line 1: the header cannot be read",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_is_named_by_its_line(kind, tmp_path):
    text, message = BAD[kind]
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("before", ["", "\n\n"])
@pytest.mark.parametrize("title", ["a", '"a\nb\nc"', '""', '5" disk'])
@pytest.mark.parametrize("empty", ["", "\n"])
def test_a_bad_value_is_named_by_the_line_that_an_editor_shows(end, before, title, empty, tmp_path):
    text = f"{before}{HEAD}{empty}1,10,1,{title}\n{empty}1,oops,0,b\n".replace("\n", end)
    line = 1 + next(number for number, one in enumerate(text.split(end)) if "oops" in one)
    with pytest.raises(InputError, match=f"line {line}, column 'item_id': 'oops' is not a whole number"):
        read_table(write(tmp_path, text), {"user_id": pl.Int64, "item_id": pl.Int64})


def test_bytes_that_are_not_utf8_are_refused_where_they_are_read(tmp_path):
    for title in ("b", '"b\nc"'):  # read by Polars and by Python
        text = HEAD.encode() + lines(("caf\xe9", title, "c", "d")).encode("latin-1").replace(b"2,12", b"2,caf\xe9")
        path = write(tmp_path, text)
        line = 5 + title.count("\n")
        with pytest.raises(
            InputError, match=f"line {line}, column 'item_id': 'caf\ufffd' is not allowed; expected UTF-8"
        ):
            read(path)
        assert read(path, ["user_id", "click"]) == [(user, click) for user, _, click in ROWS]
    whole = write(tmp_path, HEAD + lines(("caf\ufffd", "b", "c", "d")))  # this mark is a character like any other
    assert read(whole, ["title"])[0] == ("caf\ufffd",)


def test_a_long_file_is_surveyed_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_layout, "CHUNK", 50)
    monkeypatch.setattr(csv_text, "BATCH", 7)
    rows = [(str(n), str(n * n), str(n % 2)) for n in range(100)]
    for title in ("x", '"x, y"', '"x\ny"', 'x"y', "ä" * 40):
        text = "".join(",".join((*row, title)) + ("\n\n" if int(row[0]) % 9 == 0 else "\n") for row in rows)
        path = write(tmp_path, HEAD + text)
        assert read(path) == rows
        found = csv_layout.layout(path, path)
        assert found.plain == ("\n" not in title)
        assert (
            place(path, 57)
            == f"{path}, line {(HEAD + text).split(f'{rows[57][0]},{rows[57][1]}')[0].count(chr(10)) + 1}"
        )


def test_a_mark_that_a_piece_of_the_file_ends_before_still_closes(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_layout, "CHUNK", 8)
    assert read(write(tmp_path, HEAD + '1,10,1,"\n, "\n 2,10,1,a\n'))[1] == (" 2", "10", "1")


def test_a_line_feed_after_carriage_returns_is_no_value(tmp_path):
    path = write(tmp_path, "user_id,item_id\r1,10\r2,11\n")
    assert read_table(path, {"user_id": pl.Int64, "item_id": pl.Int64}).rows() == [(1, 10), (2, 11)]


ID = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs",), exclude_characters="\r\n\0"), min_size=1, max_size=6
)
TEXT = st.text(st.sampled_from("ab ,;\t|\"'\\\n\räß€😀"), max_size=12)  # without digits no line of it looks like a row
LOG = st.lists(st.tuples(ID, st.integers(-9, 9), st.floats(0, 9), TEXT), min_size=1, max_size=12)


def by_csv(rows, data):
    """Write by Python's csv module in a dialect that can be told from the file alone."""
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    quoting = [csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]
    quoting += [csv.QUOTE_MINIMAL] if end != "\r" else []  # which leaves line feeds bare then
    dialect = {"quoting": data.draw(st.sampled_from(quoting)), "delimiter": data.draw(st.sampled_from(",;\t|"))}
    if not any("\\" in user + title for user, *_, title in rows) and data.draw(st.booleans()):
        dialect |= {"escapechar": "\\", "doublequote": False}
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator=end, **dialect)
    writer.writerow(NAMES)
    writer.writerows((user, item, repr(click), title) for user, item, click, title in rows)
    return stream.getvalue()


def by_polars(rows, data):
    style = data.draw(st.sampled_from(["necessary", "always", "non_numeric"]))
    separator, end = data.draw(st.sampled_from(",;\t|")), data.draw(st.sampled_from(["\n", "\r\n"]))
    frame = pl.DataFrame(rows, schema=NAMES, orient="row")
    return frame.write_csv(separator=separator, line_terminator=end, quote_style=style)


def by_pandas(rows, data):
    pandas = pytest.importorskip("pandas")
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    return pandas.DataFrame(rows, columns=list(NAMES)).to_csv(
        index=data.draw(st.booleans()), sep=data.draw(st.sampled_from(",;\t|")), quoting=quoting
    )


@pytest.mark.parametrize("writer", ["csv", "Polars", "pandas"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LOG, st.data())
def test_what_three_libraries_write_is_read_back(writer, tmp_path, rows, data):
    text = {"csv": by_csv, "Polars": by_polars, "pandas": by_pandas}[writer](rows, data)
    path = write(tmp_path, text)
    kinds = {"user_id": pl.String, "item_id": pl.Int64, "click": pl.Float64, "title": pl.String}
    found = read_table(path, kinds, nullable=["title"]).rows()
    assert [(user, item, click) for user, item, click, _ in found] == [row[:3] for row in rows]
    # a writer may end the lines of a text as it ends those of the file
    assert [(t or "").replace("\r", "\n").split() for *_, t in found] == [
        t.replace("\r", "\n").split() for *_, t in rows
    ]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["1", "a", ",", '"', '"', "\n", "\n", "\r\n", " ", "\\", ";"]), max_size=40).map("".join)
)
@example('1,"\n1,1\n1,"\n')
def test_any_text_is_read_as_pythons_strict_reader_does_or_refused(tmp_path, body):
    path = write(tmp_path, "one,two\n" + body)
    with path.open(newline="") as stream:
        try:
            rows = [row for row in csv.reader(stream, strict=True) if row][1:]
        except csv.Error:
            rows = None
    try:
        found = [[value or "" for value in row] for row in read_text_columns(path, ["one", "two"]).rows()]
    except InputError as error:
        message = str(error)
        reasons = ("no rows", "fields; expected 2", "quotation mark")
        assert any(reason in message for reason in reasons)
        assert not rows or any(len(row) > 2 or "\n" in "".join(row) or "\r" in "".join(row) for row in rows)
        return
    if rows is None or any("".join(row[2:]).strip() or len(row) < 2 for row in rows) or ' "' in body or '\\"' in body:
        # another dialect may have been read, as strictly
        assert rows is not None or "\\" in body or ' "' in body
    else:
        assert found == [[*row, ""][:2] for row in rows]
    assert available_columns(Path(path)) == ("one", "two")
