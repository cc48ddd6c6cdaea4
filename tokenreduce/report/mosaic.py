"""A picture that the model was given in several pieces, as one picture of all of them.

Axes: H and W pixels, n tokens of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UnsupportedCallError
from ..tasks.task import Tile
from .regions import BLANK

GAP = 1
"""Cells between two pieces."""


def mosaic(
    tiles: Sequence[Tile], grids: Sequence[tuple[int, int]], ends: Sequence[int]
) -> tuple[Tensor, tuple[int, int], list[int]]:
    """Every piece at its place, a cell between them: the picture (3, H, W) in 0..1, its grid, the owner of each cell.

    Args:
        tiles: the pieces, in the order of their tokens.
        grids: rows and columns of the tokens of each.
        ends: (n,) what each token is part of, -1 where it was dropped.

    Raises:
        UnsupportedCallError: the tokens are not those of the pieces.
    """
    if not tiles or len(tiles) != len(grids) or sum(rows * columns for rows, columns in grids) != len(ends):
        told = ", ".join(f"{rows} x {columns}" for rows, columns in grids) or "none"
        raise UnsupportedCallError(
            f"the first image has {len(ends)} tokens in grids of {told}, and is shown in {len(tiles) or 1} pieces, so "
            "no patch can be named; handle.last.trace.image(0) has them in the order of the prompt"
        )
    heights, widths = [0] * (1 + max(t.row for t in tiles)), [0] * (1 + max(t.column for t in tiles))
    for tile, (rows, columns) in zip(tiles, grids, strict=True):
        heights[tile.row], widths[tile.column] = max(heights[tile.row], rows), max(widths[tile.column], columns)
    tops = [sum(heights[:row]) + GAP * row for row in range(len(heights))]
    lefts = [sum(widths[:column]) + GAP * column for column in range(len(widths))]
    grid = tops[-1] + heights[-1], lefts[-1] + widths[-1]
    side = max(1, round(max(t.image.shape[1] / rows for t, (rows, _) in zip(tiles, grids, strict=True))))
    image, owner = torch.ones(3, grid[0] * side, grid[1] * side), [BLANK] * (grid[0] * grid[1])
    begin = 0
    for tile, (rows, columns) in zip(tiles, grids, strict=True):
        top, left = tops[tile.row], lefts[tile.column]
        size = rows * side, columns * side
        fitted = F.interpolate(tile.image[None].float(), size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)
        image[:, top * side : top * side + size[0], left * side : left * side + size[1]] = fitted
        for row in range(rows):
            first = (top + row) * grid[1] + left
            owner[first : first + columns] = ends[begin : begin + columns]
            begin += columns
    return image, grid, owner
