"""Bipartite soft matching (Bolya et al., ICLR 2023, section 3). Axes: B batch, N tokens, D metric width."""

from __future__ import annotations

import torch
from torch import Tensor

from .._torch import plain_size
from ..errors import OptionError
from .similarity import at_least_float

NORM = 1e-12  # of a key without a direction


def bipartite(
    metric: Tensor, remove: int, *, prefix: int = 0, real: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Pair similar tokens so that ``remove`` of them fold into others.

    Even positions each propose their most similar odd position (cosine of ``metric``); the ``remove`` best
    proposals fold. Output order: prefix, unmerged even positions (ascending with a prefix, else by falling
    similarity, as published), odd positions.

    Padding is removed first, from any position, into nothing; a real token never folds into padding.

    Args:
        metric: (B, N, D).
        remove: number of tokens to fold, at most ``(N - prefix) // 2``.
        prefix: protected tokens at the front, neither sources nor destinations.
        real: (B, N) bool, False for padding.

    Raises:
        OptionError: ``remove`` is out of range.

    Returns:
        ``keep`` (B, N - remove), ``source`` (B, remove), ``target`` (B, remove), as in ``Reduction``.
    """
    length = plain_size(metric.shape[1])
    if not 0 <= remove <= max(length - prefix, 0) // 2:
        raise OptionError(f"remove must be 0 to {max(length - prefix, 0) // 2} of {length} tokens, got {remove}")
    if torch.is_grad_enabled():
        with torch.no_grad():
            return _bipartite(metric, remove, prefix, real)
    return _bipartite(metric, remove, prefix, real)


def _bipartite(metric: Tensor, remove: int, prefix: int, real: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    batch, length = metric.shape[0], plain_size(metric.shape[1])
    metric = at_least_float(metric)
    metric = metric / torch.linalg.vector_norm(metric, dim=-1, keepdim=True).clamp_min(NORM)
    position = torch.arange(length, device=metric.device)
    if real is not None:
        return _with_padding(metric, remove, prefix, real, position)
    first, second = prefix + prefix % 2, prefix + 1 - prefix % 2  # of the positions that propose, and of the others
    rows = position.expand(batch, -1)
    front, odd = rows[:, :prefix], rows[:, second::2]
    if second >= length:
        return rows, front[:, :0], front[:, :0]
    best, partner = torch.bmm(metric[:, first::2], metric[:, second::2].transpose(1, 2)).max(dim=-1)
    ranked = best.argsort(dim=-1, descending=True)
    even = torch.add(position[first : first + 1], ranked, alpha=2)
    rest = even[:, remove:]
    if prefix:
        rest = rest.sort(dim=-1).values
    keep = torch.cat([front, rest, odd], dim=1)
    target = partner.gather(1, ranked[:, :remove]) + (length - remove - odd.shape[1])
    return keep, even[:, :remove], target


def _with_padding(
    metric: Tensor, remove: int, prefix: int, real: Tensor, position: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length = real.shape[0], plain_size(real.shape[1])
    infinity = float("inf")
    score = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
    score[:, :, : prefix // 2] = -infinity
    best, partner = score.masked_fill(~real[:, None, 1::2], -infinity).max(dim=-1)
    priority = best.new_full((batch, length), -infinity)
    priority[:, ::2] = best
    priority = priority.masked_fill(~real, infinity)
    priority[:, :prefix] = -infinity
    ranked = priority.argsort(dim=-1, descending=True, stable=True)
    chosen = ranked[:, :remove]
    is_odd = (position % 2 == 1) & (position >= prefix)
    if prefix:
        key = torch.where(is_odd, position + length, position).expand(batch, -1)
    else:
        rank = torch.empty_like(ranked).scatter(1, ranked, position.expand(batch, -1))
        key = torch.where(is_odd, position + 2 * length, rank)
    key = key.scatter(1, chosen, 4 * length)
    keep = key.argsort(dim=-1, stable=True)[:, : length - remove]
    place = torch.zeros_like(key).scatter(1, keep, position[: length - remove].expand(batch, -1))
    into = (2 * partner + 1).gather(1, chosen // 2)
    target = torch.where(real.gather(1, chosen), place.gather(1, into), -1)
    return keep, chosen, target
