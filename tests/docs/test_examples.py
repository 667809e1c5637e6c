"""The examples of the API's pages give what they print."""

import doctest
import re
from pathlib import Path

import pytest

API = Path(__file__).parents[2] / "docs" / "api"
BLOCK = re.compile(r"^```pycon\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", sorted(p.stem for p in API.glob("*.md") if "pycon" in p.read_text()))
def test_the_examples_of_a_page_print_what_they_say(page: str):
    text = (API / f"{page}.md").read_text()
    together = "\n".join(found[1] for found in BLOCK.finditer(text))  # one session from top to bottom
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    test = doctest.DocTestParser().get_doctest(together, {}, page, f"{page}.md", 0)
    assert test.examples
    told: list[str] = []
    doctest.DocTestRunner(optionflags=flags, verbose=False).run(test, out=told.append)
    assert told == []
