"""torchvision's ``VisionTransformer``: ViT and SWAG models (``vit_b_16``, ``vit_h_14`` ...).

Axes: B batch, N tokens, C width, H heads, d head width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import Encoder, EncoderBlock

from tokenreduce.backbones import (
    Adapter,
    BlockView,
    Example,
    Pass,
    Projected,
    Size,
    Stack,
    check_size,
    current,
    pair,
    resize_grid,
)
from tokenreduce.errors import UnsupportedModelError

from .windows import reason, windowed


class EncoderBlockView(BlockView):
    """``EncoderBlock``: norm, torch's ``MultiheadAttention``, dropout, residual; the same for the MLP."""

    dropout = current(lambda view: view.attn.dropout)
    attention_parts = current(lambda view: [view.attn])
    mlp_parts = current(lambda view: [view.block.mlp])

    def __init__(self, block: EncoderBlock) -> None:
        self.block = block

    @property
    def attn(self) -> nn.MultiheadAttention:
        """The attention that the block has now."""
        attention: nn.MultiheadAttention = self.block.self_attention
        return attention

    def project(self, x: Tensor) -> Projected:
        attn = self.attn
        fused = F.linear(self.block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        query, key, value = torch.unflatten(fused, -1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return Projected(query, key, value)

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        out: Tensor = x + self.block.dropout(self.attn.out_proj(context))
        return out

    def mlp(self, x: Tensor) -> Tensor:
        block = self.block
        out: Tensor = x + block.mlp(block.ln_2(x))
        return out


class EncoderStack(Stack):
    """The layers of an ``Encoder``; they are an ``nn.Sequential`` whose forward is replaced."""

    name = "vision"
    prefix = {"image": 1}
    readout = 0

    def __init__(self, model: VisionTransformer) -> None:
        self.model, self.module = model, model.encoder.layers
        self.blocks = list(model.encoder.layers)
        reads_class_token = type(model).forward is VisionTransformer.forward
        self.output = "reduced" if reads_class_token else "full"
        self.head_rows = int(reads_class_token)
        self.passing = (model.encoder, model.encoder.layers, model.encoder.ln)

    @property
    def home(self) -> nn.Module:
        model: nn.Module = self.model
        return model

    def view(self, block: nn.Module) -> BlockView:
        if not isinstance(block, EncoderBlock):
            raise UnsupportedModelError(f"{type(block).__name__} is not torchvision's EncoderBlock")
        attention = block.self_attention
        if type(attention) is not nn.MultiheadAttention:
            raise UnsupportedModelError(
                f"{type(block).__name__} has {type(attention).__name__} where torchvision has MultiheadAttention; "
                "attach before wrapping or replacing the attention"
            )
        return EncoderBlockView(block)

    def forward(self, run: Pass, x: Tensor) -> Tensor:
        run.start(x, {"image": x.shape[1]})
        return run(x)

    def originals(self) -> list[tuple[nn.Module, str, Any]]:
        return [(self.module, "forward", nn.Sequential.forward), (self.model.encoder, "forward", Encoder.forward)]


class TorchvisionViT(Adapter):
    """A ``VisionTransformer``, or a model with one inside. Others of torchvision are refused with the reason."""

    def accepts(self, model: nn.Module) -> bool:
        ours = type(model).__module__.startswith("torchvision.models.")
        return ours or len(_towers(model)) > 0 or windowed(model) is not None

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        towers = _towers(model)
        if len(towers) != 1:
            found = f"holds {len(towers)} VisionTransformers; attach to one of them" if towers else reason(model)
            raise UnsupportedModelError(f"{type(model).__name__} {found}")
        return {"vision": EncoderStack(towers[0])}

    def patch_size(self, model: nn.Module) -> Size | None:
        return pair(_towers(model)[0].patch_size)

    def resize(self, model: nn.Module, height: int, width: int) -> nn.Module:
        tower = _towers(model)[0]
        grid = check_size(height, width, pair(tower.patch_size), pair(tower.image_size))
        if height != width:
            raise UnsupportedModelError(f"torchvision's ViT takes square images only, got {height} x {width}")
        old = tower.image_size // tower.patch_size
        copied = copy.deepcopy(model)
        tower = _towers(copied)[0]
        held = tower.encoder.pos_embedding
        positions = resize_grid(held[0], (old, old), grid, antialias=True)
        tower.encoder.pos_embedding = nn.Parameter(positions.unsqueeze(0), requires_grad=held.requires_grad)
        tower.image_size, tower.seq_length = height, len(positions)
        return copied

    def examples(self) -> dict[str, Callable[[], Example]]:
        from .examples import EXAMPLES

        return dict(EXAMPLES)


def _towers(model: nn.Module) -> list[VisionTransformer]:
    return [module for module in model.modules() if isinstance(module, VisionTransformer)]
