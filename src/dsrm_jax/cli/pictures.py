"""Figures as small PNG files with their numbers beside them; one colour a method in all of them, names that lie on nothing."""

import csv
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dsrm_jax.agents.methods import METHODS
from dsrm_jax.files import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

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

DISTANCES = (
    5.0,
    10.0,
    16.0,
    23.0,
    31.0,
    40.0,
    50.0,
    61.0,
    73.0,
    86.0,
    100.0,
    130.0,
)  # points from a point to its name, the nearest place that is free
DIRECTIONS = 16
MARKER = 6.0  # pixels from the middle of a point to its edge
INK = "#222222"
FAR = 12.0  # points from which on a line leads from a name to its point


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


def name_points(axes: "Axes", points: Sequence[tuple[float, float, str, str]], size: float = 7.5) -> None:
    """Write names beside points `(x, y, name, colour)`, each where it lies on no name, point, line, error bar or edge.

    Call it last: what is drawn later can lie on the names. A line of the point's colour leads to a name that is far from it.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # decides where everything lies
    drawn = list(_drawn(axes))
    names: list[Bbox] = []
    inside, unit = axes.get_window_extent(), figure.dpi / 72
    for x, y, name, colour in sorted(points, key=lambda point: (point[1], point[0])):
        text = axes.annotate(name, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=size, color=INK)
        text.set(ha="center", va="center", in_layout=False)
        width, height = (side / unit for side in text.get_window_extent().size)
        at = axes.transData.transform((x, y))
        for distance, angle in ((d, 2 * math.pi * i / DIRECTIONS) for d in DISTANCES for i in range(DIRECTIONS)):
            dx = math.cos(angle) * (distance + width / 2)
            dy = math.sin(angle) * (distance + height / 2)
            box = _box(at[0] + dx * unit, at[1] + dy * unit, width * unit / 2 + 1, height * unit / 2 + 1)
            # the point of the name's edge that is nearest to the point named
            near = dx - math.copysign(min(abs(dx), width / 2), dx), dy - math.copysign(min(abs(dy), height / 2), dy)
            path = list(_along(at, at + np.array(near) * unit)) if distance > FAR else []
            within = inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1
            free = not any(box.overlaps(other) for other in (*drawn, *names))
            if within and free and not any(step.overlaps(other) for step in path for other in names):
                break
        names.append(box)
        drawn += path
        text.set_position((dx, dy))
        if path:
            line = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 3}
            lead = axes.annotate("", (x, y), xytext=near, textcoords="offset points", arrowprops=line)
            lead.set(in_layout=False, zorder=1)


def _drawn(axes: "Axes") -> "Iterator[Bbox]":
    """Yield small boxes along everything that is drawn in the data's coordinates, and that of the legend."""
    legend = axes.get_legend()
    if legend is not None:
        yield legend.get_window_extent()
    paths = [np.asarray(line.get_xydata()) for line in axes.lines if line.get_transform() == axes.transData]
    for cloud in axes.collections:
        get = getattr(cloud, "get_segments", None)
        paths += (
            map(np.asarray, get())
            if get
            else np.split(np.asarray(cloud.get_offsets()), len(np.asarray(cloud.get_offsets())))
        )
    for path in paths:
        places = axes.transData.transform(path)
        for at in places:
            yield _box(at[0], at[1], MARKER, MARKER)
        for first, last in itertools.pairwise(places):
            yield from _along(first, last)


def _along(first: np.ndarray, last: np.ndarray) -> "Iterator[Bbox]":
    """Yield small boxes along a straight line, without its ends."""
    count = math.ceil(np.max(np.abs(last - first)) / MARKER)
    for i in range(1, count):
        at = first + (last - first) * i / count
        yield _box(at[0], at[1], MARKER / 2, MARKER / 2)


def _box(x: float, y: float, half_width: float, half_height: float) -> "Bbox":
    from matplotlib.transforms import Bbox

    return Bbox([[x - half_width, y - half_height], [x + half_width, y + half_height]])
