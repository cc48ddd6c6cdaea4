"""A :class:`~tokenreduce.lab.result.Picture` as a PNG: the original beside what is left of it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ..lab.result import Picture
from .canvas import INK, PAPER, SOFT, look, new_figure
from .fonts import families
from .formatting import mark, one_line, wrap_text
from .patch_view import GREY, decode, draw_patches
from .regions import PALETTE, Regions, regions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL, GAP, LINE = 331.0, 22.0, 20.0  # points: width of each of the two pictures, between them, of a line of text
DPI = 160


def draw(picture: Picture) -> bytes:
    """PNG of the question, the original, the reduced view, a legend, and the answers before and after.

    Raises:
        OptionError: the picture's image is not a PNG in base64, or it has not one owner per patch.
        PluginError: matplotlib is not installed.
    """
    pixels = decode(picture)
    found = regions(picture.grid, picture.owner)
    heading = wrap_text(picture.text, 76, 3)
    tall = min(max(PANEL * pixels.shape[0] / pixels.shape[1], 115), 650)
    top, bottom = 30 + LINE * len(heading), 90 if picture.expected else 68
    with look():
        figure = new_figure(2 * PANEL + 3 * GAP, top + tall + bottom)
        width, height = 72 * figure.get_size_inches()
        words = "".join((picture.text, picture.expected, picture.before, picture.after, picture.row))
        text = _Text(figure, families(one_line(words)))
        for place, line in enumerate(heading):
            text.write(GAP, height - 24 - LINE * place, line, size=14, weight="bold")
        for place in range(2):
            left = GAP + place * (PANEL + GAP)
            axes = figure.add_axes((left / width, bottom / height, PANEL / width, tall / height))
            axes.imshow(pixels, extent=(0, picture.grid[1], picture.grid[0], 0), interpolation="nearest", aspect="auto")
            axes.set_axis_off()
        draw_patches(axes, picture, found, PANEL)
        _answers(text, picture, bottom - LINE)
        _legend(text, picture, found, bottom - LINE)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


class _Text:
    """Writes on a figure at places in points from the bottom left."""

    def __init__(self, figure: Figure, fonts: list[str]) -> None:
        self.figure, self.fonts = figure, fonts

    def write(self, x: float, y: float, words: str, size: float, weight: str = "normal", colour: str = INK) -> float:
        """Returns where the words end."""
        style: dict[str, Any] = {"fontsize": size, "fontweight": weight, "fontfamily": self.fonts, "color": colour}
        made = self.figure.text(*self.share(x, y), words, va="baseline", **style)
        return float(made.get_window_extent().x1 * 72 / self.figure.dpi)

    def share(self, x: float, y: float) -> tuple[float, float]:
        """Points as shares of the figure."""
        width, height = 72 * self.figure.get_size_inches()
        return x / width, y / height


def _answers(text: _Text, picture: Picture, y: float) -> None:
    """The right answer, and the model's before and after."""
    rows = [("right answer", picture.expected)] if picture.expected else []
    rows += [("before", picture.before), ("after", picture.after)]
    for place, (name, answer) in enumerate(rows):
        said = one_line(answer, 28) or "(no words)"
        judged = mark(answer, picture.expected) if name != "right answer" else ""
        text.write(GAP, y - LINE * place, name, size=10.5, colour=SOFT)
        weight = "normal" if name == "right answer" else "bold"
        text.write(GAP + 76, y - LINE * place, said + f" ({judged})" * bool(judged), size=11.5, weight=weight)


def _legend(text: _Text, picture: Picture, found: Regions, y: float) -> None:
    """What the patches' looks mean, with their counts."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    x = 2 * GAP + PANEL
    text.write(
        x, y, f"{one_line(picture.row, 24)}: {found.left} tokens of {found.patches} patches", size=11, weight="bold"
    )
    looks: list[dict[str, Any]] = [
        {"facecolor": PAPER, "edgecolor": INK, "linewidth": 0.8},
        {"facecolor": to_rgba(PALETTE[1], 0.35), "edgecolor": PALETTE[1], "linewidth": 2},
        {"facecolor": GREY, "edgecolor": SOFT, "linewidth": 0.4, "hatch": "//"},
    ]
    for words, how in zip(found.counts(), looks, strict=True):
        box = Rectangle(text.share(x, y - LINE - 3), *text.share(12, 12), transform=text.figure.transFigure, **how)
        text.figure.add_artist(box)
        x = text.write(x + 18, y - LINE, words, size=10.5) + 16
