"""The studies are a package of their own: they import the library, it imports none of them, it runs their commands."""

import ast
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from dsrm_jax.cli.commands import COMMANDS, commands
from dsrm_jax.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"markdown-it-py": "markdown_it", "scikit-learn": "sklearn", "orbax-checkpoint": "orbax"}  # else alike
OPTIONAL = ("polars", "matplotlib", "tensorboardX")
STUDIES = tomllib.loads((ROOT / "experiments" / "pyproject.toml").read_text())["project"]
WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMES = sorted(STUDIES["entry-points"]["dsrm_jax.commands"])


def imported(folder: Path) -> set[str]:
    """Return the top-level modules that any file of a folder imports, wherever in the file."""
    return {name for path in folder.rglob("*.py") for name in _imports(ast.parse(path.read_text()))}


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", text)[0] for text in requirements}


def test_nothing_in_the_library_imports_the_studies():
    assert "experiments" not in imported(ROOT / "src" / "dsrm_jax")
    assert "dsrm_jax" in imported(ROOT / "experiments")


def test_what_only_studies_need_only_studies_ask_for():
    library = imported(ROOT / "src" / "dsrm_jax")
    optional = names([text for extra in WHEEL["optional-dependencies"].values() for text in extra])
    own = {name for name in names(STUDIES["dependencies"]) if name != "dsrm-jax"}
    assert own == {"markdown-it-py", "scikit-learn", "threadpoolctl"}
    for name in own:
        assert MODULES.get(name, name) not in library
        assert name not in names(WHEEL["dependencies"]) | optional
    assert not names(WHEEL["dependencies"]) & set(OPTIONAL)
    provided = {MODULES.get(n, n) for n in own | names(WHEEL["dependencies"]) | set(OPTIONAL)} | {"PIL"}  # matplotlib's
    used = imported(ROOT / "experiments") - set(sys.stdlib_module_names)
    assert used - {"experiments", "dsrm_jax"} <= provided


@pytest.mark.parametrize("name", NAMES)
def test_each_study_has_a_command_that_explains_itself(name, capsys):
    assert name not in COMMANDS
    with mock.patch.dict(os.environ), pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    said = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert f"usage: dsrm-jax {name}" in said
    assert commands()[name].about.split(",")[0].lower()[:30] in said.lower()


def test_every_file_that_a_page_names_is_there():
    """In back quotes, by a path from the repository, from `experiments/` or from the package."""
    roots = (ROOT, ROOT / "experiments", ROOT / "experiments" / "results", ROOT / "src" / "dsrm_jax")
    pages = sorted((ROOT / "experiments").glob("*.md"))
    assert len(pages) >= 3
    for page in pages:
        for path in re.findall(r"`([\w.*-]+/[\w./*-]*)`", page.read_text()):
            assert any(any(root.glob(path)) for root in roots), f"{page.name} names {path}"
