"""Language models with images whose layers know more of other tokens than masked attention, and which those are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

LINEAR = (
    "some of its layers are linear attention, whose state has every token in it in turn: leaving out a token is not "
    "the same as hiding it"
)
CONVOLUTION = "some of its layers are convolutions over neighbouring tokens: leaving out a token moves others together"
PER_LAYER = (
    "its layers are given inputs of their own for every token of the prompt (per-layer inputs), or share keys and "
    "values with earlier ones, so what is left of one layer does not fit the next"
)
MEMORY = (
    "the image is a memory that some of its layers attend to, not a part of the prompt, so there are no image tokens "
    "between its layers to leave out"
)
REFUSED: Mapping[str, str] = {
    "Qwen3_5Model": LINEAR,
    "Qwen3_5MoeModel": LINEAR,
    "Lfm2VlModel": CONVOLUTION,
    "Gemma3nModel": PER_LAYER,
    "Gemma4Model": PER_LAYER,
    "Gemma4UnifiedModel": PER_LAYER,
    "MllamaModel": MEMORY,
}
"""The reason by the name of transformers' class, so that none of them has to be imported."""


def refused_reason(model: nn.Module) -> str | None:
    """Why a model cannot be reduced that holds one of these; None where it holds none."""
    for module in model.modules():
        for kind in type(module).__mro__:
            if kind.__module__.startswith("transformers.models.") and kind.__name__ in REFUSED:
                return f"{kind.__name__}: {REFUSED[kind.__name__]}"
    return None
