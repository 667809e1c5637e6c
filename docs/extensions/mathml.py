"""Formulas as MathML, which every browser of today draws by itself: no script, no fonts, no other host."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

TAG = re.compile(r"\\tag\{(.*?)\}")


def inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def display(writer: Any, node: nodes.math_block) -> None:
    anchor = f' id="{node["ids"][0]}"' if node["ids"] else ""
    latex, tag = TAG.sub("", node.astext()), TAG.search(node.astext())
    number = f'<span class="eqno">({tag[1]})</span>' if tag else ""
    formula = convert(latex, display="block")
    writer.body.append(f'<div class="math"{anchor}><div class="formula">{formula}</div>{number}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
