"""Positions of three axes of a prompt with fewer image tokens, before it is known which of them are left.

Axes: N tokens of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def positions_of(length: int, images: Sequence[tuple[int, int, Sequence[int]]]) -> tuple[Tensor, int]:
    """(3, N) positions, and what is to be added to a new token's place for its position.

    Text goes on behind an image as behind all of its tokens, whichever are left; those that are left stand at the first
    places of its grid until they are told otherwise.

    Args:
        length: N.
        images: of each where it begins, how many tokens of it are left, and its frames, rows and columns.
    """
    parts, begin, following = [], 0, 0
    for offset, left, grid in images:
        text = torch.arange(offset - begin) + following
        parts.append(text.expand(3, -1))
        following += offset - begin
        axes = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
        parts.append(torch.stack([axis.flatten()[:left] for axis in axes]) + following)
        begin, following = offset + left, following + max(grid)
    parts.append((torch.arange(length - begin) + following).expand(3, -1))
    return torch.cat(parts, dim=1), following + length - begin - length
