"""Pictures keep what a figure shows, with its numbers; every method has its colour."""

import csv
import itertools

import numpy as np
import pytest

from dsrm_jax.agents.methods import METHODS
from dsrm_jax.cli.pictures import DPI, LOOKS, OTHER, look_of, write_picture

pytest.importorskip("matplotlib")
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

# what dichromats see of linear RGB, after Machado, Oliveira and Fernandes (2009), severity 1
SEEN = {
    "all": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour: str, seen) -> np.ndarray:
    """Return CIE L*a*b* of an sRGB colour as somebody sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(seen) @ linear, 0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    x, y, z = np.cbrt(np.array(to_xyz) @ linear / [0.95047, 1.0, 1.08883])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_every_method_has_a_look_that_people_who_lack_a_cone_can_tell_apart():
    assert list(LOOKS) == list(METHODS)  # a look each
    assert (LOOKS["dsrm_hrl"], LOOKS["fcpo"], LOOKS["oracle"]) == (("#d55e00", "o"), ("#000000", "s"), ("#997700", "*"))
    looks = [*LOOKS.values(), OTHER]
    assert len(set(looks)) == len(looks)
    for (name, (one, marker)), (other, (two, same)) in itertools.combinations([*LOOKS.items(), ("other", OTHER)], 2):
        if marker == same:
            for who, seen in SEEN.items():
                assert np.linalg.norm(lab(one, seen) - lab(two, seen)) > 8, (name, other, who)
    for name, (colour, _) in LOOKS.items():
        assert lab(colour, SEEN["all"])[0] < 90, name  # seen on white
    assert look_of("my_lab:agent") == OTHER


def test_a_picture_has_the_figures_colours_and_size(tmp_path):
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.csv", "picture.png"]


def test_the_numbers_of_a_picture_stand_beside_it(tmp_path):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.set(title="two\nlines", xlabel="steps", ylabel="Len")
    left.plot([1, 2], [3.5, 0.1], label="A2C")
    left.axhline(7.0, label="not data")
    right.errorbar([1.0, 2.0], [5.0, 6.0], xerr=[0.5, 0.25], yerr=[0.1, 0.2], fmt="o", label="TD3")
    right.scatter([8.0, 9.0], [10.0, 11.0])
    write_picture(figure, tmp_path / "a.png")
    with open(tmp_path / "a.csv") as file:
        header, *rows = csv.reader(file)
    assert header == ["panel", "series", "x_is", "y_is", "x", "y", "x_half", "y_half"]
    assert rows[:2] == [
        ["two lines", "A2C", "steps", "Len", "1.0", "3.5", "", ""],
        ["two lines", "A2C", "steps", "Len", "2.0", "0.1", "", ""],
    ]
    numbers = [[row[1], *(float(x) if x else None for x in row[4:])] for row in rows[2:]]
    assert numbers == [
        ["TD3", 1.0, 5.0, pytest.approx(0.5), pytest.approx(0.1)],
        ["TD3", 2.0, 6.0, pytest.approx(0.25), pytest.approx(0.2)],
        ["", 8.0, 10.0, None, None],
        ["", 9.0, 11.0, None, None],
    ]
