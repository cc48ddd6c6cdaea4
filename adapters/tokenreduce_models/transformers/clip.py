"""CLIP of transformers: the vision tower, alone, with its projection, in the dual encoder, under a classifier.

The pooled class token is the product of ``CLIPVisionModel``, ``CLIPVisionModelWithProjection`` and
``CLIPModel``, so their ``last_hidden_state`` has fewer tokens while attached; ``restore=True`` at attach brings
every token back to its place. Any other model around the tower gets every token.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from transformers import CLIPConfig, CLIPVisionConfig, PreTrainedModel
from transformers.models.clip.modeling_clip import (
    CLIPEncoder,
    CLIPEncoderLayer,
    CLIPForImageClassification,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

from tokenreduce.backbones import Example, Stack
from tokenreduce.errors import UnsupportedModelError

from .prenorm import Parts
from .tiny import LABELS, TEXT, VISION, pixels, tiny, words
from .towers import Family, Head, Part, TowerAdapter

PARTS = Parts("self_attn", "layer_norm1", "layer_norm2", "out_proj", "num_heads", "scale", "dropout")
HEADS = {
    CLIPModel: Head("reduced"),
    CLIPVisionModelWithProjection: Head("reduced"),
    CLIPVisionModel: Head("reduced"),
    CLIPForImageClassification: Head("repeated", class_token=False),  # the mean of the patches
}
TEXT_REASON = "CLIP's text tower attends causally and is read at the end-of-text position, which must keep its place"


class Clip(TowerAdapter):
    """A ``CLIPVisionModel``, bare, in one of the library's models, or under a head of your own."""

    families = (Family(CLIPVisionModel, CLIPEncoder, CLIPEncoderLayer, PARTS, 1, heads=HEADS),)

    def accepts(self, model: nn.Module) -> bool:
        return isinstance(model, (CLIPTextModel, CLIPTextModelWithProjection)) or super().accepts(model)

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        if isinstance(model, (CLIPTextModel, CLIPTextModelWithProjection)):
            raise UnsupportedModelError(f"{type(model).__name__}: {TEXT_REASON}")
        return super().stacks(model)

    def projection(self, model: nn.Module, tower: PreTrainedModel) -> list[Callable[[Tensor], Tensor]]:
        if isinstance(model, (CLIPModel, CLIPVisionModelWithProjection)):
            return [Part(tower, "post_layernorm"), Part(model, "visual_projection")]
        return []

    def refusals(self, model: nn.Module) -> dict[str, str]:
        return {"text": TEXT_REASON} if isinstance(model, CLIPModel) else {}

    def examples(self) -> dict[str, Callable[[], Example]]:
        kinds = (CLIPModel, CLIPVisionModel, CLIPVisionModelWithProjection, CLIPForImageClassification)
        return {kind.__name__: partial(_example, kind) for kind in kinds}


def _example(kind: type[nn.Module]) -> Example:
    inputs = {"pixel_values": pixels()}
    if kind in (CLIPVisionModel, CLIPVisionModelWithProjection):
        return Example(tiny(kind, CLIPVisionConfig(**VISION, projection_dim=16)), inputs)
    if kind is CLIPModel:
        inputs["input_ids"] = words()
    return Example(tiny(kind, CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16, **LABELS)), inputs)
