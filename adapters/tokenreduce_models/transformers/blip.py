"""BLIP of transformers: its vision tower, and the text encoder that attends to its tokens (stack ``"cross"``).

Text that attends to the image must see a merged token as often as it has members, so merged tokens are repeated
at the end; ``restore=False`` at attach hands the text fewer tokens instead. A bare tower gives every token.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from transformers import BlipConfig, BlipVisionConfig, PreTrainedModel
from transformers.models.blip.modeling_blip import (
    BlipEncoder,
    BlipEncoderLayer,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
    BlipModel,
    BlipVisionModel,
)
from transformers.models.blip.modeling_blip_text import BlipTextModel

from tokenreduce.backbones import Example, Stack

from .blip_text import BlipTextStack
from .prenorm import Parts
from .tiny import TEXT, VISION, pixels, tiny, words
from .towers import Family, Head, Part, TowerAdapter

PARTS = Parts(
    "self_attn",
    "layer_norm1",
    "layer_norm2",
    "projection",
    "num_heads",
    "scale",
    "dropout",
    qkv=("qkv",),
    chooses=False,
)
HEADS = {
    BlipVisionModel: Head("full"),
    BlipModel: Head("repeated"),  # pooled, but get_multimodal_features lets text attend
    BlipForConditionalGeneration: Head("repeated"),
    BlipForQuestionAnswering: Head("repeated"),
    BlipForImageTextRetrieval: Head("repeated"),
}
TEXT_REASON = "it is causal, or sees no image; text that attends to the image is the stack 'cross', where there is any"


class Blip(TowerAdapter):
    """A ``BlipVisionModel``, bare, in one of the library's models, or under a head of your own."""

    families = (Family(BlipVisionModel, BlipEncoder, BlipEncoderLayer, PARTS, 1, heads=HEADS),)

    def projection(self, model: nn.Module, tower: PreTrainedModel) -> list[Callable[[Tensor], Tensor]]:
        if isinstance(model, BlipModel):
            norm = Part(tower, "post_layernorm")
            return [norm, norm, Part(model, "visual_projection")]  # its pooler norms again
        if isinstance(model, BlipForImageTextRetrieval):
            return [Part(tower, "post_layernorm"), Part(model, "vision_proj")]
        return []

    def stacks(self, model: nn.Module) -> dict[str, Stack]:
        found = super().stacks(model)
        texts = [m for m in model.modules() if isinstance(m, BlipTextModel) and _attends(model, m)]
        return {**found, "cross": BlipTextStack(texts[0])} if len(texts) == 1 else found

    def refusals(self, model: nn.Module) -> dict[str, str]:
        return {} if isinstance(model, BlipVisionModel) else {"text": TEXT_REASON}

    def examples(self) -> dict[str, Callable[[], Example]]:
        return {kind.__name__: partial(_example, kind) for kind in HEADS}


def _attends(model: nn.Module, text: BlipTextModel) -> bool:
    """Whether it is a text encoder that sees the image (and not a decoder's inner model, or BLIP's plain encoder)."""
    return any(getattr(module, "text_encoder", None) is text for module in model.modules())


def _example(kind: type[nn.Module]) -> Example:
    inputs = {"pixel_values": pixels()}
    if kind is BlipVisionModel:
        return Example(tiny(kind, BlipVisionConfig(**VISION)), inputs)
    inputs["input_ids"] = words()
    if kind is BlipForQuestionAnswering:
        inputs["decoder_input_ids"] = words(length=4, seed=3)
    text = {**TEXT, "encoder_hidden_size": 32, "projection_dim": 16, "sep_token_id": 98}
    config = BlipConfig(text_config=text, vision_config=VISION, projection_dim=16, image_text_hidden_size=16)
    return Example(tiny(kind, config), inputs)
