"""The two kinds of transformer blocks in open_clip, in parts.

Axes: B batch, N tokens, C width, H heads, d head width.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import Attention, CustomResidualAttentionBlock, ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from tokenreduce.backbones import BlockView, Projected, current
from tokenreduce.errors import UnsupportedModelError


class ResidualView(BlockView):
    """``ResidualAttentionBlock``: pre-norm, torch's own ``MultiheadAttention``, layer scale."""

    dropout = current(lambda view: view.attn.dropout)
    attention_parts = current(lambda view: [view.attn])
    mlp_parts = current(lambda view: [view.block.mlp])

    def __init__(self, block: ResidualAttentionBlock | CustomResidualAttentionBlock) -> None:
        self.block = block

    @property
    def attn(self) -> Any:
        return self.block.attn

    def project(self, x: Tensor) -> Projected:
        attn, x = self.attn, self.block.ln_1(x)
        joint = F.linear(x, attn.in_proj_weight, attn.in_proj_bias)
        heads = torch.unflatten(joint, -1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return Projected(*heads.unbind(0))

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        out: Tensor = x + self.block.ls_1(self.mixed(context))
        return out

    def mixed(self, context: Tensor) -> Tensor:
        """The output projection as ``MultiheadAttention`` applies it: by its weights, without calling the module."""
        linear = self.attn.out_proj
        return F.linear(context, linear.weight, linear.bias)

    def mlp(self, x: Tensor) -> Tensor:
        block = self.block
        out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
        return out


class CustomView(ResidualView):
    """``CustomResidualAttentionBlock``: further norms, scaled heads, cosine attention, each where configured."""

    scale = current(lambda view: None if view.attn.logit_scale is None else 1.0)
    dropout = current(lambda view: view.attn.attn_drop.p)

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
                other = type(block.attn)
                raise UnsupportedModelError(
                    f"{type(block).__name__} has {other.__module__}.{other.__name__} where open_clip has "
                    f"{attention.__name__}, and the engine runs the attention itself, so that what it adds would be "
                    "lost; merge it into the weights first (merge_and_unload() of an adapter library), or target "
                    "other modules, such as those of the MLP"
                )
            return view(block)
    raise UnsupportedModelError(f"{type(block).__name__} is not one of open_clip's blocks")
