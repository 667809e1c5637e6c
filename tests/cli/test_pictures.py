"""Pictures keep what a figure shows."""

import numpy as np
import pytest

from dsrm_jax.cli.pictures import DPI, write_picture

pytest.importorskip("matplotlib")


def test_a_picture_has_the_figures_colours_and_size(tmp_path):
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from PIL import Image

    figure = Figure(figsize=(3, 1))
    colours = ["#1f77b4", "#ff7f0e", "#000000"]
    for i, colour in enumerate(colours):
        figure.add_artist(Rectangle((i / 3, 0), 1 / 3, 1, color=colour))
    write_picture(figure, tmp_path / "picture.png")
    picture = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"))
    assert picture.shape == (DPI, 3 * DPI, 3)
    for i, colour in enumerate(colours):
        middle = picture[DPI // 2, i * DPI + DPI // 2]
        assert "#" + "".join(f"{x:02x}" for x in middle) == colour
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
