"""The two kinds of transformer blocks in open_clip, in parts.

Axes: B batch, N tokens, C width, H heads, d head width.
"""

from __future__ import annotations

import torch
from open_clip.transformer import Attention, CustomResidualAttentionBlock, ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from tokenreduce.backbones import BlockView, Projected
from tokenreduce.errors import UnsupportedModelError


class ResidualView(BlockView):
    """``ResidualAttentionBlock``: pre-norm, torch's own ``MultiheadAttention``, layer scale."""

    def __init__(self, block: ResidualAttentionBlock | CustomResidualAttentionBlock) -> None:
        self.block, self.attn = block, block.attn
        self.dropout = self.attn.dropout if isinstance(self.attn, nn.MultiheadAttention) else self.attn.attn_drop.p
        self.attention_parts, self.mlp_parts = [self.attn], [block.mlp]

    def project(self, x: Tensor) -> Projected:
        attn, x = self.attn, self.block.ln_1(x)
        joint = F.linear(x, attn.in_proj_weight, attn.in_proj_bias)
        heads = torch.unflatten(joint, -1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return Projected(*heads.unbind(0))

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        out: Tensor = x + self.block.ls_1(self.attn.out_proj(context))
        return out

    def mlp(self, x: Tensor) -> Tensor:
        block = self.block
        out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
        return out


class CustomView(ResidualView):
    """``CustomResidualAttentionBlock``: further norms, scaled heads, cosine attention, each where configured."""

    def __init__(self, block: CustomResidualAttentionBlock) -> None:
        super().__init__(block)
        self.scale = None if self.attn.logit_scale is None else 1.0

    def project(self, x: Tensor) -> Projected:
        attn, parts = self.attn, super().project(x)
        if attn.logit_scale is None:
            return Projected(attn.ln_q(parts.query), attn.ln_k(parts.key), parts.value)
        factor = attn.logit_scale.clamp(max=attn.logit_scale_max).exp()
        return Projected(F.normalize(parts.query, dim=-1) * factor, F.normalize(parts.key, dim=-1), parts.value)

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        block, attn = self.block, self.attn
        if attn.head_scale is not None:
            context = (torch.unflatten(context, -1, (attn.num_heads, -1)) * attn.head_scale.squeeze(-1)).flatten(-2)
        mixed = attn.out_drop(attn.out_proj(attn.ln_inner(context)))
        out: Tensor = x + block.ls_1(block.ln_attn(mixed))
        return out


def view_of(block: nn.Module) -> BlockView:
    """The view of one block.

    Raises:
        UnsupportedModelError: the block, or its attention, is of another kind.
    """
    for kind, attention, view in (
        (ResidualAttentionBlock, nn.MultiheadAttention, ResidualView),
        (CustomResidualAttentionBlock, Attention, CustomView),
    ):
        if isinstance(block, kind):
            if type(block.attn) is not attention:
                raise UnsupportedModelError(
                    f"{type(block).__name__} has {type(block.attn).__name__} where open_clip has "
                    f"{attention.__name__}; attach before wrapping or replacing the attention"
                )
            return view(block)
    raise UnsupportedModelError(f"{type(block).__name__} is not one of open_clip's blocks")
