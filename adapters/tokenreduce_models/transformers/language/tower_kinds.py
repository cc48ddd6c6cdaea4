"""Blocks of the vision towers that only language models have, beside CLIP's and SigLIP's."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.models.idefics3.modeling_idefics3 import (
    Idefics3Encoder,
    Idefics3EncoderLayer,
    Idefics3VisionTransformer,
)
from transformers.models.internvl.modeling_internvl import (
    InternVLVisionEncoder,
    InternVLVisionLayer,
    InternVLVisionModel,
)
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMEncoder, SmolVLMEncoderLayer, SmolVLMVisionTransformer

from tokenreduce.backbones import BlockView, Projected

from ..clip import PARTS
from ..prenorm import Parts, PreNormView
from ..towers import Family
from .towers import FAMILIES

INTERN = Parts(
    "attention",
    "layernorm_before",
    "layernorm_after",
    "projection_layer",
    "num_heads",
    "scale",
    "attention_dropout",
)
KINDS = (
    *FAMILIES,
    Family(Idefics3VisionTransformer, Idefics3Encoder, Idefics3EncoderLayer, PARTS, 0),
    Family(SmolVLMVisionTransformer, SmolVLMEncoder, SmolVLMEncoderLayer, PARTS, 0),
    Family(InternVLVisionModel, InternVLVisionEncoder, InternVLVisionLayer, INTERN, 1, "layer"),
)


class InternView(PreNormView):
    """InternVL: norms of whole queries and keys, a scale of each channel behind attention and MLP."""

    def project(self, x: Tensor) -> Projected:
        attn, x = self.attn, self.block.layernorm_before(x)
        sides = attn.q_norm(attn.q_proj(x)), attn.k_norm(attn.k_proj(x)), attn.v_proj(x)
        return Projected(*(side.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for side in sides))

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        out: Tensor = self.attn.projection_dropout(self.attn.projection_layer(context))
        scale: Tensor = self.block.lambda_1
        return x + scale * out

    def mlp(self, x: Tensor) -> Tensor:
        block = self.block
        out: Tensor = block.dropout(block.mlp(block.layernorm_after(x)))
        scale: Tensor = block.lambda_2
        return x + scale * out


def kind_of(tower: nn.Module) -> Family | None:
    """The kind of tower, None for one whose blocks are not known here."""
    return next((kind for kind in KINDS if isinstance(tower, kind.tower)), None)


def blocks_of(tower: nn.Module, kind: Family) -> list[nn.Module]:
    """Its blocks."""
    holder: nn.Module = getattr(tower, kind.holder)
    return list(getattr(holder, kind.blocks))


def view_of(block: nn.Module, kind: Family) -> BlockView:
    """The view of one of its blocks."""
    return (InternView if kind.tower is InternVLVisionModel else PreNormView)(block, kind.parts)
