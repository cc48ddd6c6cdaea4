"""SigLIP 2 of transformers: patches of pictures of any shape (NaFlex), no class token, a pooling head.

The pooling head of tower and dual encoder sees a merged token as often as it has members, and no padding. The
classifier takes a mean by the mask of the patches that were given, so it gets every token at its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Siglip2Config, Siglip2VisionConfig
from transformers.models.siglip2.modeling_siglip2 import (
    Siglip2Encoder,
    Siglip2EncoderLayer,
    Siglip2ForImageClassification,
    Siglip2Model,
    Siglip2TextModel,
    Siglip2VisionModel,
)

from tokenreduce.backbones import Example, Stack
from tokenreduce.errors import UnsupportedModelError

from .clip import PARTS
from .siglip import TEXT_REASON, OneByOne
from .siglip2_stack import Siglip2Stack
from .tiny import LABELS, TEXT, VISION, tiny, words
from .towers import UNKNOWN, Family, Head, Part, TowerAdapter

HEADS = {
    Siglip2Model: Head("repeated"),
    Siglip2ForImageClassification: Head("full", whole=True),
    Siglip2VisionModel: Head("repeated"),
}


class Siglip2(TowerAdapter):
    """A ``Siglip2VisionModel``, bare, in one of the library's models, or under a head of your own."""

    families = (Family(Siglip2VisionModel, Siglip2Encoder, Siglip2EncoderLayer, PARTS, 0, heads=HEADS),)
    stack = Siglip2Stack

    def accepts(self, model: nn.Module) -> bool:
        return isinstance(model, Siglip2TextModel) or super().accepts(model)

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        if isinstance(model, Siglip2TextModel):
            raise UnsupportedModelError(f"{type(model).__name__}: {TEXT_REASON}")
        return super().stacks(model)

    def head(self, model: nn.Module, family: Family, tower: PreTrainedModel) -> Head:
        if model is tower and not tower.use_head:
            return UNKNOWN  # its tokens are all that it gives
        return super().head(model, family, tower)

    def projection(self, model: nn.Module, tower: PreTrainedModel) -> list[Callable[[Tensor], Tensor]]:
        if tower.use_head and not isinstance(model, Siglip2ForImageClassification):
            return [Part(tower, "post_layernorm"), OneByOne(tower)]
        return []

    def resize(self, model: nn.Module, height: int, width: int) -> nn.Module:
        raise UnsupportedModelError(
            f"{type(model).__name__} takes patches of pictures of any size; give its processor another max_num_patches"
        )

    def refusals(self, model: nn.Module) -> dict[str, str]:
        return {"text": TEXT_REASON} if isinstance(model, Siglip2Model) else {}

    def examples(self) -> dict[str, Callable[[], Example]]:
        return {kind.__name__: partial(_example, kind) for kind in HEADS}


def _example(kind: type[nn.Module]) -> Example:
    vision = {key: value for key, value in VISION.items() if key != "image_size"}
    vision |= {"num_patches": 25, "num_channels": 3}
    if kind is Siglip2VisionModel:
        return Example(tiny(kind, Siglip2VisionConfig(**vision)), patches())
    inputs = patches()
    if kind is Siglip2Model:
        inputs["input_ids"] = words()
    return Example(tiny(kind, Siglip2Config(text_config=TEXT, vision_config=vision, **LABELS)), inputs)


def patches(shapes: tuple[tuple[int, int], ...] = ((4, 5), (3, 4)), length: int = 20, seed: int = 1) -> dict[str, Any]:
    """Noise pictures of several rows and columns of patches of 8 x 8 pixels, padded to one length."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor([rows * columns for rows, columns in shapes])
    return {
        "pixel_values": torch.randn(len(shapes), length, 3 * 8 * 8, generator=generator),
        "pixel_attention_mask": (torch.arange(length) < counts[:, None]).long(),
        "spatial_shapes": torch.tensor(shapes),
    }
