"""The first two pages, followed command by command in a clean folder, give what they print."""

from pathlib import Path

import pytest

from tests.docs.following import blocks, difference, follow

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", ["start", "own_log"])
def test_a_page_gives_what_it_prints(page: str, tmp_path: Path):
    text = (DOCS / f"{page}.md").read_text()
    printed = follow(text, tmp_path)
    assert len(printed) == sum(len(block) for block in blocks(text) if isinstance(block, list)) > 1
    wrong = {command.line: told for command, text in printed if (told := difference(command.printed, text))}
    assert wrong == {}


def test_what_differs_is_found():
    assert difference("Len 24.48 (46 s)\n", "Len 24.5 (3.2 s)\n") == ""
    assert difference("Len 24.48\n", "Len 27.9\n") != ""
    assert difference("a\n...\nz\n", "a\nb\nc\nz\n") == ""
    assert difference("a\n...\nz\n", "a\nb\nc\n") != ""
    assert difference("a\nb\n", "a\n") != ""
    assert difference("one word\n", "another word\n") != ""


def test_blocks_are_read_in_order():
    page = "```{code-block} python\n:caption: a.py\n\nprint(1)\n```\ntext\n```console\n$ one\nsays\n$ two\n```\n"
    file, commands = blocks(page)
    assert file == ("a.py", "print(1)\n")
    assert [(c.line, c.printed) for c in commands] == [("one", "says\n"), ("two", "")]
    assert page[commands[0].place] == "says\n"
