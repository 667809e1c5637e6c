"""The built site (`make docs`): links lead somewhere, all public names have a page, no other host is asked, pages fit a phone."""

import ast
import html
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import dsrm_jax

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "_build" / "html"
ROOMS = {"cli"}  # described by their commands
SEEN = ("index", "start", "own_log", "method", "results", "tables", "tutorials/steps", "api/purify")
WIDTHS = (420, 1280)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="the site is not built: make docs"),
]


class Page(HTMLParser):
    """The anchors of a page, its links, and what a browser would load for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        if tag == "link" and given.get("rel") not in {"index", "search", "next", "prev", "canonical"}:
            self.loads.append(given.get("href") or "")
        self.loads += [given[name] or "" for name in ("src", "srcset", "poster", "data") if given.get(name)]


@cache
def pages() -> dict[Path, Page]:
    return {path: Page(path.read_text()) for path in sorted(SITE.rglob("*.html"))}


def test_every_link_leads_somewhere():
    dead = {
        (str(path.relative_to(SITE)), link)
        for path, page in pages().items()
        for link in page.links
        if not urlsplit(link).scheme and not leads(path, link)
    }
    assert dead == set()


def leads(path: Path, link: str) -> bool:
    parts = urlsplit(link)
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return False
    return not parts.fragment or target not in pages() or unquote(parts.fragment) in pages()[target].anchors


def test_every_page_has_a_way_back():
    lost = {
        str(path.relative_to(SITE))
        for path, page in pages().items()
        if path != SITE / "index.html"
        and not any((path.parent / urlsplit(link).path).resolve() == SITE / "index.html" for link in page.links)
    }
    assert lost == set()


def test_nothing_is_asked_of_another_host():
    asked = {(str(p.relative_to(SITE)), load) for p, page in pages().items() for load in page.loads if foreign(load)}
    styles = "".join(path.read_text() for path in SITE.rglob("*.css"))
    asked |= {("css", url) for url in re.findall(r"(?:url\(|@import )[\"']?([^\"')\s]+)", styles) if foreign(url)}
    assert asked == set()


def foreign(address: str) -> bool:
    return bool(re.match(r"(?:https?:)?//", address))


def test_every_public_name_has_a_page():
    anchors = {anchor for page in pages().values() for anchor in page.anchors}
    front = {f"dsrm_jax.{name}" for name in dsrm_jax.__all__ if name != "__version__"}
    assert front - anchors == set()
    assert set(public_names()) - anchors == set()


def public_names() -> Iterator[str]:
    """Yield every public function and class of the rooms that has a docstring."""
    package = ROOT / "src" / "dsrm_jax"
    for path in sorted(package.glob("*/*.py")):
        if path.parent.name in ROOMS or path.stem == "__init__":
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_" and ast.get_docstring(node):
                yield f"dsrm_jax.{path.parent.name}.{path.stem}.{node.name}"


def test_the_site_says_its_version():
    assert f"dsrm_jax {dsrm_jax.__version__}" in (SITE / "index.html").read_text()


def test_notebooks_ran():
    for name in ("library", "steps", "own_pieces"):
        text = (SITE / "tutorials" / f"{name}.html").read_text()
        assert text.count('class="cell_output') >= 2, f"{name}: make docs runs it"
    assert "S =  50" in html.unescape((SITE / "tutorials" / "steps.html").read_text())


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium here")
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_their_window_in_a_real_browser(browser: str, width: int, tmp_path: Path):
    """Nothing is wider than the window but what scrolls inside itself; formulas and pictures have a size, numbers their place."""
    frames = "".join(
        f'<iframe id="{name}" src="{(SITE / name).as_uri()}.html" width="{width}" height="900"></iframe>'
        for name in SEEN
    )
    script = """addEventListener('load', () => { for (const frame of document.querySelectorAll('iframe')) {
        const page = frame.contentDocument, root = page.documentElement, said = document.createElement('p');
        const flat = [...page.querySelectorAll('math, article img')].filter(x => !x.getBoundingClientRect().height);
        const onto = [...page.querySelectorAll('.formula + .eqno')].filter(
            x => x.getBoundingClientRect().left < x.previousElementSibling.getBoundingClientRect().right);
        said.textContent = `[${frame.id}|${root.scrollWidth}|${root.clientWidth}|${flat.length + onto.length}]`;
        document.body.append(said); } })"""
    (tmp_path / "look.html").write_text(f"<!doctype html><body>{frames}<script>{script}</script>")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    command = [browser, *options, "--virtual-time-budget=20000", (tmp_path / "look.html").as_uri()]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    found = re.findall(r"\[([\w/]+)\|(\d+)\|(\d+)\|(\d+)\]", seen)
    assert {name for name, *_ in found} == set(SEEN), seen[-2000:]
    wide = {name: (int(most), int(shown)) for name, most, shown, _ in found if int(most) > int(shown)}
    assert wide == {}
    assert {name for name, *_, wrong in found if int(wrong)} == set()
