"""Learning curves: what is plotted is what the rows say, and the file is a whole picture."""

import numpy as np
import pytest

from dsrm_jax.cli.figures import PANELS, draw_learning_curves, learning_curves, running_mean

matplotlib_image = pytest.importorskip("matplotlib.image")
pytestmark = pytest.mark.filterwarnings("error")


def make_rows(num_updates=12, num_seeds=3, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for update in range(num_updates):
        ended = rng.integers(0, 4, num_seeds) * (update > 1)  # nobody leaves in the first updates
        row = {name: rng.random(num_seeds).tolist() for name, *_ in PANELS}
        row["length"] = np.where(ended > 0, 10 + 10 * rng.random(num_seeds), 0.0).tolist()
        rows.append(row | {"step": 16 * (update + 1), "sessions": ended.tolist()})
    return rows


def expected_mean(rows, name, seed, update, smooth):
    """Running mean over updates; over sessions for their length."""
    window = rows[max(0, update - smooth + 1) : update + 1]
    weights = [row["sessions"][seed] if name == "length" else 1 for row in window]
    total = sum(w * row[name][seed] for w, row in zip(weights, window, strict=True))
    return total / sum(weights) if sum(weights) else np.nan


@pytest.mark.parametrize("smooth", [1, 5])
def test_each_line_is_a_seed_and_the_thick_one_their_mean(smooth):
    rows = make_rows()
    figure = draw_learning_curves(rows, title="some data", smooth=smooth)
    for axes, (name, *_) in zip(figure.axes, PANELS, strict=True):
        curves = np.array([[expected_mean(rows, name, s, u, smooth) for u in range(12)] for s in range(3)])
        *seeds, mean = axes.get_lines()
        assert mean.get_linewidth() > seeds[0].get_linewidth()
        for line, curve in zip([*seeds, mean], [*curves, curves.mean(axis=0)], strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [row["step"] for row in rows])
            np.testing.assert_allclose(line.get_ydata(), curve, rtol=1e-12)
        corners = np.concatenate([path.vertices[:, 1] for path in axes.collections[0].get_paths()])
        everywhere = curves[:, ~np.isnan(curves).any(axis=0)]
        assert (corners.min(), corners.max()) == pytest.approx((everywhere.min(), everywhere.max()))


def test_labels_name_data_metric_and_unit():
    title = "dsrm_hrl on " + "a data set with a very long name, " * 5
    figure = draw_learning_curves(make_rows(), title=title)
    heading = figure.get_suptitle().splitlines()
    assert " ".join(heading[:-1]) == title.strip()
    assert max(len(line) for line in heading) <= 90
    assert "training simulator" in heading[-1]
    for axes, (_, name, unit, _) in zip(figure.axes, PANELS, strict=True):
        assert (axes.get_title(), axes.get_ylabel()) == (name, unit)
        assert axes.get_xlabel() == "batched environment steps"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["range of the seeds", "one seed", "mean of 3 seeds"]


def test_one_seed_is_one_line():
    figure = draw_learning_curves(make_rows(num_seeds=1), title="data")
    assert all(len(axes.get_lines()) == 1 and not axes.collections for axes in figure.axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one seed"]


@pytest.mark.parametrize("num_updates", [1, 12])
def test_the_file_is_a_png_of_the_stated_size_with_its_numbers_beside_it(tmp_path, num_updates):
    path = tmp_path / "curves.png"
    learning_curves(path, make_rows(num_updates), title="some data")
    picture = matplotlib_image.imread(path)
    assert picture.shape == (715, 1100, 4)
    assert picture[..., :3].min() < 0.1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["curves.csv", "curves.png"]
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 * 4 * num_updates  # of four panels: three seeds and their mean


def test_texts_lie_inside_the_picture_and_apart(tmp_path):
    figure = draw_learning_curves(make_rows(), title="dsrm_hrl on " + "a long name, " * 12)
    figure.savefig(tmp_path / "a.png", dpi=figure.dpi)
    page = figure.bbox
    texts = [figure._suptitle, *(axes.title for axes in figure.axes)]
    boxes = [text.get_window_extent() for text in texts]
    assert all(page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_running_mean_ignores_what_has_no_weight():
    values, weight = np.array([[9.0], [2.0], [np.nan], [6.0]]), np.array([[0.0], [1.0], [0.0], [3.0]])
    np.testing.assert_allclose(running_mean(values, weight, 2)[:, 0], [np.nan, 2, 2, 6])
    np.testing.assert_allclose(running_mean(values, weight, 3)[:, 0], [np.nan, 2, 2, 5])
