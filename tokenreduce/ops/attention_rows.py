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


def mean_logits(of: Tensor, others: Tensor, scale: float | None = None, real: Tensor | None = None) -> Tensor:
    """Mean over heads and ``others`` of the scaled products before the softmax: (B, N), float32.

    Of keys with the queries of all patches: what each key is paid on average. Of queries with keys: what each pays. The
    mean of the products is the product with the mean, so no N x N matrix is made.

    Args:
        of: (B, H, N, d).
        others: (B, G, M, d), with fewer heads or more: each serves several side by side.
        scale: 1/sqrt(d) if None.
        real: (B, M) which of ``others`` count; None for all.
    """
    scale = of.shape[-1] ** -0.5 if scale is None else scale
    dtype = torch.float64 if of.dtype == torch.float64 else torch.float32
    of, others = of.to(dtype), others.to(dtype)
    if real is None:
        mean = others.mean(dim=2)
    else:
        weight = real[:, None, :, None].to(dtype)
        mean = (others * weight).sum(dim=2) / weight.sum(dim=2).clamp(min=1)
    heads = max(of.shape[1], mean.shape[1])
    of = of.repeat_interleave(heads // of.shape[1], dim=1)
    mean = mean.repeat_interleave(heads // mean.shape[1], dim=1)
    return (of * mean.unsqueeze(2)).sum(dim=-1).mean(dim=1) * scale  # row by row: equal tokens score the same bits


def paid_attention(
    query: Tensor, key: Tensor, to: slice, bias: Tensor | None = None, scale: float | None = None, chunk: int = 128
) -> Tensor:
    """What each query pays the keys ``to`` on average over heads and these keys: (B, R), float32.

    Args:
        query, key, bias, scale, chunk: as :func:`received_attention` has them.
        to: the keys that count; the softmax is over all.
    """
    parts = [
        attention_rows(query[:, :, begin : begin + chunk], key, bias, scale)[:, :, to].mean(dim=2)
        for begin in range(0, query.shape[2], chunk)
    ]
    return torch.cat(parts, dim=1)
