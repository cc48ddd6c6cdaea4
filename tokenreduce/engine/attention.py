"""Attention as the engine runs it: one fused call, whatever kind of attention it is.

Axes: B batch, H heads, G heads of keys and values (H or a divisor of it), M queries, N keys, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..backbones.block import BlockView, Projected
from ..core.gate import as_channels
from ..core.state import State


def attend(
    state: State, view: BlockView, projected: Projected, proportional: bool, training: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention to the tokens of a state: (B, M, H * d), and the bias over keys (B, 1, 1, N) that it comes to."""
    query, gate = projected.query, state.gate()
    bias = state.bias(query, proportional)
    if gate is None or not gate.requires_grad:
        return attention(view, projected, bias, training), bias
    width, scale = query.shape[-1], query.shape[-1] ** -0.5 if view.scale is None else view.scale
    wider = Projected(*as_channels(query, projected.key, projected.value, gate, scale))
    context = fused_attention(
        wider, state.bias(query, proportional, gated=False), scale, view.causal, view.dropout if training else 0.0
    )
    return context[..., :width].transpose(1, 2).flatten(2), bias


def attention(view: BlockView, projected: Projected, bias: Tensor | None, training: bool) -> Tensor:
    """Attention of a block, heads side by side: (B, M, H * d)."""
    context = fused_attention(projected, bias, view.scale, view.causal, view.dropout if training else 0.0)
    return context.transpose(1, 2).flatten(2)


def fused_attention(
    projected: Projected, bias: Tensor | None, scale: float | None, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """Attention (B, H, M, d) by torch's fused kernels.

    Keys and values may have fewer heads than queries (each serves several), and there may be more of them than queries,
    as with a cache: in causal attention the queries are then the last ones.

    Args:
        bias: additive over keys, (B, 1, 1, N), or None.
        scale: 1/sqrt(d) if None.
    """
    query, key, value = projected.query, projected.key, projected.value
    rows, columns = query.shape[2], key.shape[2]
    grouped = bool(key.shape[1] != query.shape[1])  # a tensor under torch.jit.trace
    if causal and (bias is not None or rows != columns):
        late = torch.ones(rows, columns, dtype=torch.bool, device=query.device).triu(columns - rows + 1)
        hidden = torch.zeros(rows, columns, dtype=query.dtype, device=query.device).masked_fill(late, float("-inf"))
        bias, causal = hidden if bias is None else bias + hidden, False
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )
