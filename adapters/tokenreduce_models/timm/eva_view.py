"""The blocks of timm's ``Eva`` in parts, with rotary positions where the model has them.

Axes: B batch, N tokens, H heads, d head width, L blocks with angles of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import apply_rot_embed_cat
from timm.models import eva
from torch import Tensor, nn
from torch.nn import functional as F

from tokenreduce.backbones import BlockView, Positions, Projected, current
from tokenreduce.errors import UnsupportedModelError

ATTENTIONS = tuple(kind for name in ("EvaAttention", "AttentionRope") if (kind := getattr(eva, name, None)))
LINEARS = ("qkv", "q_proj", "k_proj", "v_proj", "gate", "proj")


class EvaView(BlockView):
    """``EvaBlock``: norm, attention, scale, drop path, residual; the same for the MLP.

    Args:
        block: an ``EvaBlock``.
        index: which of the angles are its own, where every block has other ones.
    """

    scale = current(lambda view: None if view.attn.fused_attn else view.attn.scale)  # fused, timm passes none
    dropout = current(lambda view: view.attn.attn_drop.p)
    fused = current(lambda view: view.attn.fused_attn)
    attention_parts = current(lambda view: [part for name in LINEARS if (part := getattr(view.attn, name, None))])
    mlp_parts = current(lambda view: [view.block.mlp])

    def __init__(self, block: nn.Module, index: int) -> None:
        layer: Any = block
        self.block, self.index = layer, index

    @property
    def attn(self) -> Any:
        """The attention that the block has now."""
        return self.block.attn

    def normed(self, x: Tensor) -> Tensor:
        """What the attention gets."""
        out: Tensor = self.block.norm1(x)
        return out

    def project(self, x: Tensor) -> Projected:
        attn, x = self.attn, self.normed(x)
        gating = getattr(attn, "gate", None)
        gate = None if gating is None else gating(x).sigmoid()
        if attn.qkv is None:
            parts = [part(x).unflatten(-1, (-1, attn.head_dim)) for part in (attn.q_proj, attn.k_proj, attn.v_proj)]
            query, key, value = (part.transpose(1, 2) for part in parts)
        else:
            fused = torch.unflatten(_fused(attn, x), -1, (3, attn.num_heads, -1))
            query, key, value = fused.permute(2, 0, 3, 1, 4).unbind(0)
        return Projected(attn.q_norm(query), attn.k_norm(key), value, gate)

    def project_at(self, x: Tensor, positions: Positions) -> Projected:
        plain, angles = self.project(x), positions["rope"]
        angles = angles.unsqueeze(1) if angles.ndim == 3 else angles[:, :, self.index].transpose(1, 2)
        half = {"half": True} if getattr(self.attn, "rotate_half", False) else {}
        query, key = (
            apply_rot_embed_cat(part, angles, **half).type_as(plain.value) for part in (plain.query, plain.key)
        )
        return Projected(query, key, plain.value, plain.extra)

    def mixed(self, context: Tensor, gate: Tensor | None) -> Tensor:
        """What the attention gives."""
        attn = self.attn
        context = attn.norm(context)
        out: Tensor = attn.proj_drop(attn.proj(context if gate is None else context * gate))
        return out

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        block = self.block
        out: Tensor = x + block.drop_path1(_scaled(block.gamma_1, self.mixed(context, projected.extra)))
        return out

    def mlp(self, x: Tensor) -> Tensor:
        block = self.block
        out: Tensor = x + block.drop_path2(_scaled(block.gamma_2, block.mlp(block.norm2(x))))
        return out


class EvaPostNormView(EvaView):
    """``EvaBlockPostNorm``: the norm follows the attention and the MLP."""

    def normed(self, x: Tensor) -> Tensor:
        return x

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        block = self.block
        out: Tensor = x + block.drop_path1(block.norm1(self.mixed(context, projected.extra)))
        return out

    def mlp(self, x: Tensor) -> Tensor:
        block = self.block
        out: Tensor = x + block.drop_path2(block.norm2(block.mlp(x)))
        return out


def view_of(block: nn.Module, index: int) -> EvaView:
    """The view of a block; ``index`` is its place among the blocks.

    Raises:
        UnsupportedModelError: the block, or its attention, is of another kind.
    """
    if not isinstance(block, (eva.EvaBlock, eva.EvaBlockPostNorm)):
        raise UnsupportedModelError(f"{type(block).__name__} is not one of the blocks of timm's Eva")
    if type(block.attn) not in ATTENTIONS:
        raise UnsupportedModelError(
            f"{type(block).__name__} has {type(block.attn).__name__} where timm has "
            f"{' or '.join(kind.__name__ for kind in ATTENTIONS)}; attach before wrapping or replacing the attention"
        )
    return EvaView(block, index) if isinstance(block, eva.EvaBlock) else EvaPostNormView(block, index)


def tokens_first(rope: Tensor, prefix: int, *, mixed: bool) -> Tensor:
    """Sines and cosines as timm gives them to its blocks, as those of every token.

    Args:
        rope: (N, 2d), mixed (L, H, N, 2d); (B, 1, ...) of these after patch dropout.
        prefix: tokens in front of the patches, which are not turned.
        mixed: whether every block and head has its own.

    Returns:
        (B or 1, prefix + N, 2d), mixed (B or 1, prefix + N, L, H, 2d).
    """
    rope = rope[None] if rope.ndim == (4 if mixed else 2) else rope.squeeze(1)
    rope = rope.permute(0, 3, 1, 2, 4) if mixed else rope
    sine, cosine = rope.new_zeros(len(rope), prefix, *rope.shape[2:]).chunk(2, dim=-1)
    return torch.cat([torch.cat([sine, cosine + 1], dim=-1), rope], dim=1)


def _fused(attn: Any, x: Tensor) -> Tensor:
    """Query, key and value in one, with the biases that an ``EvaAttention`` keeps apart."""
    query = getattr(attn, "q_bias", None)
    if query is None:
        plain: Tensor = attn.qkv(x)
        return plain
    bias = torch.cat([query, attn.k_bias, attn.v_bias])
    if getattr(attn, "qkv_bias_separate", False):
        separate: Tensor = attn.qkv(x) + bias
        return separate
    return F.linear(x, attn.qkv.weight, bias)


def _scaled(gamma: Tensor | None, x: Tensor) -> Tensor:
    return x if gamma is None else gamma * x
