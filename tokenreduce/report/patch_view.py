"""What is left of a picture, drawn over it: one function for the PNG of ``show`` and for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import OptionError
from ..lab.result import Picture
from .canvas import SOFT
from .regions import PALETTE, Cell, Regions, Segment, colours, outline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY, DARK = "#a3a6ad", "#101114"
VEIL = 0.82  # of a patch that is gone, the share that is grey
TINT = 0.20  # of a merged patch, the share that is its group's colour


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


def draw_patches(axes: Axes, picture: Picture, found: Regions, width: float) -> None:
    """Patches that are gone under a grey veil, groups tinted and outlined, the others with a thin line.

    Args:
        axes: left with one unit for each patch, y down, and nothing else to be seen of it.
        width: of the axes in points, for the strength of the lines.
    """
    rows, columns = picture.grid
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.set_axis_off()
    unit = width / columns
    thin, thick = min(0.8, 0.03 * unit), min(2.4, 0.11 * unit)

    _fill(axes, found.gone, GREY, VEIL)
    strokes = [(column + 0.3, row + 0.7, column + 0.7, row + 0.3) for row, column in found.gone]
    _stroke(axes, strokes, SOFT, max(0.5, thin), 0.55)
    for colour, strength, alpha in (("#000000", 2.6 * thin, 0.45), ("#ffffff", 1.2 * thin, 0.9)):
        _add(axes, _squares(found.kept, 0.04), facecolor="none", edgecolor=colour, linewidth=strength, alpha=alpha)

    cells: dict[str, list[Cell]] = {}
    borders: dict[str, list[Segment]] = {}
    for members, number in zip(found.merged, colours(found.merged), strict=True):
        cells.setdefault(PALETTE[number], []).extend(members)
        borders.setdefault(PALETTE[number], []).extend(outline(members, 0.75 * thick / unit))
    for colour, of_colour in cells.items():
        _fill(axes, of_colour, colour, TINT)
    _stroke(axes, [piece for pieces in borders.values() for piece in pieces], DARK, 1.6 * thick)
    for colour, pieces in borders.items():
        _stroke(axes, pieces, colour, thick)


def _fill(axes: Axes, cells: Collection[Cell], colour: str, alpha: float) -> None:
    _add(axes, _squares(cells), facecolor=colour, edgecolor="none", alpha=alpha)


def _squares(cells: Collection[Cell], inset: float = 0) -> list[list[tuple[float, float]]]:
    low, high = inset, 1 - inset
    corners = ((low, low), (high, low), (high, high), (low, high), (low, low))
    return [[(column + x, row + y) for x, y in corners] for row, column in cells]


def _stroke(axes: Axes, pieces: Sequence[Segment], colour: str, width: float, alpha: float = 1) -> None:
    lines = [[(x0, y0), (x1, y1)] for x0, y0, x1, y1 in pieces]
    _add(axes, lines, facecolor="none", edgecolor=colour, linewidth=width, alpha=alpha, capstyle="projecting")


def _add(axes: Axes, lines: Sequence[Sequence[tuple[float, float]]], **how: Any) -> None:
    """Many lines as one path, so that a page holds one element for all of them."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    if lines:
        codes = [Path.LINETO if place else Path.MOVETO for line in lines for place in range(len(line))]
        path = Path([point for line in lines for point in line], codes)
        axes.add_artist(PathPatch(path, clip_on=False, **how))
