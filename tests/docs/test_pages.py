"""The site's sources: every public name has its place and an example, pictures and tables are made from committed numbers."""

import json
import re
from pathlib import Path

import pytest

import dsrm_jax
from dsrm_jax.agents.methods import METHODS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
API = sorted((DOCS / "api").glob("*.md"))
EXAMPLES = re.compile(
    r"^\.\. (?:auto\w+|py:data):: dsrm_jax\.(\w+)$.*?^```pycon\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL
)


@pytest.fixture
def site_modules(monkeypatch):
    """What the site is built by: modules of docs/extensions and docs/pictures."""
    monkeypatch.syspath_prepend(str(DOCS / "extensions"))
    monkeypatch.syspath_prepend(str(DOCS / "pictures"))


def test_every_public_name_has_an_entry_with_an_example():
    found = {name: example for page in API for name, example in EXAMPLES.findall(page.read_text())}
    assert set(dsrm_jax.__all__) - set(found) == {"__version__"}
    assert set(found) <= set(dsrm_jax.__all__)
    assert all(">>> " in example for example in found.values())


def test_the_pictures_are_drawn_from_their_numbers(site_modules):
    import draw

    drawn = draw.pictures(json.loads((DOCS / "pictures" / "pictures.json").read_text()))
    kept = {path.name: path.read_text() for path in (DOCS / "pictures").glob("*.svg")}
    assert drawn == kept, "python docs/pictures/draw.py"


def test_every_picture_of_a_page_says_in_words_what_it_shows():
    silent = [
        (path.name, target)
        for path in DOCS.rglob("*.md")
        for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", path.read_text())
        if len(alt.split()) < 3
    ]
    assert silent == []


def test_pages_name_only_numbers_that_there_are(site_modules):
    import numbers_of_results

    known = numbers_of_results.read(ROOT / "experiments" / "results")
    used = {
        (path.name, name)
        for path in DOCS.rglob("*.md")
        if "_build" not in path.parts
        for name in re.findall(r"\{\{ (\w+) \}\}", path.read_text())
    }
    assert {pair for pair in used if pair[1] not in known | {"version": ""}} == set()
    assert any(name == "table_kuairec" for _, name in used)


def test_the_tables_hold_what_the_files_hold(site_modules):
    import numbers_of_results

    run = json.loads((ROOT / "experiments" / "results" / "kuairec.json").read_text())
    mean = run["results"]["oracle"]["length"]["mean"]
    (row,) = (line for line in numbers_of_results.results_table(run["results"]).splitlines() if "oracle" in line)
    assert f"{mean:.2f}" in row


def test_the_table_of_methods_has_every_method_with_its_phrase(site_modules):
    import numbers_of_results

    listed = numbers_of_results.read(ROOT / "experiments" / "results")["table_methods"]
    assert [m.name for m in METHODS.values() if f"| `{m.name}` | {m.about} |" not in listed] == []


def test_mermaid_is_drawn_with_every_arrow(site_modules):
    pytest.importorskip("sphinx", reason="the docs extra is not installed")
    import flowchart

    drawn = flowchart.draw("flowchart LR\n    a[one] --> b\n    b --> c\n    a --> c")
    assert drawn.count('class="head"') == 3
    assert "one to b; b to c; one to c" in drawn


def test_docstrings_become_what_sphinx_reads(site_modules):
    pytest.importorskip("sphinx", reason="the docs extra is not installed")
    from docstrings import fields, to_rst

    assert to_rst(["`make_train`s of `x`, 2*3 and $a^2$; s_ is one."]) == [
        ":py:obj:`~dsrm_jax.make_train`\\ s of ``x``, 2\\*3 and :math:`a^2`; s\\_ is one."
    ]
    assert to_rst(["Fields of `PurifierConfig`, see `slates.sample_slate` or `state`."]) == [
        "Fields of :py:obj:`PurifierConfig <dsrm_jax.purify.settings.PurifierConfig>`, see "
        ":py:obj:`slates.sample_slate <dsrm_jax.agents.slates.sample_slate>` or ``state``."
    ]
    assert to_rst(["Of these:", "* one", "* two"]) == ["Of these:", "", "* one", "* two"]
    told = fields(dsrm_jax.View)
    assert told["time"][1].endswith("steps already taken in the session")
    assert told["recent"][1].startswith("`(..., R)` int32")


def test_the_version_is_the_same_everywhere():
    changes = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", changes, flags=re.MULTILINE)
    assert newest
    assert newest[1] == dsrm_jax.__version__
    assert re.search(
        rf"^version: {re.escape(dsrm_jax.__version__)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE
    )


def test_what_the_site_needs_is_locked_by_hashes_beside_what_is_installed_anyway():
    lock, docs = ((ROOT / name).read_text() for name in (".lock.txt", ".lock-docs.txt"))
    blocks = re.split(r"\n(?=[\w.-]+==)", docs)[1:]
    assert len(blocks) > 40
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    assert not re.search(r"https?:|--index|--find-links", docs)
    installed, added = (set(re.findall(r"^([\w.-]+)==", text, flags=re.MULTILINE)) for text in (lock, docs))
    assert installed & added == set()
    wanted = re.search(r"^docs = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert wanted
    named = set(re.findall(r'"([\w-]+)>=', wanted[1]))
    assert named <= added
