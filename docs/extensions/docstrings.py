"""The API's pages: the package's docstrings, written for people who read code, as Sphinx wants them, and a page a module.

Docstrings put code between single backticks and formulas between dollars; fields of pytrees are explained in comments. Neither is
known to Sphinx, so both are said in its own way here, and everything else is escaped.
"""

import ast
import dataclasses
import inspect
import io
import pkgutil
import re
import textwrap
import tokenize
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import dsrm_jax

HOUSE = Path(__file__).parents[1] / "ARCHITECTURE.md"
# what a reader may import; the command line's own modules are described by their commands
ROOMS = [room for room in re.findall(r"^\| `(\w+)/` \|", HOUSE.read_text(), flags=re.MULTILINE) if room != "cli"]
SPAN = re.compile(r"(^ *\$\$.+?\$\$$|``.+?``|`[^`]+`|\$[^$\n]+\$)", flags=re.DOTALL | re.MULTILINE)
SECTIONS = {"Args:", "Attributes:", "Returns:", "Raises:"}
PAGES = "api/rooms"


def modules(room: str) -> list[str]:
    """Return the names of a room's modules."""
    package = import_module(f"dsrm_jax.{room}")
    return [f"dsrm_jax.{room}.{found.name}" for found in pkgutil.iter_modules(package.__path__)]


def to_rst(lines: list[str]) -> list[str]:
    """Return a docstring as reStructuredText."""
    parts = SPAN.split("\n".join(lines))
    for i in range(1, len(parts), 2):  # a span ends where no letter follows it
        parts[i] = _span(parts[i])
        parts[i - 1] += "\0" * bool(parts[i - 1][-1:].isalnum())
        parts[i + 1] = "\0" * bool(parts[i + 1][:1].isalnum()) + parts[i + 1]
    text = "".join(part if i % 2 else _escape(part).replace("\0", "\\ ") for i, part in enumerate(parts))
    spaced: list[str] = []
    for line in text.split("\n"):
        follows = spaced and spaced[-1].strip() and not spaced[-1].lstrip().startswith("* ")
        if line.lstrip().startswith("* ") and follows and _indent(line) == _indent(spaced[-1]):
            spaced.append("")  # a list begins a paragraph of its own
        spaced.append(line)
    return spaced


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _span(span: str) -> str:
    if "$$" in span:
        margin = " " * _indent(span)
        return f"{margin}.. math::\n\n{margin}   " + " ".join(span.strip(" $").split()) + "\n"
    if span.startswith("$"):
        return f":math:`{span[1:-1]}`"
    code = " ".join(span.strip("`").split())
    if code in dsrm_jax.__all__ and code != "__version__":
        return f":py:obj:`~dsrm_jax.{code}`"
    if code in pages():
        return f":py:obj:`{code} <{pages()[code]}>`"
    return f"``{code}``"


@cache
def pages() -> dict[str, str]:
    """Return the functions and classes of the rooms that have a page, by their name, and by their module's and their name.

    Names that are of two things are left out, and names of one lower-case word, which may be an argument's.
    """
    found: dict[str, set[str]] = {}
    for name in (name for room in ROOMS for name in modules(room)):
        path = Path(dsrm_jax.__file__).parent.joinpath(*name.split(".")[1:]).with_suffix(".py")
        for node in ast.parse(path.read_text()).body if path.is_file() else []:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_" and ast.get_docstring(node):
                for said in (node.name, f"{name.split('.')[-1]}.{node.name}"):
                    found.setdefault(said, set()).add(f"{name}.{node.name}")
    return {said: min(named) for said, named in found.items() if len(named) == 1 and not re.fullmatch("[a-z]+", said)}


def _escape(text: str) -> str:
    text = text.replace("\\", "\\\\")
    text = re.sub(r"(?m)^(\s*)\*(?= )|([*|])", lambda found: found[0] if found[2] is None else "\\" + found[0], text)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)


@cache
def fields(cls: type) -> dict[str, tuple[str, str]]:
    """Return a class's annotated fields: name to type and what its docstring or comment says."""
    source = textwrap.dedent(inspect.getsource(cls))
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    lines = source.splitlines()
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        said = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            said = inspect.cleandoc(str(following.value.value))
        else:
            above, line = [], node.lineno - 1
            while line in comments and lines[line - 1].lstrip().startswith("#"):
                above.insert(0, comments[line])
                line -= 1
            after = [comments[n] for n in range(node.lineno, (node.end_lineno or node.lineno) + 1) if n in comments]
            said = " ".join([*above, *after])
        found[node.target.id] = (ast.unparse(node.annotation), said)
    return found


def _is_record(obj: Any) -> bool:
    return inspect.isclass(obj) and (dataclasses.is_dataclass(obj) or hasattr(obj, "_fields"))


def process_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if what in {"class", "exception"} and _is_record(obj):
        # the text that dataclasses write themselves says nothing that the fields do not
        said = [] if lines and lines[0].startswith(f"{obj.__name__}(") else list(lines)
        explained = any(line.strip() == "Attributes:" for line in said)
        lines[:] = to_rst(said)
        own = fields(obj) if not explained else {}
        if own:
            lines += ["", "Attributes:"]
            for field, (kind, text) in own.items():
                body = to_rst(f"``{kind}``. {text}".split("\n"))
                lines += [f"    {field}: {body[0]}", *(f"        {line}" for line in body[1:])]
        lines.append("")
        return
    lines[:] = to_rst(lines)


def process_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Call JAX's array by the name that people know it by."""
    short = [text and re.sub(r"\b(?:jax\.)?jaxlib\._jax\.Array\b", "Array", text) for text in (signature, returned)]
    return short[0], short[1]


def skip_member(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    if name in {"replace", "from_bytes", "as_integer_ratio"}:
        return True
    if type(obj).__name__ in {"_tuplegetter", "member_descriptor"}:
        return True  # fields of records are told in their class
    return None


def write_pages(app: Sphinx) -> None:
    """Write a page for every module of the rooms, and one that lists them."""
    folder = Path(app.srcdir) / PAGES
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {}
    for room in ROOMS:
        about = inspect.getdoc(import_module(f"dsrm_jax.{room}")) or ""
        entries = "\n".join(modules(room))
        wanted[f"{room}.md"] = f"# `dsrm_jax.{room}`\n\n{about}\n\n```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n"
        for name in modules(room):
            directive = f".. automodule:: {name}\n   :members:\n   :ignore-module-all:\n   :show-inheritance:"
            wanted[f"{name}.md"] = f"# `{name}`\n\n```{{eval-rst}}\n{directive}\n```\n"
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", process_docstring, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", process_signature)
    app.connect("autodoc-skip-member", skip_member)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
