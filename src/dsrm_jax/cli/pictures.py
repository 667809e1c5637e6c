"""Figures as small PNG files."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from dsrm_jax.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
COLOURS = 256  # of one picture: a palette makes a file a third as large


def write_picture(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG with a palette, whole or not at all, into a folder that exists; raises as `files.write_bytes`."""
    from PIL import Image  # a dependency of matplotlib

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, format="png")
    small = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    png = io.BytesIO()
    small.save(png, format="png", optimize=True)
    write_bytes(path, png.getvalue())
