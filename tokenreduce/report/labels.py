"""Names written into a chart so that they hide nothing: a greedy search over places around each point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

Point = tuple[float, float]


def write_names(
    figure: Figure,
    axes: Axes,
    wanted: Sequence[tuple[str, str, Sequence[Point]]],
    taken: Sequence[Point],
    clear: float = 5,
) -> list[Annotation | None]:
    """Write names beside points; one that would hide a marker or another name at every place is left out.

    Args:
        wanted: name, colour, and the points (x, y) that it may stand beside, the best first.
        taken: points whose markers are to be seen, with ``clear`` pixels around each.

    Returns:
        What was written for each name, None where there was no room.
    """
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # so that it is known where everything is
    room = axes.get_window_extent()
    boxes = [Bbox.from_extents(x, y, x, y).padded(clear) for x, y in axes.transData.transform(list(taken))]
    written: list[Annotation | None] = []
    for name, colour, points in wanted:
        found = None
        for point, offset, across, up in _places(points):
            look: dict[str, Any] = {"ha": across, "va": up, "color": colour, "weight": "bold"}
            made = axes.annotate(name, point, offset, textcoords="offset points", **look)
            made.set_in_layout(False)
            box = made.get_window_extent()
            inside = all(room.contains(*corner) for corner in (box.p0, box.p1))
            if inside and not box.count_overlaps(boxes):
                boxes.append(box)
                found = made
                break
            made.remove()
        written.append(found)
    return written


def _places(points: Sequence[Point]) -> Iterator[tuple[Point, Point, str, str]]:
    """Near first: right, left, above, below and the corners of every point, then the same farther away."""
    for far in (8, 16):
        for point in points:
            for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
                across = {1: "left", -1: "right", 0: "center"}[x]
                up = {1: "bottom", -1: "top", 0: "center"}[y]
                near = far * 0.6 if x and y else far
                yield point, (near * x, near * y), across, up
