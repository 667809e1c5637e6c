"""The house as docs/ARCHITECTURE.md draws it: rooms import only rooms above them, no circles, and the rules that keep it small.

The page's picture is made here, from the imports: `python tests/test_architecture.py` draws it anew.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "dsrm_jax"
PAGE = ROOT / "docs" / "ARCHITECTURE.md"
TOP = "top level"
TOP_MODULES = {"errors", "files", "settings", "types", "plugins", "progress"}
FRONT = {"", "__main__"}  # the front door names everything, and is imported by nothing
ROOMS = (TOP, *re.findall(r"^\| `(\w+)/` \|", PAGE.read_text(), flags=re.MULTILINE))  # in the order of the page's table
DRAWN = re.compile(r"(<!-- picture -->\n)(.*?)(<!-- end of picture -->)", flags=re.DOTALL)

MOST_ANY = 40  # the design says fewer than 60
MOST_LINES = 420
MOST_POSITIONAL = 7


def modules() -> dict[str, Path]:
    """Return every module of the package by its name below `dsrm_jax`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> dict[str, frozenset[str]]:
    """Return which modules of the package each of them imports, wherever in the file the import stands."""
    names = modules()
    return {name: frozenset(imported(path, names)) - {name} for name, path in names.items() if name not in FRONT}


def imported(path: Path, names: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dsrm_jax":
            base = (node.module or "").partition(".")[2]
            for alias in node.names:
                if not base and alias.name == "__version__":
                    continue  # a text, and no piece
                inner = f"{base}.{alias.name}".lstrip(".")
                yield inner if inner in names else base
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.split(".")[0] == "dsrm_jax")


def room(name: str) -> str:
    return TOP if name in TOP_MODULES else name.split(".")[0]


def arrows() -> set[tuple[str, str]]:
    """Return the arrows between rooms: (room, room that it imports)."""
    return {(room(a), room(b)) for a, imported in imports().items() for b in imported if room(a) != room(b)}


def picture() -> str:
    """Return the arrows as a Mermaid flow chart, without those that follow from others."""
    forward = {(a, b) for a, b in arrows() if a in ROOMS and b in ROOMS and ROOMS.index(b) < ROOMS.index(a)}

    def reaches(start: str, goal: str) -> bool:
        return any(a == start and (b == goal or reaches(b, goal)) for a, b in forward)

    direct = [
        (a, b)
        for a, b in sorted(forward, key=lambda arrow: (ROOMS.index(arrow[1]), ROOMS.index(arrow[0])))
        if not any(a == start and middle != b and reaches(middle, b) for start, middle in forward)
    ]
    lines = [f"    {b.replace(' ', '_')}[{b}] --> {a}" for a, b in direct]
    return "\n".join(["```mermaid", "flowchart LR", *lines, "```", ""])


def test_every_module_stands_in_a_room():
    assert {room(name) for name in imports()} == set(ROOMS)


def test_no_arrow_points_back():
    back = {f"{a} imports {b}" for a, found in imports().items() for b in found if points_back(room(a), room(b))}
    assert back == set(), "a room imports only rooms above it (docs/ARCHITECTURE.md)"


def points_back(importing: str, imported: str) -> bool:
    return imported in FRONT or ROOMS.index(imported) > ROOMS.index(importing)


def test_no_modules_import_each_other_in_a_circle():
    assert circles(imports()) == set()


def circles(graph: dict[str, frozenset[str]]) -> set[frozenset[str]]:
    """Return the strongly connected sets of more than one module."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            new = graph.get(ahead.pop(), frozenset()) - seen
            seen |= new
            ahead.extend(new)
        return seen

    reach = {name: reached(name) for name in graph}
    return {frozenset(b for b in reach[a] if a in reach.get(b, ())) | {a} for a in graph if a in reach[a]}


def test_a_circle_and_an_arrow_are_found_where_there_are_some():
    graph = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"b"}), "d": frozenset({"a"})}
    assert circles(graph) == {frozenset({"b", "c"})}


def test_the_pages_picture_is_of_today():
    found = DRAWN.search(PAGE.read_text())
    assert found, f"{PAGE.name} lost the two lines that the picture stands between"
    assert found[2] == picture(), "the imports changed: draw the picture anew by python tests/test_architecture.py"


def test_the_page_names_every_room_and_fits_one_screen():
    text = PAGE.read_text()
    assert [name for name in ROOMS[1:] if f"`{name}/`" not in text] == []
    assert len(text.splitlines()) <= 75


@pytest.mark.parametrize("folder", ["src", "experiments", "tests"])
def test_nothing_cites_notes_that_a_reader_does_not_have(folder: str):
    notes = re.compile(r"\bfacts/\w+|\bshared/(?:facts|design|paper)")
    citing = {
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in {".py", ".md", ".toml"} and path != Path(__file__)
        if notes.search(path.read_text())
    }
    assert citing == set(), "cite the paper (equation, section) or the public repository and its file"


def test_any_stands_only_where_there_is_a_reason():
    used = {
        name: count
        for name, path in modules().items()
        if (count := sum(isinstance(n, ast.Name) and n.id == "Any" for n in ast.walk(ast.parse(path.read_text()))))
    }
    assert sum(used.values()) <= MOST_ANY, sorted(used.items(), key=lambda item: -item[1])


def test_no_function_takes_many_things_by_their_place():
    wide = {
        f"{name}:{node.name}"
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and needed(node.args) > MOST_POSITIONAL
    }
    assert wide == set()


def needed(arguments: ast.arguments) -> int:
    """Return how many parameters are not keywords with defaults."""
    places = [a for a in arguments.posonlyargs + arguments.args if a.arg not in {"self", "cls"}]
    return len(places) + sum(default is None for default in arguments.kw_defaults)


def test_no_file_is_long():
    long = {name: n for name, path in modules().items() if (n := len(path.read_text().splitlines())) > MOST_LINES}
    assert long == {}


if __name__ == "__main__":
    PAGE.write_text(DRAWN.sub(lambda found: found[1] + picture() + found[3], PAGE.read_text()))
