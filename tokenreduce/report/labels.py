"""Names written into a chart so that they hide nothing: a greedy search over places around each point."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

Point = tuple[float, float]
CLEAR = 5  # pixels around a marker
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))  # of a point, the best first
ACROSS, UP = {1: "left", -1: "right", 0: "center"}, {1: "bottom", -1: "top", 0: "center"}


def write_names(
    axes: Axes, wanted: Sequence[tuple[str, str, Sequence[Point]]], taken: Sequence[Point]
) -> list[Annotation | None]:
    """Write names beside points; one that would hide a marker or another name at every place is left out.

    Args:
        wanted: name, colour, and the points (x, y) that it may stand beside, the best first.
        taken: points whose markers are to be seen.

    Returns:
        What was written for each name, None where there was no room.
    """
    from matplotlib.transforms import Bbox

    axes.get_xlim(), axes.get_ylim()  # so that it is known where everything is
    room = axes.get_window_extent()
    markers = axes.transData.transform(np.reshape(taken, (-1, 2)))
    boxes = [Bbox.from_extents(x, y, x, y).padded(CLEAR) for x, y in markers]
    written: list[Annotation | None] = []
    for name, colour, points in wanted:
        made = axes.annotate(name, (0, 0), (0, 0), textcoords="offset points", color=colour, weight="bold")
        for far, point, (x, y) in product((8, 16), points, SIDES):
            near = far * 0.6 if x and y else far
            made.xy, made.xyann = point, (near * x, near * y)
            made.set(ha=ACROSS[x], va=UP[y])
            box = made.get_window_extent()
            if room.contains(*box.p0) and room.contains(*box.p1) and not box.count_overlaps(boxes):
                boxes.append(box)
                written.append(made)
                break
        else:
            made.remove()
            written.append(None)
    return written
