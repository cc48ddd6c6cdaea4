"""Attention as the engine runs it: one fused call, whatever kind of attention it is; on request matrix by matrix.

Axes: B batch, H heads, G heads of keys and values (H or a divisor of it), M queries, N keys, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .._torch import plain_size
from ..backbones.block import BlockView, Projected
from ..core.gate import as_channels
from ..core.heads import live_heads, weigh_heads
from ..core.state import State
from ..errors import UnsupportedCallError


def attend(
    state: State,
    view: BlockView,
    projected: Projected,
    proportional: bool,
    training: bool,
    heads: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attention to the tokens of a state: (B, M, H * d), and the bias over keys (B, 1, 1, N) that it comes to.

    ``heads`` (B, H) says how much each head counts, None for all in full; one that counts in no sample is not computed.
    """
    if heads is not None:
        return _masked(state, view, projected, proportional, training, heads)
    query, gate = projected.query, state.gate()
    bias = state.bias(query, proportional)
    if gate is None or not gate.requires_grad:
        return attention(view, projected, bias, training), bias
    width, scale = query.shape[-1], query.shape[-1] ** -0.5 if view.scale is None else view.scale
    wider = Projected(*as_channels(query, projected.key, projected.value, gate, scale))
    ungated = state.bias(query, proportional, gated=False)
    context = dot_product_attention(wider, ungated, scale, view.causal, view.dropout if training else 0.0, view.fused)
    return context[..., :width].transpose(1, 2).flatten(2), bias


def _masked(
    state: State, view: BlockView, projected: Projected, proportional: bool, training: bool, heads: Tensor
) -> tuple[Tensor, Tensor | None]:
    query, key, value = projected.query, projected.key, projected.value
    if heads.shape[1] != query.shape[1]:
        raise UnsupportedCallError(f"the mask of the heads must be (B, {query.shape[1]}), got {tuple(heads.shape)}")
    heads = heads.to(query.device)  # of a block of the same layer, perhaps on another device
    live = live_heads(heads) if key.shape[1] == query.shape[1] else None
    if live is not None and not live.shape[0]:
        return torch.zeros_like(query.transpose(1, 2).flatten(2)), state.bias(query, proportional)
    part = projected if live is None else Projected(*(side.index_select(1, live) for side in (query, key, value)))
    context, bias = attend(state, view, part, proportional, training)
    return weigh_heads(context, heads, live), bias


def attention(view: BlockView, projected: Projected, bias: Tensor | None, training: bool) -> Tensor:
    """Attention of a block, heads side by side: (B, M, H * d)."""
    dropout = view.dropout if training else 0.0
    context = dot_product_attention(projected, bias, view.scale, view.causal, dropout, view.fused)
    return context.transpose(1, 2).flatten(2)


def dot_product_attention(
    projected: Projected,
    bias: Tensor | None,
    scale: float | None,
    causal: bool = False,
    dropout: float = 0.0,
    fused: bool = True,
) -> Tensor:
    """Attention (B, H, M, d) by torch's fused kernels, or by :func:`eager_attention`.

    Keys and values may have fewer heads than queries (each serves several), and there may be more of them than queries,
    as with a cache: in causal attention the queries are then the last ones.

    Args:
        bias: additive over keys, (B, 1, 1, N), or None.
        scale: 1/sqrt(d) if None.
        fused: by which of the two.
    """
    query, key, value = projected.query, projected.key, projected.value
    rows, columns = query.shape[2], key.shape[2]
    grouped = bool(key.shape[1] != query.shape[1])  # a tensor under torch.jit.trace
    if causal and (bias is not None or rows != columns or not fused):
        late = torch.ones(rows, columns, dtype=torch.bool, device=query.device).triu(columns - rows + 1)
        hidden = torch.zeros(rows, columns, dtype=query.dtype, device=query.device).masked_fill(late, float("-inf"))
        bias, causal = hidden if bias is None else bias + hidden, False
    if not fused:
        return eager_attention(projected, bias, scale, dropout)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def eager_attention(projected: Projected, bias: Tensor | None, scale: float | None, dropout: float) -> Tensor:
    """Attention (B, H, M, d) by matrix products and a softmax, which can be differentiated any number of times.

    The softmax is computed in float32 at least.
    """
    query, key, value = projected.query, projected.key, projected.value
    groups = plain_size(query.shape[1]) // plain_size(key.shape[1])
    if groups != 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.transpose(-2, -1)
    scores = scores if bias is None else scores + bias
    wide = scores.dtype if scores.dtype == torch.float64 else torch.float32
    weights = scores.softmax(dim=-1, dtype=wide).to(value.dtype)
    return F.dropout(weights, dropout) @ value
