"""From Markdown and pictures to one self-contained HTML page: no script, no other file, readable on a phone."""

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dsrm_jax.errors import InputError

if TYPE_CHECKING:
    from markdown_it.token import Token

STYLE = """
:root { color-scheme: light dark; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 1240px; font: 16px/1.5 system-ui, sans-serif;
  color: #1a1a1a; background: #fff; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
nav ul { columns: 16rem; padding-left: 1.2rem; }
.scroll { overflow-x: auto; max-width: 100%; margin: .8rem 0; border: 1px solid #ddd; border-radius: 4px; }
.scroll:focus { outline: 2px solid #36c; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #e5e5e5; vertical-align: top; }
td { white-space: nowrap; } .prose { min-width: 70rem; } .prose td { white-space: normal; }
.prose td:nth-child(5) { min-width: 12rem; }
th { background: #f4f4f4; text-align: left; } .r { text-align: right; } tbody tr:nth-child(even) { background: #fafafa; }
.picture { overflow-x: auto; } img { max-width: 100%; height: auto; background: #fff; }
code { background: #f2f2f2; padding: 0 .2em; overflow-wrap: anywhere; }
@media (max-width: 600px) { body { padding: .6rem; font-size: 15px; } h1 { font-size: 1.35rem; } }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #16181c; } th { background: #24272d; }
  th, td { border-color: #33373e; } tbody tr:nth-child(even) { background: #1b1e23; } .scroll { border-color: #33373e; }
  h2 { border-color: #444; } code { background: #24272d; } a { color: #8ab4f8; } }
"""
COLOURS, MOST_BYTES = 24, 20_000  # of one picture inside the page
PROSE_COLUMNS = "claim"  # a table whose second heading is this holds sentences


def page(markdown: str, folder: Path) -> str:
    """Return a whole HTML document.

    Args:
        markdown: the report; its first line is the title, its pictures are PNGs named relative to `folder`.
        folder: of the pictures.

    Raises:
        InputError: a picture is missing, or is none.
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    headings = _prepare(tokens, folder)
    body = parser.renderer.render(tokens, parser.options, {})
    body = body.replace(' style="text-align:left"', "").replace(' style="text-align:right"', ' class="r"')
    body = re.sub(r"\n(?=<(?:t[hdr]|/t|thead|tbody))", "", body)
    title, _, rest = body.partition("</h1>")
    links = "\n".join(f'<li><a href="#{name}">{html.escape(text)}</a></li>' for name, text in headings)
    listed = f"<details><summary>Contents</summary><ul>\n{links}\n</ul></details>"
    contents = f'<nav aria-label="Contents">{listed}</nav>' if headings else ""
    name = html.escape(re.sub(r"<[^>]+>", "", title).strip())
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{name}</title>\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{title}</h1>\n{contents}\n<main>{rest}</main>\n</body>\n</html>\n"
    )


def data_uri(path: Path) -> str:
    """Return a PNG as a data URI of few bytes: WebP without loss but of colours, smaller until it takes `MOST_BYTES` at most.

    Raises:
        InputError: it cannot be read, or is no PNG.
    """
    from PIL import Image  # a dependency of matplotlib

    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the picture {path}: {error.strerror or error}") from error
    if not content.startswith(b"\x89PNG"):
        raise InputError(f"{path} is no PNG picture")
    whole = Image.open(io.BytesIO(content)).convert("RGB")
    scale, small = 1.0, b""
    while not small or len(small) > MOST_BYTES:
        size = (max(round(whole.width * scale), 1), max(round(whole.height * scale), 1))
        picture = whole if scale == 1 else whole.resize(size, Image.Resampling.LANCZOS)
        drawn = io.BytesIO()
        few = picture.quantize(COLOURS, dither=Image.Dither.NONE).convert("RGB")
        few.save(drawn, format="webp", lossless=True, quality=100, method=4)
        small, scale = drawn.getvalue(), 0.8 * scale
    return "data:image/webp;base64," + base64.b64encode(small).decode()


def _prepare(tokens: Sequence["Token"], folder: Path) -> list[tuple[str, str]]:
    """Put pictures into the tokens, boxes around tables, and names on the headings; return the second-level headings."""
    headings = []
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            text = tokens[i + 1].content
            name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
            token.attrSet("id", name)
            if token.tag == "h2":
                headings.append((name, text))
        elif token.type == "inline":
            for child in token.children or ():
                if child.type == "image":
                    child.attrSet("src", data_uri(folder / str(child.attrGet("src"))))
    _box_tables(tokens)
    return headings


def _box_tables(tokens: Sequence["Token"]) -> None:
    """Make the renderer put each table into a box of its own that scrolls sideways and can be reached by keyboard."""
    for i, token in enumerate(tokens):
        if token.type == "table_open":
            heads = [
                tokens[j + 1].content for j in range(i, min(i + 12, len(tokens) - 1)) if tokens[j].type == "th_open"
            ]
            kind = " prose" if heads[1:2] == [PROSE_COLUMNS] else ""
            token.type, token.tag = "html_block", ""
            token.content = (
                f'<div class="scroll" tabindex="0" role="region" aria-label="table"><table class="numbers{kind}">\n'
            )
        elif token.type == "table_close":
            token.type, token.tag, token.content = "html_block", "", "</table></div>\n"
