"""Names of points lie on nothing."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.point_names import name_points

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.02, 0.5, 1.0]), st.floats(0, 1)), min_size=1, max_size=12))
def test_names_lie_on_no_name_no_point_and_no_edge(places):
    figure = Figure(figsize=(6, 5))
    axes = figure.subplots()
    axes.margins(0.15)
    for x, y in places:
        axes.errorbar(x, y, xerr=0.03, yerr=0.05, fmt="o", ms=6, color="black")
    name_points(axes, [(x, y, f"method {i}", "black") for i, (x, y) in enumerate(places)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == len(places)
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    inside = axes.get_window_extent()
    for box in boxes:
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1
        assert inside.y0 <= box.y0 < box.y1 <= inside.y1
        for x, y in axes.transData.transform(places):
            assert not (box.x0 < x < box.x1 and box.y0 < y < box.y1)
