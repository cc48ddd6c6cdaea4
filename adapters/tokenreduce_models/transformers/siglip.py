"""SigLIP of transformers: no class token; a pooling head attends to the patches.

Attention pooling and the classifier's mean must see a merged token as often as it has members, so merged tokens
are repeated at the end. Bare tower and dual encoder share one space with the text: a token's place in it is what
the pooling head makes of that token alone (with one token its attention is 1: value path, norm and MLP).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, SiglipConfig, SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import (
    SiglipEncoder,
    SiglipEncoderLayer,
    SiglipForImageClassification,
    SiglipModel,
    SiglipTextModel,
    SiglipVisionModel,
)

from tokenreduce.backbones import Example, Stack
from tokenreduce.errors import UnsupportedModelError

from .clip import PARTS
from .tiny import LABELS, TEXT, VISION, pixels, tiny, words
from .towers import UNKNOWN, Family, Head, Part, TowerAdapter

HEADS = {
    SiglipModel: Head("repeated"),
    SiglipForImageClassification: Head("repeated"),
    SiglipVisionModel: Head("repeated"),
}
TEXT_REASON = "SigLIP's text tower is read at its last position, which must keep its place"


class Siglip(TowerAdapter):
    """A ``SiglipVisionModel``, bare, in one of the library's models, or under a head of your own."""

    families = (Family(SiglipVisionModel, SiglipEncoder, SiglipEncoderLayer, PARTS, 0, heads=HEADS),)

    def accepts(self, model: nn.Module) -> bool:
        return isinstance(model, SiglipTextModel) or super().accepts(model)

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        if isinstance(model, SiglipTextModel):
            raise UnsupportedModelError(f"{type(model).__name__}: {TEXT_REASON}")
        return super().stacks(model)

    def head(self, model: nn.Module, family: Family, tower: PreTrainedModel) -> Head:
        if model is tower and not tower.use_head:
            return UNKNOWN  # its tokens are all that it gives
        return super().head(model, family, tower)

    def projection(self, model: nn.Module, tower: PreTrainedModel) -> list[Callable[[Tensor], Tensor]]:
        if tower.use_head and not isinstance(model, SiglipForImageClassification):
            return [Part(tower, "post_layernorm"), OneByOne(tower)]
        return []

    def refusals(self, model: nn.Module) -> dict[str, str]:
        return {"text": TEXT_REASON} if isinstance(model, SiglipModel) else {}

    def examples(self) -> dict[str, Callable[[], Example]]:
        kinds = (SiglipModel, SiglipVisionModel, SiglipForImageClassification)
        return {kind.__name__: partial(_example, kind) for kind in kinds}


class OneByOne:
    """A tower's pooling head, given one token at a time: (B, N, C) to (B, N, C)."""

    def __init__(self, tower: nn.Module) -> None:
        self.head = Part(tower, "head")

    def __call__(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.head(x.flatten(0, 1).unsqueeze(1))
        return torch.unflatten(pooled, 0, x.shape[:2])


def _example(kind: type[nn.Module]) -> Example:
    inputs = {"pixel_values": pixels()}
    if kind is SiglipVisionModel:
        return Example(tiny(kind, SiglipVisionConfig(**VISION)), inputs)
    if kind is SiglipModel:
        inputs["input_ids"] = words()
    return Example(tiny(kind, SiglipConfig(text_config=TEXT, vision_config=VISION, **LABELS)), inputs)
