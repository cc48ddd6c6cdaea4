"""Attention as the engine runs it: fused, with padding, sizes and gates as a bias.

Axes: B batch, H heads, N tokens, d head width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..backbones.block import BlockView, Projected
from ..core.gate import as_channels
from ..core.state import State


def attend(
    state: State, view: BlockView, projected: Projected, proportional: bool, training: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention to the tokens of a state: (B, N, H * d), and the bias that it comes to."""
    query, gate = projected.query, state.gate()
    bias = state.bias(query, proportional)
    if gate is None or not gate.requires_grad:
        return attention(view, projected, bias, training), bias
    width, scale = query.shape[-1], query.shape[-1] ** -0.5 if view.scale is None else view.scale
    wider = as_channels(query, projected.key, projected.value, gate, scale)
    context = F.scaled_dot_product_attention(
        *wider,
        attn_mask=state.bias(query, proportional, gated=False),
        dropout_p=view.dropout if training else 0.0,
        scale=scale,
    )
    return context[..., :width].transpose(1, 2).flatten(2), bias


def attention(view: BlockView, projected: Projected, bias: Tensor | None, training: bool) -> Tensor:
    """Fused attention: (B, N, H * d)."""
    context = F.scaled_dot_product_attention(
        projected.query,
        projected.key,
        projected.value,
        attn_mask=bias,
        dropout_p=view.dropout if training else 0.0,
        scale=view.scale,
    )
    return context.transpose(1, 2).flatten(2)
