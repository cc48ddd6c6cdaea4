"""ViTMAE of transformers: the encoder, which sees a random part of the patches, alone or under the decoder.

Patches are hidden before the first block, so the encoder's tokens are those that it sees, in a random order. Whoever
reads the encoder puts its tokens back in place by ``ids_restore``: every one of them is restored, in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import ViTMAEConfig
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEForPreTraining, ViTMAELayer, ViTMAEModel

from tokenreduce.backbones import Example
from tokenreduce.errors import UnsupportedModelError

from .tiny import VISION, pixels, tiny
from .towers import Family, Head, TowerAdapter
from .vit import PARTS

HEADS = {ViTMAEModel: Head("full"), ViTMAEForPreTraining: Head("full", whole=True)}
DECODER: dict[str, Any] = {
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}


class ViTMAE(TowerAdapter):
    """A ``ViTMAEModel``, bare, under its decoder, or under a head of your own; the decoder is left as it is."""

    families = (Family(ViTMAEModel, ViTMAEModel, ViTMAELayer, PARTS, 1, heads=HEADS),)

    def resize(self, model: nn.Module, height: int, width: int) -> nn.Module:
        for module in model.modules():
            if isinstance(module, ViTMAEForPreTraining):
                raise UnsupportedModelError(
                    f"the decoder of {type(module).__name__} has positions of its own, which are not resized; resize "
                    "its encoder (model.vit)"
                )
        return super().resize(model, height, width)

    def refusals(self, model: nn.Module) -> dict[str, str]:
        if not any(isinstance(module, ViTMAEForPreTraining) for module in model.modules()):
            return {}
        return {"decoder": "it predicts the pixels of every patch, and needs every token at its place"}

    def examples(self) -> dict[str, Callable[[], Example]]:
        return {
            "ViTMAEModel": partial(_example, ViTMAEModel, mask_ratio=0.0),
            "ViTMAEModel, half of the patches": partial(_example, ViTMAEModel, mask_ratio=0.5),
            "ViTMAEForPreTraining": partial(_example, ViTMAEForPreTraining, mask_ratio=0.5),
        }


def _example(kind: type[nn.Module], **options: Any) -> Example:
    noise = torch.rand(2, 25, generator=torch.Generator().manual_seed(4))  # which patches are seen, and in which order
    config = ViTMAEConfig(**{**VISION, **DECODER, **options})
    return Example(tiny(kind, config), {"pixel_values": pixels(), "noise": noise})
