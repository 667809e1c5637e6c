"""A Mermaid flow chart from left to right (docs/ARCHITECTURE.md) as an SVG of the page: names in rows, arrows as curves."""

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ARROW = re.compile(r"(\w+)(?:\[([^\]]+)\])? --> (\w+)")
WIDTH, HEIGHT, ACROSS, DOWN = 84, 26, 110, 56


def draw(chart: str) -> str:
    """Return the SVG; a name stands one column right of the last that points to it."""
    names: dict[str, str] = {}
    arrows = []
    for a, label, b in ARROW.findall(chart):
        names[a] = label or names.get(a, a)
        names.setdefault(b, b)
        arrows.append((a, b))
    column = dict.fromkeys(names, 0)
    for _ in names:
        for a, b in arrows:
            column[b] = max(column[b], column[a] + 1)
    rows = {name: [n for n in names if column[n] == column[name]].index(name) for name in names}
    # columns run down the page, so that a telephone shows them at their size
    place = {name: (rows[name] * ACROSS, column[name] * DOWN) for name in names}
    width = max(x for x, _ in place.values()) + WIDTH
    height = max(y for _, y in place.values()) + HEIGHT
    parts = [
        f'<svg class="flowchart" viewBox="-2 -2 {width + 4} {height + 4}" role="img" '
        f'aria-label="arrows: {"; ".join(f"{names[a]} to {names[b]}" for a, b in arrows)}">'
    ]
    for a, b in arrows:
        (x1, y1), (x2, y2) = place[a], place[b]
        x1, y1, x2 = x1 + WIDTH / 2, y1 + HEIGHT, x2 + WIDTH / 2
        bend = (y2 - y1) / 2
        parts.append(f'<path d="M{x1} {y1} C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2 - 4}"/>')
        parts.append(f'<path class="head" d="M{x2 - 4} {y2 - 7} L{x2 + 4} {y2 - 7} L{x2} {y2}Z"/>')
    for name, (x, y) in place.items():
        parts.append(f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="4"/>')
        parts.append(f'<text x="{x + WIDTH / 2}" y="{y + 17}">{names[name]}</text>')
    return "".join([*parts, "</svg>"])


class Mermaid(SphinxDirective):
    has_content = True

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", draw("\n".join(self.content)), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("mermaid", Mermaid)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
