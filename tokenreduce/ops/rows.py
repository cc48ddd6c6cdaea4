"""Rows of tokens by index. Axes: B batch, N tokens, K rows, C width.

A gather whose index is expanded over the width costs several times what copying rows does, so rows are copied: of one
sample along its axis, of several from all tokens laid end to end. A pass that is traced keeps gathers, in which no
batch size is fixed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._torch import traced


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, N, ...) at (B, K), none of it negative: (B, K, ...)."""
    if x.ndim == 2:
        return x.gather(1, index)
    if traced(index):
        return x.gather(1, index.view(*index.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:]))
    if index.shape[0] == 1:
        return x.index_select(1, index[0])
    return x.flatten(0, 1).index_select(0, end_to_end(index, x.shape[1])).view(*index.shape, *x.shape[2:])


def add_rows(y: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Tokens (B, N, C), or numbers (B, N), with values (B, K, C) or (B, K) added at (B, K), none of it negative.

    Args:
        y: the caller's own, not read again: without gradients the values are added in place.
    """
    if y.ndim == 2:
        return y.scatter_add(1, index, values)
    if traced(index):
        return y.scatter_add(1, index.unsqueeze(-1).expand_as(values), values)
    if index.shape[0] == 1:
        return y.index_add(1, index[0], values) if torch.is_grad_enabled() else y.index_add_(1, index[0], values)
    place, rows, flat = end_to_end(index, y.shape[1]), values.flatten(0, 1), y.flatten(0, 1)
    added = flat.index_add(0, place, rows) if torch.is_grad_enabled() else flat.index_add_(0, place, rows)
    return added.view(y.shape)


def end_to_end(index: Tensor, length: int) -> Tensor:
    """(B * K,) places (B, K) in samples of ``length`` tokens, among all tokens of the batch laid end to end."""
    sample = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
    return torch.add(index, sample, alpha=length).flatten()
