"""Names beside the points of a picture, each where it lies on nothing."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

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
