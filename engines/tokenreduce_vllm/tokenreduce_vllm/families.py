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
        mrope: whether its positions have three axes, which every token keeps.
    """

    module: str
    model: str
    tokens: Literal["patch", "tile", "cell"]
    mrope: bool = False


FAMILIES: Mapping[str, Family] = {
    "LlavaForConditionalGeneration": Family("llava", "LlavaForConditionalGeneration", "patch"),
    "LlavaNextForConditionalGeneration": Family("llava_next", "LlavaNextForConditionalGeneration", "tile"),
    "LlavaOnevisionForConditionalGeneration": Family(
        "llava_onevision", "LlavaOnevisionForConditionalGeneration", "tile"
    ),
    "InternVLForConditionalGeneration": Family("interns1", "InternS1ForConditionalGeneration", "cell"),
    "Qwen2_5_VLForConditionalGeneration": Family(
        "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", "cell", mrope=True
    ),
}
MROPE = (
    "its positions have three axes (mRoPE), and its class in vLLM cannot say again where its tokens stand, after they "
    "have been chosen (recompute_mrope_positions)"
)
DEEP = (
    "what it adds to its tokens behind the first layers would have to follow them, which this package does not do yet"
)
REFUSED: Mapping[str, str] = {
    "Qwen2VLForConditionalGeneration": MROPE,
    "Qwen3VLForConditionalGeneration": DEEP,
    "Qwen3VLMoeForConditionalGeneration": DEEP,
    "InternVLChatModel": "it is InternVL in a format of its own; serve the one of transformers (its name ends in -hf)",
    "MllamaForConditionalGeneration": "its image is a memory beside the prompt, not a part of it",
}
"""Architectures that are known not to work, and why."""


def reason(architecture: str) -> str:
    """Why an architecture is not served with fewer tokens."""
    return REFUSED.get(architecture, "this package does not know how its image tokens are laid out in the prompt")
