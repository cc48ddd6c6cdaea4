"""The reduction that merges contextual tokens. Axes: B batch, N tokens, n not protected, K kept."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreduce.methods import Reduction, Stream

from .zipping import Zipped


def merged(stream: Stream, found: Zipped, most: int, counts: Tensor | None, new: bool) -> Reduction:
    """The reduction: protected tokens, dominant ones, contextual ones.

    Args:
        most: K, without the protected ones; the most that a sample keeps.
        counts: (B,) how many each keeps, None where all keep as many.
        new: whether contextual tokens are new ones, all of whose members fold; else the target is what is kept.
    """
    tokens, prefix = stream.tokens, stream.tokens.prefix
    length, device = tokens.removable, tokens.x.device
    place = torch.arange(tokens.count, device=device).expand(tokens.x.shape[0], -1)
    free = place[:, :length]
    tier = torch.where(found.dominant, 0, torch.where(found.target, 1, torch.where(found.member, 3, 2)))
    if tokens.real is not None:  # padding fills up before any token that is folded or dropped does
        tier = torch.where(tokens.real[:, prefix:], torch.where(tier == 2, 3, tier), 2)
    order = (tier * length + free).argsort(dim=1)
    rank = order.argsort(dim=1)
    end = torch.where(found.member, rank.gather(1, found.likest), -1)
    keep = order[:, :most]
    size = tokens.sizes()[:, prefix:]
    weight = torch.where(found.member, size, 0)
    total = torch.zeros_like(size).scatter_add(1, found.likest, weight).gather(1, found.likest)
    weight = torch.where(found.member, weight / torch.where(total > 0, total, 1), 1)
    valid = None
    if counts is not None:
        valid = place[:, : prefix + most] < prefix + counts[:, None]
    contextual = found.target.gather(1, keep)
    if new:
        end, keep = torch.where(found.target, rank, end), torch.where(contextual, -1, keep)
    if most == 0:  # the class token alone is left
        return Reduction(place[:, :prefix], length=tokens.count, partial=True, valid=valid)
    source = free
    if not new and valid is None:
        source, end, weight = (side.gather(1, order[:, most:]) for side in (source, end, weight))
    return Reduction(
        torch.cat([place[:, :prefix], torch.where(keep >= 0, keep + prefix, -1)], dim=1),
        source + prefix,
        torch.where(end >= 0, end + prefix, -1),
        length=tokens.count,
        weight=weight,
        mean=False,
        fresh=most if new else 0,
        partial=True,
        valid=valid,
    )


def in_front(reduction: Reduction) -> Reduction:
    """The same with a new token without members before all others."""
    valid, keep = reduction.valid, reduction.keep
    return Reduction(
        torch.cat([keep.new_full((keep.shape[0], 1), -1), keep], dim=1),
        reduction.source,
        None if reduction.target is None else torch.where(reduction.target >= 0, reduction.target + 1, -1),
        length=reduction.length,
        weight=reduction.weight,
        mean=False,
        fresh=reduction.fresh + 1,
        partial=True,
        valid=None if valid is None else torch.cat([valid.new_ones(valid.shape[0], 1), valid], dim=1),
    )
