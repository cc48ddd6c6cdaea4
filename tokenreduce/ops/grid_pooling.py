"""Cells of a grid of patches, as many as asked for. Axes: h and w rows and columns of patches, k cells."""

from __future__ import annotations

import math

from ..errors import OptionError


def grid_cells(rows: int, columns: int, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cut a grid into exactly ``count`` rectangles, about as high as wide.

    Bands of rows, each cut into columns; where the number does not come out even, bands have one cell more or less.
    A number that is a grid of whole cells gives that grid: 64 of 24 x 24 are cells of 3 x 3.

    Args:
        rows, columns: h and w.
        count: k, from 1 to h * w.

    Raises:
        OptionError: another number.

    Returns:
        The cell of each patch (h * w) in raster order, cells counted in raster order; and the patch in the middle of
        each cell (k).
    """
    if not 1 <= count <= rows * columns:
        raise OptionError(f"a grid of {rows} x {columns} has 1 to {rows * columns} cells, got {count}")
    bands = round(math.sqrt(count * rows / columns))
    bands = min(max(bands, math.ceil(count / columns)), rows, count)
    edges = [band * rows // bands for band in range(bands + 1)]
    shares = [band * count // bands for band in range(bands + 1)]
    cells, middles = [0] * (rows * columns), [0] * count
    for band in range(bands):
        first, each = shares[band], shares[band + 1] - shares[band]
        sides = [part * columns // each for part in range(each + 1)]
        middle = (edges[band] + edges[band + 1] - 1) // 2
        for part in range(each):
            middles[first + part] = middle * columns + (sides[part] + sides[part + 1] - 1) // 2
            for row in range(edges[band], edges[band + 1]):
                for column in range(sides[part], sides[part + 1]):
                    cells[row * columns + column] = first + part
    return tuple(cells), tuple(middles)
