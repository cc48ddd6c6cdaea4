"""Which place each token that is left takes. Axes: U units (or samples), n tokens before, K tokens after."""

from __future__ import annotations

import torch
from torch import Tensor

from .reduction import Reduction


def kept_columns(columns: Tensor, reduction: Reduction, ordered: bool = True) -> Tensor:
    """(U, K) column of each token that is left: its own, a new one's that of the last of its members.

    A new token without members takes the first column that no other does; there is one of them in a unit at most.

    Args:
        ordered: otherwise the same columns are dealt out anew: new tokens come last, one without members first.
    """
    if not reduction.fresh:
        return columns.gather(1, reduction.keep)
    length, end, new = columns.shape[1], reduction.assignment(), reduction.keep < 0
    place = torch.arange(1, length + 1, device=columns.device).expand_as(end)
    last = torch.zeros_like(reduction.keep).scatter_reduce(1, end.clamp(min=0), place * (end >= 0), "amax")
    alone = new & (last == 0)
    index = torch.where(new, last - 1, reduction.keep)
    taken = ~alone if reduction.valid is None else ~alone & reduction.valid
    used = torch.zeros_like(columns[:, :1]).expand(-1, length + 1).scatter(1, torch.where(taken, index, length), 1)
    index = torch.where(alone, used[:, :length].argmin(dim=1, keepdim=True), index)
    kept = columns.gather(1, index)
    if ordered:
        return kept
    behind = columns[:, -1:] + 1
    if reduction.valid is not None:  # what only fills up stays where it is, at the end
        kept = torch.where(reduction.valid, kept, 3 * behind)
    slots = kept.sort(dim=1).values
    # new tokens among themselves as the method has them
    given = behind + torch.arange(kept.shape[1], device=kept.device)
    rank = torch.where(alone, -1, torch.where(new & (kept < behind), given, kept))
    dealt = torch.empty_like(kept).scatter(1, rank.argsort(dim=1, stable=True), slots)
    return torch.minimum(dealt, columns[:, -1:])
