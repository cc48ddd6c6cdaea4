"""The table of language models with images: what differs between the families.

A family is one row: the classes, the names of its parts, how the tower is read, what an image token is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForConditionalGeneration, Gemma3Model
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration, LlavaModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel

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
        tokens: what an image token is made of: one ``"patch"``, the mean of a square cell (``"pool"``), or a cell
            concatenated in the tower (``"merge"``).
        read: ``"config"`` where the config says which hidden state of the tower is read, ``"last"`` for its output.
        axes: of its rotary positions: 1, or 3 for mRoPE.
    """

    inner: type[nn.Module]
    outer: tuple[type[nn.Module], ...]
    tower: str = "vision_tower"
    projector: str | None = "multi_modal_projector"
    tokens: Literal["patch", "pool", "merge"] = "patch"
    read: Literal["config", "last"] = "config"
    axes: int = 1
    language: str = "language_model"


FAMILIES: Mapping[str, LVLM] = {
    "llava": LVLM(LlavaModel, (LlavaForConditionalGeneration,)),
    "gemma3": LVLM(Gemma3Model, (Gemma3ForConditionalGeneration,), tokens="pool", read="last"),
    "qwen2_5_vl": LVLM(
        Qwen2_5_VLModel,
        (Qwen2_5_VLForConditionalGeneration,),
        tower="visual",
        projector=None,
        tokens="merge",
        read="last",
        axes=3,
    ),
}


def family_of(inner: nn.Module) -> LVLM | None:
    """The family of an inner model, None for any other module."""
    return next((family for family in FAMILIES.values() if isinstance(inner, family.inner)), None)


def placeholders(config: Any) -> dict[str, int]:
    """Token numbers that stand for images and for videos in a prompt."""
    found = {"image": config.image_token_id}
    if getattr(config, "video_token_id", None) is not None:
        found["video"] = config.video_token_id
    return found
