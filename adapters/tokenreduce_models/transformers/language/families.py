"""The table of language models with images: what differs between the families.

A family is one row: the classes, the names of its parts, how the tower is read, what an image token is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForConditionalGeneration, Gemma3Model
from transformers.models.idefics3.modeling_idefics3 import Idefics3ForConditionalGeneration, Idefics3Model
from transformers.models.internvl.modeling_internvl import InternVLForConditionalGeneration, InternVLModel
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration, LlavaModel
from transformers.models.llava_next.modeling_llava_next import LlavaNextForConditionalGeneration, LlavaNextModel
from transformers.models.llava_onevision.modeling_llava_onevision import (
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionModel,
)
from transformers.models.mistral3.modeling_mistral3 import Mistral3ForConditionalGeneration, Mistral3Model
from transformers.models.molmo2.modeling_molmo2 import Molmo2ForConditionalGeneration, Molmo2Model
from transformers.models.paligemma.modeling_paligemma import PaliGemmaForConditionalGeneration, PaliGemmaModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLForConditionalGeneration, Qwen2VLModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration, Qwen3VLModel
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMForConditionalGeneration, SmolVLMModel
from transformers.models.vipllava.modeling_vipllava import VipLlavaForConditionalGeneration, VipLlavaModel

PATCHES = frozenset({"received_attention", "paid_attention", "received_logits", "paid_logits"})
"""What the patches pay one another."""
TOWER = PATCHES | {"keys", "encoder_features"}


@dataclass(frozen=True)
class LVLM:
    """One family.

    Args:
        inner: the model that takes images and text and gives hidden states.
        outer: the models around it that compute logits.
        tower: the inner model's vision tower.
        projector: its projector, None where the tower has it inside.
        tokens: what an image token is made of: one ``"patch"``, the mean of a square cell (``"pool"``), a cell
            concatenated in the tower (``"merge"``) or in the projector (``"cell"``), or a patch of one of an image's
            tiles, which are put together with separators between their rows (``"tile"``).
        read: ``"config"`` where the config says which hidden state of the tower is read, ``"last"`` for its output.
        axes: of its rotary positions: 1, or 3 for mRoPE.
        language: the inner model's language model.
        groups: how the tiles of an image are told: ``"one"`` has a single item of features per image, ``"run"``
            several whose placeholders touch, ``"mark"`` several up to one that a token of its own stands before.
    """

    inner: type[nn.Module]
    outer: tuple[type[nn.Module], ...]
    tower: str = "vision_tower"
    projector: str | None = "multi_modal_projector"
    tokens: Literal["patch", "pool", "merge", "cell", "tile"] = "patch"
    read: Literal["config", "last"] = "config"
    axes: int = 1
    language: str = "language_model"
    groups: Literal["one", "run", "mark"] = "one"

    @property
    def tiled(self) -> bool:
        """Whether an image may be of several tiles."""
        return self.tokens == "tile" or self.groups != "one"


QWEN = LVLM(Qwen2VLModel, (Qwen2VLForConditionalGeneration,), "visual", None, "merge", "last", axes=3)
IDEFICS = LVLM(
    Idefics3Model,
    (Idefics3ForConditionalGeneration,),
    "vision_model",
    "connector",
    "cell",
    "last",
    language="text_model",
    groups="mark",
)
FAMILIES: Mapping[str, LVLM] = {
    "llava": LVLM(LlavaModel, (LlavaForConditionalGeneration,)),
    "llava_next": LVLM(LlavaNextModel, (LlavaNextForConditionalGeneration,), tokens="tile"),
    "llava_onevision": LVLM(LlavaOnevisionModel, (LlavaOnevisionForConditionalGeneration,), tokens="tile"),
    "vipllava": LVLM(VipLlavaModel, (VipLlavaForConditionalGeneration,)),
    "paligemma": LVLM(PaliGemmaModel, (PaliGemmaForConditionalGeneration,), read="last"),
    "gemma3": LVLM(Gemma3Model, (Gemma3ForConditionalGeneration,), tokens="pool", read="last"),
    "qwen2_vl": QWEN,
    "qwen2_5_vl": replace(QWEN, inner=Qwen2_5_VLModel, outer=(Qwen2_5_VLForConditionalGeneration,)),
    "qwen3_vl": replace(QWEN, inner=Qwen3VLModel, outer=(Qwen3VLForConditionalGeneration,)),
    "internvl": LVLM(InternVLModel, (InternVLForConditionalGeneration,), tokens="cell", groups="run"),
    "idefics3": IDEFICS,
    "smolvlm": replace(IDEFICS, inner=SmolVLMModel, outer=(SmolVLMForConditionalGeneration,)),
    "mistral3": LVLM(Mistral3Model, (Mistral3ForConditionalGeneration,), tokens="cell"),
    "molmo2": LVLM(Molmo2Model, (Molmo2ForConditionalGeneration,), tokens="cell"),
}


def family_of(inner: nn.Module) -> LVLM | None:
    """The family of an inner model, None for any other module."""
    return next((family for family in FAMILIES.values() if isinstance(inner, family.inner)), None)


def feature_layer(config: Any) -> Any:
    """Which hidden state of the tower is read, or which ones; versions of the library call it differently."""
    found = getattr(config, "vision_feature_layer", None)
    return getattr(config, "vision_feature_layers", None) if found is None else found


def placeholders(config: Any) -> dict[str, int]:
    """Token numbers that stand for images and for videos in a prompt."""
    found = {"image": config.image_token_id}
    if getattr(config, "video_token_id", None) is not None:
        found["video"] = config.video_token_id
    return found
