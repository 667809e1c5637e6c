"""Files are read strictly and written whole, whatever they are."""

import os
import threading
from pathlib import Path

import pytest

from dsrm_jax import files
from dsrm_jax.errors import InputError


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path):
    (tmp_path / "a.toml").write_text("[agent]\nclip = 1\n", encoding="utf-8-sig")
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert files.load_toml(tmp_path / "a.toml") == {"agent": {"clip": 1}}
    assert files.load_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '{"a": NaN}', "no number NaN"),
        ("a.json", '{"a": -Infinity}', "no number -Infinity"),
        ("a.json", '{"a": ' + "1" * 5_000 + "}", "digits"),
        ("a.json", "[" * 200_000, "a.json"),
        ("a.toml", "a = " + "1" * 5_000, "digits"),
        ("a.toml", "a = " + "[" * 5_000, "a.toml"),
    ],
)
def test_what_no_parser_can_hold_is_one_sentence(tmp_path: Path, name: str, text: str, said: str):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        (files.load_json if name.endswith("json") else files.load_toml)(path)


def test_a_link_stays_a_link(tmp_path: Path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    link.symlink_to(target)
    files.write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    files.write_text(pipe, "numbers")
    reader.join(30)
    assert read == ["numbers"]
    assert pipe.is_fifo()


def test_a_name_that_no_disk_holds_is_one_sentence(tmp_path: Path):
    with pytest.raises(InputError, match="File name too long"):
        files.write_text(tmp_path / ("x" * 5_000), "new")
