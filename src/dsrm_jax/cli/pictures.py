"""Figures as small PNG files with their numbers beside them; one colour a method in all of them."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dsrm_jax.agents.methods import METHODS
from dsrm_jax.files import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure

DPI = 110
PALETTE = 256  # colours of one picture: a palette makes a file a third as large

# Colour and marker of each method, in the order of the table of methods, wherever it is drawn. Two of one marker are told apart
# by people who see no red, no green or no blue as well: a test measures it. Colours after Okabe and Ito and Paul Tol.
LEARNERS = [
    (colour, "s") for colour in ("#88ccee", "#332288", "#117733", "#cc6677", "#ddcc77", "#44aa99", "#882255", "#000000")
]
ABLATIONS = [(colour, "^") for colour in ("#332288", "#117733", "#88ccee", "#ddcc77", "#882255")] + [("#1f5c53", "D")]
YARDSTICKS = [("#bbbbbb", "X"), ("#777777", "X"), ("#777777", "P"), ("#000000", "P"), ("#997700", "*")]
LOOKS = dict(zip(METHODS, [("#d55e00", "o"), *LEARNERS, *ABLATIONS, *YARDSTICKS], strict=False))
OTHER = ("#0072b2", "h")  # of methods from outside the package
GREY, FLAW = "#999999", "#cc3311"  # of lines to compare with, and of what is wrong


def look_of(method: str) -> tuple[str, str]:
    """Return a method's colour and marker."""
    return LOOKS.get(method, OTHER)


def write_picture(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG with a palette, and the numbers drawn in it as a CSV file beside it, each whole or not at all.

    The folder exists; raises as `files.write_bytes`.
    """
    from PIL import Image  # a dependency of matplotlib

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, format="png")
    small = Image.open(drawn).convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE)
    png = io.BytesIO()
    small.save(png, format="png", optimize=True)
    write_bytes(path, png.getvalue())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("panel", "series", "x_is", "y_is", "x", "y", "x_half", "y_half"))
    writer.writerows(numbers_of(figure))
    write_text(path.with_suffix(".csv"), text.getvalue())


def numbers_of(figure: "Figure") -> Iterator[tuple[object, ...]]:
    """Yield every number drawn: panel, series, what x and y are, x, y, and half the length of its error bars where it has any."""
    from matplotlib.container import ErrorbarContainer

    for axes in figure.axes:
        panel = " ".join(axes.get_title().split())
        kinds = axes.get_xlabel(), axes.get_ylabel()
        of_bars = {bar.lines[0]: bar for bar in axes.containers if isinstance(bar, ErrorbarContainer)}
        caps = {cap for bar in of_bars.values() for cap in bar.lines[1]}
        for line in axes.lines:
            if line in caps or line.get_transform() != axes.transData:
                continue
            bar = of_bars.get(line)
            label, places = str((bar or line).get_label()), np.asarray(line.get_xydata())
            halves = _halves(bar, len(places)) if bar else [("", "")] * len(places)
            for (x, y), half in zip(places.tolist(), halves, strict=True):
                yield panel, "" if label.startswith("_") else label, *kinds, x, y, *half
        for cloud in axes.collections:
            offsets = np.asarray(cloud.get_offsets())
            for x, y in offsets.tolist() if len(offsets) > 1 else ():
                yield panel, "", *kinds, x, y, "", ""


def _halves(bar: "ErrorbarContainer", count: int) -> list[tuple[object, object]]:
    """Return half the length of the bars along x and y of each point of an error bar plot."""
    lines = list(bar.lines[2])
    found: list[list[object]] = []
    for has, axis in ((bar.has_xerr, 0), (bar.has_yerr, 1)):
        segments = lines.pop(0).get_segments() if has else []
        found.append([float(s[1][axis] - s[0][axis]) / 2 for s in segments] if len(segments) == count else [""] * count)
    return list(zip(*found, strict=True))
