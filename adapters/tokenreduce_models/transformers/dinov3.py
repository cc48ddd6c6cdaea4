"""DINOv3's ViT of transformers: rotary positions, a class token and registers.

The tokens of a bare ``DINOv3ViTModel`` all come back to their places; ``restore=False`` at attach leaves the shorter
sequence to who reads ``pooler_output`` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from transformers import DINOv3ViTConfig, PreTrainedModel
from transformers.models.dinov3_vit.modeling_dinov3_vit import (
    DINOv3ViTBackbone,
    DINOv3ViTEncoder,
    DINOv3ViTLayer,
    DINOv3ViTModel,
)

from tokenreduce.backbones import Example, Stack, check_size, pair
from tokenreduce.errors import UnsupportedModelError

from .prenorm import Parts
from .rotary import RotaryStack
from .tiny import VISION, pixels, tiny
from .towers import Family, Head, TowerAdapter

PARTS = Parts(
    "attention",
    "norm1",
    "norm2",
    "o_proj",
    "num_heads",
    "scaling",
    "dropout",
    after1=("layer_scale1", "drop_path"),
    after2=("layer_scale2", "drop_path"),
)
HEADS = {DINOv3ViTModel: Head("full")}


class Dinov3(TowerAdapter):
    """A ``DINOv3ViTModel``, bare, or under a head of your own."""

    families = (Family(DINOv3ViTModel, DINOv3ViTEncoder, DINOv3ViTLayer, PARTS, 1, "layer", HEADS, holder="model"),)
    stack = RotaryStack

    def accepts(self, model: nn.Module) -> bool:
        return any(isinstance(module, DINOv3ViTBackbone) for module in model.modules()) or super().accepts(model)

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        if any(isinstance(module, DINOv3ViTBackbone) for module in model.modules()):
            raise UnsupportedModelError(
                "DINOv3ViTBackbone makes feature maps of the tokens between blocks, where all of them must be at their "
                "places; use DINOv3ViTModel and reshape its last_hidden_state"
            )
        return super().stacks(model)

    def prefix(self, family: Family, tower: PreTrainedModel) -> int:
        return family.prefix + int(tower.config.num_register_tokens)

    def resize(self, model: nn.Module, height: int, width: int) -> nn.Module:
        """The model itself: its rotary positions are computed for the pictures of each pass."""
        config = self.towers(model)[0][1].config
        check_size(height, width, pair(config.patch_size), pair(config.image_size))
        return model

    def examples(self) -> dict[str, Callable[[], Example]]:
        return {
            "DINOv3ViTModel": _example,
            "DINOv3ViTModel, gated MLP": partial(_example, use_gated_mlp=True, num_register_tokens=1),
        }


def _example(**options: Any) -> Example:
    config = DINOv3ViTConfig(**{**VISION, "num_register_tokens": 3, "layerscale_value": 0.5, **options})
    return Example(tiny(DINOv3ViTModel, config), {"pixel_values": pixels()})
