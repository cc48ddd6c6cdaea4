"""Dominant and contextual tokens. Axes: B batch, n tokens, d key width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreduce.ops import cosines


@dataclass(frozen=True)
class Zipped:
    """What becomes of each token.

    Args:
        dominant: (B, n) bool, stays as it is.
        target: (B, n) bool, others are added to it.
        member: (B, n) bool, is added to a target.
        likest: (B, n) index of the target that a member is added to.
    """

    dominant: Tensor
    target: Tensor
    member: Tensor
    likest: Tensor


@torch.no_grad()
def zipped(score: Tensor, keys: Tensor, dominant: Tensor, contextual: Tensor, real: Tensor | None = None) -> Zipped:
    """Divide tokens into dominant ones, contextual targets at equal distances among the rest, and their members.

    Args:
        score: (B, n), the highest are dominant; of equal ones the earlier.
        keys: (B, n, d), by whose cosine a member goes to a target.
        dominant: (B,) how many.
        contextual: (B,) how many targets; with none, the rest is neither target nor member.
        real: (B, n) False for padding, which is nothing of all this.
    """
    there = torch.ones_like(score, dtype=torch.bool) if real is None else real
    rank = score.masked_fill(~there, float("-inf")).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    first = there & (rank < dominant[:, None])
    rest, wanted = there & ~first, contextual[:, None]
    place = rest.cumsum(dim=1) - 1
    step = (rest.sum(dim=1, keepdim=True) // wanted.clamp(min=1)).clamp(min=1)
    target = rest & (place % step == 0) & (place // step < wanted)
    likest = cosines(keys).masked_fill(~target[:, None], float("-inf")).argmax(dim=2)
    return Zipped(first, target, rest & ~target & (wanted > 0), likest)
