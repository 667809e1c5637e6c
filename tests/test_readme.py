"""README says what is true: its Python block runs, is short, and its commands exist."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def python_block() -> str:
    found = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(found) == 1
    return found[0]


def test_the_library_example_is_under_thirty_lines_of_code():
    lines = [line for line in python_block().splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(lines) < 30


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_library_example_runs_and_its_comments_are_true():
    scope: dict = {}
    exec(compile(python_block(), "README.md", "exec"), scope)
    assert scope["view"].state.shape == (64, 17)
    assert scope["metrics"]["reward"].shape == (2, 4)
    found = scope["found"]
    assert all(1 <= found["length"][end] <= 30 and 0 <= found["reward"][end] <= 1 for end in ("low", "mean", "high"))
    assert found["ad"]["mean"] == 0  # half-and-half slates, exactly


def test_the_two_commands_and_every_make_variable_are_there():
    text = README.read_text()
    makefile = (README.parent / "Makefile").read_text()
    assert "make train ENV=kuairec" in text
    assert "make test" in text
    for variable in re.findall(r"^\| `([A-Z_]+)` \|", text, flags=re.MULTILINE):
        assert re.search(rf"^{variable}\s+\?=", makefile, flags=re.MULTILINE), variable
