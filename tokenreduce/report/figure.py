"""A :class:`~tokenreduce.lab.result.Picture` as a PNG: the original beside what is left of it."""

from __future__ import annotations

import base64
import io
import textwrap
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import OptionError, PluginError
from ..lab.result import Picture
from .formatting import mark_answer, one_line
from .regions import PALETTE, Regions, colours, outline, regions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, GREY = "#1b1d22", "#5d626d", (0.64, 0.65, 0.68)
VEIL = 0.82  # of a patch that is gone, the share that is grey
TINT = 0.20  # of a merged patch, the share that is its group's colour
DPI = 160


def draw(picture: Picture) -> bytes:
    """PNG of the question, the original, the reduced view, a legend, and the answers before and after.

    Raises:
        OptionError: the picture's image is not a PNG in base64, or it has not one owner per patch.
        PluginError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PluginError(f"drawing needs matplotlib ({error}): pip install 'tokenreduce[lab]'") from error
    pixels = decode(picture)
    found = regions(picture.grid, picture.owner)
    height, width = pixels.shape[:2]
    panel = 4.6  # inches of width for each of the two pictures
    tall = min(max(panel * height / width, 1.6), 9.0)
    heading = textwrap.wrap(one_line(picture.text), 76, max_lines=3, placeholder=" …")
    top, bottom = 0.42 + 0.27 * len(heading), 1.25 if picture.expected else 0.95
    figure = Figure(figsize=(2 * panel + 0.9, tall + top + bottom), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    whole = figure.get_size_inches()
    for number, line in enumerate(heading):
        y = 1 - (0.34 + 0.27 * number) / whole[1]
        _write(figure, 0.3 / whole[0], y, line, size=14, weight="bold")
    share = panel / whole[0], tall / whole[1]
    for number in range(2):
        left = (0.3 + number * (panel + 0.3)) / whole[0]
        axes = figure.add_axes((left, bottom / whole[1], *share))
        axes.set_axis_off()
        if number == 0:
            axes.imshow(pixels, extent=_extent(picture), interpolation="nearest", aspect="auto")
        else:
            _reduced(axes, picture, found, pixels)
    _captions(figure, picture, found, bottom, panel)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font does not have
        figure.savefig(stream, format="png")
    return stream.getvalue()


def decode(picture: Picture) -> np.ndarray[Any, Any]:
    """The picture's image, (H, W, 3) in 0..1.

    Raises:
        OptionError: it is not a PNG in base64, or there is not one owner per patch.
    """
    from PIL import Image

    rows, columns = picture.grid
    if rows * columns < 1 or len(picture.owner) != rows * columns:
        raise OptionError(f"{rows} x {columns} patches need as many owners, got {len(picture.owner)}")
    try:
        with Image.open(io.BytesIO(base64.b64decode(picture.image, validate=True)), formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    except Exception as error:  # Pillow raises many kinds
        raise OptionError(f"a picture's image must be a PNG in base64: {error}") from error


def _extent(picture: Picture) -> tuple[float, float, float, float]:
    """In patches, y down."""
    rows, columns = picture.grid
    return 0, columns, rows, 0


def _reduced(axes: Axes, picture: Picture, found: Regions, pixels: np.ndarray[Any, Any]) -> None:
    """What is left: patches gone under a grey veil, groups tinted and outlined, the others with a thin line."""
    from matplotlib.collections import LineCollection

    extent, (rows, columns) = _extent(picture), picture.grid
    axes.imshow(pixels, extent=extent, interpolation="nearest", aspect="auto")
    over = np.zeros((rows, columns, 4))
    for cell in found.gone:
        over[cell] = (*GREY, VEIL)
    numbers = colours(found.merged)
    for cells, number in zip(found.merged, numbers, strict=True):
        for cell in cells:
            over[cell] = (*_rgb(PALETTE[number]), TINT)
    axes.imshow(over, extent=extent, interpolation="nearest", aspect="auto")
    unit = 4.6 * 72 / columns  # points of a patch
    thin, thick = min(0.8, 0.03 * unit), min(2.4, 0.11 * unit)

    def lines(pieces: list[tuple[float, float, float, float]], colour: Any, width: float, alpha: float = 1) -> None:
        ends = [((x0, y0), (x1, y1)) for x0, y0, x1, y1 in pieces]
        axes.add_collection(
            LineCollection(ends, colors=[colour], linewidths=width, alpha=alpha, capstyle="projecting"), autolim=False
        )

    strokes = [(column + 0.3, row + 0.7, column + 0.7, row + 0.3) for row, column in found.gone]
    lines(strokes, SOFT, max(0.5, thin), 0.55)
    single = [piece for cell in found.kept for piece in outline([cell], 0.04)]
    lines(single, "black", 2.6 * thin, 0.45)
    lines(single, "white", 1.2 * thin, 0.9)
    inset = 0.75 * thick / unit
    borders = [(outline(cells, inset), number) for cells, number in zip(found.merged, numbers, strict=True)]
    lines([piece for pieces, _ in borders for piece in pieces], "#101114", 1.6 * thick)
    for pieces, number in borders:
        lines(pieces, PALETTE[number], thick)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)


def _captions(figure: Figure, picture: Picture, found: Regions, bottom: float, panel: float) -> None:
    """Below the pictures: the answers on the left, the legend on the right."""
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches()

    def line(number: float) -> float:
        return float((bottom - 0.3 - 0.3 * number) / height)

    left, right = 0.3 / width, (0.6 + panel) / width
    rows = [
        ("before", *mark_answer(picture.before, picture.expected)),
        ("after", *mark_answer(picture.after, picture.expected)),
    ]
    if picture.expected:
        rows.insert(0, ("right answer", picture.expected, ""))
    for number, (name, answer, mark) in enumerate(rows):
        _write(figure, left, line(number), name, size=10.5, colour=SOFT)
        said = one_line(answer, 28) or "(no words)"
        _write(figure, left + 1.05 / width, line(number), said + mark, size=11.5, weight="bold" if number else "normal")
    patches = picture.grid[0] * picture.grid[1]
    title = f"{one_line(picture.row, 22)}: {found.left} tokens of {patches} patches"
    _write(figure, right, line(0), title, size=11, weight="bold")
    looks: list[dict[str, Any]] = [
        {"facecolor": "white", "edgecolor": INK, "linewidth": 0.8},
        {"facecolor": (*_rgb(PALETTE[1]), 0.35), "edgecolor": PALETTE[1], "linewidth": 2},
        {"facecolor": GREY, "edgecolor": SOFT, "linewidth": 0.4, "hatch": "//"},
    ]
    at = right
    for text, look in zip(found.counts(), looks, strict=True):
        y = line(1.0) - 0.06 / height
        figure.add_artist(Rectangle((at, y), 0.17 / width, 0.17 / height, transform=figure.transFigure, **look))
        _write(figure, at + 0.26 / width, line(1.0), text, size=10.5)
        at += (0.55 + 0.085 * len(text)) / width


def _write(
    figure: Figure, x: float, y: float, text: str, size: float, weight: str = "normal", colour: str = INK
) -> None:
    """Text as it is: a ``$`` is a ``$``."""
    figure.text(x, y, text, fontsize=size, fontweight=weight, color=colour, parse_math=False, va="baseline")


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue
