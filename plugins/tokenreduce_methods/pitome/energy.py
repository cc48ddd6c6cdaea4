"""The energy of tokens, and the matching that goes by it. Axes: B batch, n tokens that are not protected, D width."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenreduce.ops import at_least_float


@torch.no_grad()
def cosines(metric: Tensor) -> Tensor:
    """Cosine (B, n, n) of every two tokens by ``metric`` (B, n, D)."""
    unit = F.normalize(at_least_float(metric), dim=-1)
    return unit @ unit.transpose(1, 2)


@torch.no_grad()
def energy(cosine: Tensor, margin: float, alpha: float, real: Tensor | None = None) -> Tensor:
    """Energy (B, n) of each token: high in large clusters of similar tokens, low for a token of its own kind.

    The mean over all tokens of f(cosine), where f(c) is c from the margin on and ``alpha * (exp(c - margin) - 1)``
    below it. A token is its own neighbour, too, which raises all energies alike.

    Args:
        cosine: (B, n, n).
        margin: from which cosine on two tokens count as similar.
        alpha: how much tokens below the margin take away.
        real: (B, n) False for padding, which is nobody's neighbour.
    """
    value = torch.where(cosine >= margin, cosine, alpha * torch.expm1(cosine - margin))
    if real is None:
        return value.mean(dim=-1)
    return (value * real[:, None]).sum(dim=-1) / real.sum(dim=-1, keepdim=True).clamp(min=1)


@torch.no_grad()
def match_by_energy(
    energy: Tensor, cosine: Tensor, remove: int, real: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Pair the tokens of highest energy so that ``remove`` of them fold into others.

    Of the ``2 * remove`` tokens with the highest energy every second one, in falling order, folds into the most similar
    of those between them. Padding is removed first, into nothing; the real tokens make up for the rest.

    Args:
        energy: (B, n).
        cosine: (B, n, n).
        remove: number of tokens to fold, at most n // 2.
        real: (B, n) False for padding.

    Returns:
        ``keep`` (B, n - remove) in ascending order, ``source`` (B, remove), ``target`` (B, remove), as in
        ``Reduction``.
    """
    batch, length = energy.shape
    merges: int | Tensor = remove
    if real is not None:
        energy = energy.masked_fill(~real, float("-inf"))
        merges = (remove - (~real).sum(dim=1, keepdim=True)).clamp(min=0)
    order = energy.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(length, device=energy.device).expand(batch, -1)
    rank = torch.empty_like(order).scatter(1, order, place)
    mergeable = rank < 2 * merges
    gone = mergeable & (rank % 2 == 0)
    partner = cosine.masked_fill(~(mergeable & (rank % 2 == 1))[:, None], float("-inf")).argmax(dim=-1)
    if real is not None:
        gone = gone | (~real & (rank >= length - remove))
    ordered = gone.to(torch.int8).argsort(dim=1, stable=True)
    keep, source = ordered[:, : length - remove], ordered[:, length - remove :]
    target = ((~gone).int().cumsum(dim=1) - 1).gather(1, partner.gather(1, source))
    return keep, source, target if real is None else torch.where(real.gather(1, source), target, -1)
