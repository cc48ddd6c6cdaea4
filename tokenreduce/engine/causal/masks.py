"""The library's logical masks for what is left. Axes: B batch, q queries, L keys, p and P those that are left."""

from __future__ import annotations

import torch
from torch import Tensor

from ...backbones.causal import pick


def physical_mask(
    mask: Tensor | None, rows: Tensor, columns: Tensor, total: int, past: int, ragged: bool, flat: bool
) -> Tensor | None:
    """A mask of the whole sequence for the queries and keys that are left.

    Args:
        mask: (B or 1, 1, q, L) bool or additive, (B, L) bool, or None for causal attention without padding.
        rows: (B, p) columns of the queries in this call, -1 for padding.
        columns: (B, P) logical columns of the keys, -1 for padding.
        total: logical columns so far, those of this call included; a shorter mask is of the last ones.
        past: those before this call.
        ragged: whether there is padding among rows or columns.
        flat: whether the kernel takes masks (B, P), as FlashAttention does.
    """
    here = columns >= 0
    if mask is None:
        if not ragged:
            return None  # the order is kept, so causal stays causal
        return here if flat else (here[:, None] & (columns[:, None] <= (past + rows)[:, :, None]))[:, None]
    offset = total - mask.shape[-1]
    if offset:
        here = here & (columns >= offset)
        columns = columns - offset
    if mask.ndim == 2:
        return pick(mask, columns, 1).bool() & here
    mask = _columns(_rows(mask.expand(rows.shape[0], *mask.shape[1:]), rows), columns)
    if not ragged and not offset:
        return mask
    gone = ~here[:, None, None]
    return mask & ~gone if mask.dtype == torch.bool else mask.masked_fill(gone, torch.finfo(mask.dtype).min)


def _rows(mask: Tensor, rows: Tensor) -> Tensor:
    index = rows.clamp(min=0)[:, None, :, None]
    return mask.gather(2, index.expand(-1, mask.shape[1], -1, mask.shape[3]))


def _columns(mask: Tensor, columns: Tensor) -> Tensor:
    index = columns.clamp(min=0)[:, None, None]
    return mask.gather(3, index.expand(-1, mask.shape[1], mask.shape[2], -1))
