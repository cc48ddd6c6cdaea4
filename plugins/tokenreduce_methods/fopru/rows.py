"""Whole rows of an image's grid. Axes: B batch, N tokens, n of them not protected."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokenreduce.errors import UnsupportedCallError
from tokenreduce.methods import Stream

Grid = tuple[int, int]


def grids_of(stream: Stream) -> list[Grid]:
    """Rows and columns of each sample's tokens: as they are known, else a square that nothing was taken from.

    Raises:
        UnsupportedCallError: the tokens of a sample form no grid.
    """
    tokens, grids = stream.tokens, stream.grids
    if grids is None:
        side = math.isqrt(tokens.removable)
        whole = tokens.real is None and stream.initial in (None, tokens.count)
        grids = [(side, side) if whole and side * side == tokens.removable else None] * len(tokens.x)
    found = [grid for grid in grids if grid is not None]
    if len(found) < len(grids) or tokens.real is not None:
        raise UnsupportedCallError(
            f"fopru with strategy='row' takes whole rows of an image's grid, and the {tokens.removable} tokens besides "
            "protected ones form none (padding, tokens that were dropped before, several images together); use "
            "strategy='rank', or unit='tile' where images are of several tiles"
        )
    return found


def by_row(score: Tensor, prefix: int, grids: list[Grid]) -> Tensor:
    """(B, N) the number of rows for each token of the best row of its grid, down to 1 for those of the last.

    Rows go by the sums of their scores (B, N), equal ones by the order of the grid; 0 for the ``prefix`` protected.
    """
    marked = torch.zeros_like(score)
    for rows, columns in dict.fromkeys(grids):
        index = [number for number, grid in enumerate(grids) if grid == (rows, columns)]
        sums = score[index, prefix:].reshape(-1, rows, columns).sum(dim=2)
        order = sums.argsort(dim=1, descending=True, stable=True)
        rank = torch.arange(rows, 0, -1, device=score.device, dtype=score.dtype).expand(order.shape)
        marked[index, prefix:] = torch.zeros_like(sums).scatter(1, order, rank).repeat_interleave(columns, dim=1)
    return marked
