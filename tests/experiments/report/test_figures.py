"""The report's pictures: no text lies on another, the Pareto picture shows every yardstick, numbers lie beside each."""

import csv
import itertools
from collections.abc import Iterator

import pytest

from dsrm_jax.cli.pictures import look_of
from experiments.probes.figures import controls_figure
from experiments.report import figures, paper

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure
from matplotlib.text import Text

DRAWN = (
    *(figures.waterfall_figure, figures.figure2, figures.figure3, figures.figure6, figures.figure7),
    *(figures.pareto, figures.closed_form),
)


def collisions(figure: Figure) -> list[tuple[str, str]]:
    """Return the pairs of texts, tick labels too, whose boxes overlap by more than a pixel."""
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure) if text.get_text().strip()]
    return [
        (name, other)
        for (name, one), (other, two) in itertools.combinations(boxes, 2)
        if min(one.x1, two.x1) - max(one.x0, two.x0) > 1 and min(one.y1, two.y1) - max(one.y0, two.y0) > 1
    ]


def texts(figure: Figure) -> Iterator[Text]:
    """Yield what is drawn: of tick labels, those within their axis."""
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    yield from (text for legend in legends if legend is not None for text in legend.get_texts())
    yield from figure.texts
    for axes in figure.axes:
        yield from (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts)
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            yield from (tick.label1 for tick in ticks if tick.label1.get_visible() and low <= tick.get_loc() <= high)


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_no_text_of_a_picture_lies_on_another(findings, draw):
    assert collisions(draw(findings)) == []


def test_the_pareto_picture_has_every_method_and_yardstick_in_its_colour(findings):
    figure = figures.pareto(findings)
    for axes, env in zip(figure.axes, findings.environments, strict=True):
        bars = {bar.get_label(): bar.lines[0].get_color() for bar in axes.containers}
        wanted = [*paper.METHODS, *paper.YARDSTICKS]
        assert bars == {paper.method_name(m): look_of(m)[0] for m in wanted}
        assert {text.get_text() for text in axes.texts} - {""} == set(bars)
        at = {bar.get_label(): bar.lines[0].get_xydata()[0].tolist() for bar in axes.containers}
        for method in wanted:
            result = findings.row(env, 30, method)["result"]
            assert at[paper.method_name(method)] == [result["slate_ad"]["mean"], result["return"]["mean"]]


def test_every_picture_has_its_numbers_beside_it(findings, tmp_path):
    drawn = figures.draw_all(findings, tmp_path)
    assert (
        {path.stem for path in tmp_path.glob("*.png")} == {path.stem for path in tmp_path.glob("*.csv")} == set(drawn)
    )
    with open(tmp_path / "pareto.csv") as file:
        rows = {(row["panel"], row["series"]): row for row in csv.DictReader(file) if row["x_half"]}
    result = findings.row("kuairand", 30, "bcq")["result"]
    row = rows["KuaiRand-Pure, Max Len 30", "BCQ"]
    assert (float(row["x"]), float(row["y"])) == (result["slate_ad"]["mean"], result["return"]["mean"])
    assert float(row["y_half"]) == pytest.approx((result["return"]["high"] - result["return"]["low"]) / 2)


def test_the_controls_of_the_probes_are_named_apart(tmp_path, monkeypatch):
    names = ["identity", "purifier", *(f"a control that does {i}" for i in range(9))]
    states = {
        name: {"explained_share": 0.2 + 0.01 * (i % 3), "interest_auc": {"mean": m, "low": m - 0.01, "high": m + 0.01}}
        for i, name in enumerate(names)
        for m in [0.6 + 0.004 * i]
    }
    report = {"states": states, "start_sweep": [], "source": "made up", "purifier": "guided", "users": 100}
    seen = []
    monkeypatch.setattr("experiments.probes.figures.write_picture", lambda figure, path: seen.append(figure))
    controls_figure(tmp_path / "controls.png", report)
    assert collisions(seen[0]) == []
