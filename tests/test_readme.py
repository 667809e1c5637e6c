"""README says what is true: its Python block runs, its commands and pages exist, its numbers are those of committed files."""

import csv
import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from dsrm_jax.agents.methods import METHODS

README = Path(__file__).parents[1] / "README.md"
ROOT = README.parent
TABLE = re.compile(r"(<!-- table of (\S+) -->\n)(.*?)(<!-- end of table -->)", flags=re.DOTALL)


def python_block() -> str:
    found = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(found) == 1
    return found[0]


def table(file: str) -> str:
    """Return the table of a run's document, as the site has it."""
    sys.path.insert(0, str(ROOT / "docs" / "extensions"))
    try:
        from numbers_of_results import results_table
    finally:
        sys.path.pop(0)
    return results_table(json.loads((ROOT / file).read_text())["results"]) + "\n"


def test_the_page_is_a_screen_and_a_half():
    assert len(README.read_text().splitlines()) <= 110
    lines = [line for line in python_block().splitlines() if line.strip()]
    assert len(lines) <= 14


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_library_example_runs_and_its_comments_are_true():
    scope: dict = {}
    exec(compile(python_block(), "README.md", "exec"), scope)
    assert scope["metrics"]["reward"].shape == (4,)
    found = scope["found"]
    assert all(1 <= found["length"][end] <= 30 and 0 <= found["reward"][end] <= 1 for end in ("low", "mean", "high"))
    assert found["ad"]["mean"] == 0  # half-and-half slates, exactly


def test_the_commands_are_there():
    text = README.read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert "make train ENV=kuairec" in text
    assert "make test" in text
    for target in re.findall(r"^make ([a-z-]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{target}: ", makefile, flags=re.MULTILINE), target
    commands = (ROOT / "docs" / "commands.md").read_text()
    for variable in re.findall(r"^\| `([A-Z_]+)` \|", commands, flags=re.MULTILINE):
        assert re.search(rf"^{variable}\s+\?=", makefile, flags=re.MULTILINE), variable


def test_every_method_is_named():
    assert [name for name in METHODS if f"`{name}`" not in README.read_text()] == []


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert [link for link in links if "://" not in link and not (ROOT / link).is_file()] == []


def test_the_table_is_of_the_file_that_it_names():
    found = TABLE.search(README.read_text())
    assert found
    assert found[3] == table(found[2]), "python tests/test_readme.py"


def test_the_numbers_of_its_sentences_are_those_of_the_files():
    text, results = README.read_text(), ROOT / "experiments" / "results"
    read = {
        name: json.loads((results / f"{name}.json").read_text()) for name in ("kuairec", "kuairand", "worlds_learners")
    }
    kuairec, kuairand = read["kuairec"]["results"], read["kuairand"]["results"]
    assert f"{read['kuairec']['seconds']:.0f} s on two cores" in text
    gain = kuairec["quota_greedy_purified"]["length"]["mean"] - kuairec["quota_greedy"]["length"]["mean"]
    assert f"keeps users {gain:.1f} steps longer" in text
    learnt = kuairand["dsrm_hrl"]["difference"]["quota_greedy_purified"]["length"]["mean"]
    assert f"{learnt:.2f} steps in".lstrip("0") in text
    worlds = read["worlds_learners"]["worlds"].values()
    beats = [
        f"{found['less']['dsrm_hrl']['constant']['mean']:.1f}"
        for found in worlds
        if all(found["less"]["dsrm_hrl"][rule]["low"] > 0 for rule in ("half", "constant", "aware"))
    ]
    told = f"by R_cum {', '.join(beats[:-1])} and {beats[-1]} in {len(beats)} of {len(worlds)} worlds with memory"
    assert told in " ".join(text.split())
    by_claim = defaultdict(set)
    with (results / "paper" / "claims.csv").open() as file:
        for row in csv.DictReader(file):
            by_claim[row["id"]].add(row["verdict"])
    ranked = ("does not hold", "cannot be decided here", "holds")  # a claim is as good as its worst cell
    count = Counter(next(verdict for verdict in ranked if verdict in found) for found in by_claim.values())
    told = re.search(r"Of (\d+) claims of the paper (\d+) hold .*, (\d+) do not, (\d+) are undecided", text)
    assert told
    assert [int(n) for n in told.groups()] == [len(by_claim), count["holds"], *(count[name] for name in ranked[:2])]


if __name__ == "__main__":
    README.write_text(TABLE.sub(lambda found: found[1] + table(found[2]) + found[4], README.read_text()))
