"""Choosing tokens that differ from one another, one after the other. Axes: B batch, N tokens, C width, K chosen.

Each choice extends the one before it, so fewer tokens are always the first of more. Equal values go to the lower index,
and padding comes after every real token.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .._torch import traced
from .similarity import at_least_float

GONE = float("-inf")
RESIDUE = 1e-6  # share of a token's own weight below which rounding decides what is left of it


@torch.no_grad()
def cosines(x: Tensor) -> Tensor:
    """(B, N, N) cosines of tokens (B, N, C) with each other, in float32 or float64; 0 for a token that is zero.

    With itself a token's is exactly 1, so that rounding, which differs between batches, decides nothing among equals.
    """
    wide = at_least_float(x)
    unit = F.normalize(wide, dim=-1)
    cosine = unit @ unit.transpose(1, 2)
    own = torch.eye(cosine.shape[1], dtype=torch.bool, device=x.device)
    return torch.where(own, (wide != 0).any(dim=-1).to(cosine.dtype).unsqueeze(1), cosine)


@torch.no_grad()
def farthest(cosine: Tensor, keep: int, real: Tensor | None = None) -> Tensor:
    """Max-min diversity: each token is the one that is farthest from its nearest neighbour among those before it.

    The first is the one that is farthest from its nearest neighbour among all. The distance is 1 - cosine.

    Args:
        cosine: (B, N, N).
        keep: K, at most N.
        real: (B, N) False for padding.

    Returns:
        (B, K) indices in the order of choice.
    """
    distance = 1 - cosine
    infinity = distance.new_full((), float("inf"))
    own = torch.eye(distance.shape[1], dtype=torch.bool, device=distance.device)
    others = distance.masked_fill(own, infinity)
    if real is not None:
        others = others.masked_fill(~real[:, None], infinity)
    nearest = others.amin(dim=2)
    distance = distance.masked_fill(own, GONE)  # so a chosen token is never chosen again
    if real is not None:
        nearest = nearest.masked_fill(~real, -3)
        distance = torch.where(real[:, None] | own, distance, -3)
    chosen = []
    for step in range(keep):
        index = nearest.argmax(dim=1, keepdim=True)
        chosen.append(index)
        row = _row(distance, index)
        nearest = row if step == 0 else torch.minimum(nearest, row)
    return torch.cat(chosen, dim=1)


@torch.no_grad()
def dpp_greedy(kernel: Tensor, keep: int, real: Tensor | None = None) -> Tensor:
    """Greedy choice of the subset whose determinant in a kernel is largest (the mode of a determinantal point process).

    Where what is left of every token is rounding (the rank of the kernel is reached), tokens follow by their diagonal.

    Source: Chen et al., Fast Greedy MAP Inference for Determinantal Point Process, NeurIPS 2018, algorithm 1.

    Args:
        kernel: (B, N, N), symmetric and positive semidefinite.
        keep: K, at most N.
        real: (B, N) False for padding.

    Returns:
        (B, K) indices in the order of choice.
    """
    batch, length = kernel.shape[:2]
    own = kernel.diagonal(dim1=1, dim2=2)
    left = own.clone()  # squared distance to the span of what is chosen
    later = own / (own.amax(dim=1, keepdim=True) + 1) - 2  # below all that is left, above padding
    if real is not None:
        later = later.masked_fill(~real, -3)
    factors = kernel.new_zeros(batch, keep, length)
    whole = traced(kernel)  # rows that are still zero change nothing; a slice of them is lost on the way to OpenVINO
    chosen = []
    for step in range(keep):
        some = left > RESIDUE * own
        if real is not None:
            some = some & real
        index = torch.where(some, left, later).argmax(dim=1, keepdim=True)
        chosen.append(index)
        later = later.scatter(1, index, GONE)
        here = left.gather(1, index)
        rest = _row(kernel, index)
        if step:
            before = factors if whole else factors[:, :step]
            share = before.gather(2, index[:, None].expand(-1, before.shape[1], -1))
            rest = rest - (before * share).sum(dim=1)
        valid = some.gather(1, index)
        row = rest * torch.where(valid, here, 1).rsqrt() * valid
        factors[:, step] = row
        left = (left - row.square()).scatter(1, index, GONE)
    return torch.cat(chosen, dim=1)


@torch.no_grad()
def facility_location(cosine: Tensor, weight: Tensor, keep: int, real: Tensor | None = None) -> Tensor:
    """Greedy coverage: each token is the one that adds most to how well all are covered, times its weight.

    A token is covered by the highest cosine that any chosen one has with it, and by 0 at least.

    Args:
        cosine: (B, N, N).
        weight: (B, N), not negative.
        keep: K, at most N.
        real: (B, N) False for padding.

    Returns:
        (B, K) indices in the order of choice.
    """
    standing = torch.zeros_like(weight, dtype=cosine.dtype)  # added to the gain: padding last, a chosen token never
    if real is not None:
        cosine = cosine * (real[:, :, None] & real[:, None])
        standing, weight = standing.masked_fill(~real, -1), weight * real
    covered = torch.zeros_like(standing)
    chosen = []
    for _ in range(keep):
        gain = (cosine - covered.unsqueeze(1)).clamp(min=0).sum(dim=2) * weight
        index = (gain + standing).argmax(dim=1, keepdim=True)
        chosen.append(index)
        standing = standing.scatter(1, index, GONE)
        covered = torch.maximum(covered, _row(cosine, index))
    return torch.cat(chosen, dim=1)


@torch.no_grad()
def thin_out(cosine: Tensor, order: Tensor, keep: int, at_once: int = 8) -> Tensor:
    """Remove the most redundant tokens of a list, some in each round, until ``keep`` are left.

    In a round every token at an even place is compared with those at odd places, and the ``at_once`` with the highest
    cosine to any of them go, of equal ones the later in the list. The next list is what is left of the even places by
    falling cosine, then the odd places.

    Args:
        cosine: (B, N, N).
        order: (B, R) indices: the list.
        keep: K, at most R.
        at_once: most that go in a round; at most half of the list does.

    Returns:
        (B, K) indices, in no particular order.
    """
    if keep == 0:
        return order[:, :0]
    while order.shape[1] > keep:
        even, odd = order[:, ::2], order[:, 1::2]
        gone = min(at_once, order.shape[1] - keep, even.shape[1])
        rows = cosine.gather(1, even.unsqueeze(2).expand(-1, -1, cosine.shape[2]))
        likest = rows.gather(2, odd.unsqueeze(1).expand(-1, even.shape[1], -1)).amax(dim=2)
        ranked = even.shape[1] - 1 - likest.flip(1).argsort(dim=1, descending=True, stable=True)
        order = torch.cat([even.gather(1, ranked[:, gone:]), odd], dim=1)
    return order


def _row(matrix: Tensor, index: Tensor) -> Tensor:
    """(B, N) row ``index`` (B, 1) of each matrix (B, N, N)."""
    return matrix.gather(1, index.unsqueeze(2).expand(-1, -1, matrix.shape[2]))[:, 0]
