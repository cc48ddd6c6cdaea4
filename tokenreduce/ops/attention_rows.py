"""Single rows of an attention matrix, computed beside the fused kernel.

Axes: B batch, H heads, G heads of the keys (H or a divisor of it), R rows asked for, N keys, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention_rows(query: Tensor, key: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """softmax(q k^T * scale + bias) for the rows asked for only, averaged over heads: (B, R, N), float32.

    Args:
        query: (B, H, R, d), the rows asked for.
        key: (B, G, N, d); with fewer key heads than query heads, each serves H / G of them side by side.
        bias: additive, broadcastable to (B, H, R, N).
        scale: 1/sqrt(d) if None.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if query.shape[1] == key.shape[1]:
        logits = (query * scale) @ key.transpose(-2, -1)
    else:
        batch, heads, rows, width = query.shape
        grouped = (query * scale).reshape(batch, key.shape[1], -1, rows, width)
        logits = (grouped @ key.unsqueeze(2).transpose(-2, -1)).reshape(batch, heads, rows, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1, dtype=None if logits.dtype == torch.float64 else torch.float32).mean(dim=1)


def received_attention(
    query: Tensor, key: Tensor, bias: Tensor | None = None, scale: float | None = None, chunk: int = 128
) -> Tensor:
    """What each key is paid by these queries on average over queries and heads: (B, N), float32.

    The rows are made ``chunk`` at a time, so the whole matrix is never there.

    Args:
        query, key, bias, scale: as :func:`attention_rows` has them, the bias the same for every row.
    """
    total = None
    for begin in range(0, query.shape[2], chunk):
        paid = attention_rows(query[:, :, begin : begin + chunk], key, bias, scale).sum(dim=1)
        total = paid if total is None else total + paid
    assert total is not None
    return total / query.shape[2]
