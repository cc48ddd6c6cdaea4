"""The table of vLLM's models: what differs between the families. Imports nothing of vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Family:
    """One family.

    Args:
        module, model: where vLLM has it.
        tokens: what an image token is made of: one ``"patch"``; a patch of one of an image's tiles, which are put
            together with separators between their rows (``"tile"``); or a ``"cell"`` of patches.
    """

    module: str
    model: str
    tokens: Literal["patch", "tile", "cell"]


FAMILIES: Mapping[str, Family] = {
    "LlavaForConditionalGeneration": Family("llava", "LlavaForConditionalGeneration", "patch"),
    "LlavaNextForConditionalGeneration": Family("llava_next", "LlavaNextForConditionalGeneration", "tile"),
    "LlavaOnevisionForConditionalGeneration": Family(
        "llava_onevision", "LlavaOnevisionForConditionalGeneration", "tile"
    ),
    "InternVLForConditionalGeneration": Family("interns1", "InternS1ForConditionalGeneration", "cell"),
}
MROPE = (
    "its positions have three axes (mRoPE), and vLLM counts those of an image before the encoder has run, from the "
    "whole grid of its tokens"
)
REFUSED: Mapping[str, str] = {
    "Qwen2VLForConditionalGeneration": MROPE,
    "Qwen2_5_VLForConditionalGeneration": MROPE,
    "Qwen3VLForConditionalGeneration": MROPE,
    "Qwen3VLMoeForConditionalGeneration": MROPE,
    "InternVLChatModel": "it is InternVL in a format of its own; serve the one of transformers (its name ends in -hf)",
    "MllamaForConditionalGeneration": "its image is a memory beside the prompt, not a part of it",
}
"""Architectures that are known not to work, and why."""


def reason(architecture: str) -> str:
    """Why an architecture is not served with fewer tokens."""
    return REFUSED.get(architecture, "this package does not know how its image tokens are laid out in the prompt")
