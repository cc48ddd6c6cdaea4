"""Averages over cells of the image's grid. Axes: B batch, N tokens, n of them not protected, K cells."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tokenreduce.methods import Reducer, Reduction, Site, Stream, Streams
from tokenreduce.ops import grid_cells


class Pooling(Reducer):
    """Cut the image into as many cells as tokens are to stay, and put the mean of each cell in place of its tokens.

    Cells are rectangles of patches, about as high as wide: 64 of 24 x 24 patches are cells of 3 x 3. Where the budget
    is no grid of whole cells some cells are a row or a column larger, so that exactly the budget stays. A cell stands
    where the patch in its middle stood. Tokens weigh by their size.

    The grid is known at the hand-over of a language model, and taken to be square in an encoder whose number of patches
    is a square. Elsewhere (padding, other pictures, tokens that were reduced before) stretches of neighbours in the
    order of the sequence are averaged.

    Args:
        keep: share of the removable tokens that stay at each site (float, rounded up) or their number (int), or a list;
            or a rule (``tokenreduce.Budget.energy(0.95, cap=64)``), by which each sample keeps a number of its own.
        remove: number (int) or share (float, rounded) that go at each site, a list, or ``(r, inflection)``.
    """

    by_sample = True

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        tokens, budget = stream.tokens, self.budget
        if self.removes_nothing(site, tokens):
            return {}
        if budget.rule is None and not tokens.ragged:
            remove = self.count(budget, site, tokens)
            if remove <= 0:
                return {}
            alike = (
                stream.grids is None and tokens.real is None
            )  # one row does for every sample, however many there are
            counts = [tokens.removable - remove] * (1 if alike else len(tokens.x))
        else:
            found = self.kept_counts(stream, site, torch.zeros_like(tokens.x[..., 0]))
            counts = found.clamp(min=1, max=budget.cap(site, tokens.removable)).tolist()  # the host waits
        return {streams.main: pooled(stream, counts)}


def pooled(stream: Stream, counts: Sequence[int]) -> Reduction:
    """The reduction of each sample to its number of cells; shorter samples are filled up.

    Args:
        counts: of each sample, or one of all.
    """
    tokens, prefix, device = stream.tokens, stream.tokens.prefix, stream.tokens.x.device
    made = by_rank(stream, counts) if tokens.real is not None else by_grid(stream, counts)
    cell, alone = (one.expand(tokens.x.shape[0], -1) for one in made)
    most = max(counts)
    place = torch.arange(tokens.count, device=device).expand(cell.shape[0], -1)
    own, others = place[:, :prefix], place[:, prefix:]
    order = torch.where(alone, cell, others + tokens.count).argsort(dim=1)  # what stands for a cell, then all else
    keep = torch.cat([own, order[:, :most] + prefix], dim=1)
    valid = None
    if len(set(counts)) > 1:  # how many fold differs: any may, and those that stay fold into nothing
        valid = place[:, : prefix + most] < prefix + torch.tensor(counts, device=device)[:, None]
        source, target = others, torch.where(alone, -1, cell)
    else:
        source, target = order[:, most:] + prefix, cell.gather(1, order[:, most:])
    size = tokens.sizes()
    return Reduction(
        keep,
        source,
        torch.where(target >= 0, target + prefix, -1),
        length=tokens.count,
        keep_weight=size.gather(1, keep),
        weight=size.gather(1, source),
        partial=tokens.real is not None or valid is not None,
        valid=valid,
    )


def by_grid(stream: Stream, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The cell (B, n) of each token in its image's grid; and whether it is the one in its middle."""
    tokens = stream.tokens
    grids = stream.grids or [None] * len(counts)
    usual = square(stream, tokens.removable) or (1, tokens.removable)
    return in_grids([(grid or usual, count) for grid, count in zip(grids, counts, strict=True)], tokens.x.device)


def by_rank(stream: Stream, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The same by equal stretches of the tokens that are no padding; padding is in no cell (-1), or fills up."""
    tokens = stream.tokens
    assert tokens.real is not None
    real = tokens.real[:, tokens.prefix :]
    wanted = torch.tensor(counts, device=real.device)[:, None]
    there = real.sum(dim=1, keepdim=True)
    rank = real.cumsum(dim=1) - 1
    share = torch.minimum(wanted, there)
    some = share.clamp(min=1)
    cell = ((rank + 1) * share - 1) // there.clamp(min=1)
    alone = rank == (cell * there // some + (cell + 1) * there // some - 1) // 2
    for length in range(tokens.removable + 1):
        grid = square(stream, length)
        if grid is not None:
            cut = in_grids([(grid, min(count, length)) for count in counts], real.device)
            cell, alone = (
                torch.where(there == length, values.gather(1, rank.clamp(0, length - 1)), mine)
                for values, mine in zip(cut, (cell, alone), strict=True)
            )
    filler = there + (~real).cumsum(dim=1) - 1
    cell = torch.where(real, cell, torch.where(filler < wanted, filler, -1))
    return cell, torch.where(real, alone, cell >= 0)


def square(stream: Stream, length: int) -> tuple[int, int] | None:
    """The sides of a square of so many patches; None where it is none, or tokens have gone already."""
    side = math.isqrt(length)
    return (side, side) if side > 1 and side * side == length and stream.initial == stream.tokens.count else None


def in_grids(wanted: Sequence[tuple[tuple[int, int], int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Cells and middles of grids of equal length, each cut into a number of cells: as :func:`by_grid` gives them."""
    made = {(grid, count): grid_cells(*grid, count) for grid, count in wanted}
    cut = [made[one] for one in wanted]
    cell = torch.tensor([cells for cells, _ in cut], device=device)
    alone = torch.zeros_like(cell, dtype=torch.bool)
    for row, (_, middles) in enumerate(cut):
        alone[row, list(middles)] = True
    return cell, alone
