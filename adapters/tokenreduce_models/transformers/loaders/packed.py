"""Split inputs that hold the images of a whole batch in one tensor into a list with one entry per sample.

Axes: B batch, G patches of a picture, T tiles of a picture, K image tokens of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

POOLED = "image_token_pooling"
PACKED = (
    "InternVLForConditionalGeneration",
    "Molmo2ForConditionalGeneration",
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
)
"""Models whose ``pixel_values`` have no axis of samples."""


class Packed(nn.Module):
    """A model that is given a list with an entry for each sample where it expects them in one tensor.

    So samples can be taken out of a batch. Each sample has one picture.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def config(self) -> Any:
        return self.model.config

    def forward(self, **inputs: Any) -> Any:
        return self.model(**joined(inputs))

    def generate(self, **inputs: Any) -> Any:
        model: Any = self.model
        return model.generate(**joined(inputs))


def joined(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The lists among the inputs as the library's processor gives them: one tensor each."""
    whole = {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in inputs.items()}
    if POOLED in whole:  # these are places of patches among all of the batch
        begin, moved = 0, []
        for crops, places in zip(whole["pixel_values"], whole[POOLED], strict=True):
            moved.append(torch.where(places >= 0, places + begin, places))
            begin += crops.shape[0] * crops.shape[1]
        whole[POOLED] = moved
    return {name: torch.cat(value) if isinstance(value, list) else value for name, value in whole.items()}


def split(inputs: Mapping[str, Tensor], counts: Tensor) -> dict[str, Any]:
    """The reverse of :func:`joined`.

    Args:
        inputs: of a model of :data:`PACKED`.
        counts: (B,) placeholders of each sample's picture.
    """
    found: dict[str, Any] = dict(inputs)
    pixels = inputs["pixel_values"]
    if "image_grid_thw" in inputs:  # Qwen: (all G, ...)
        sizes = inputs["image_grid_thw"].prod(dim=1)
    elif POOLED in inputs:  # Molmo2: (all T, G, ...), and (all K, patches of a token)
        sizes, grids = inputs["image_num_crops"], inputs["image_grids"]
        tokens = grids[:, 0] * grids[:, 1] + grids[:, 2] * grids[:, 3]
        places, begin = list(torch.split(inputs[POOLED], tokens.tolist())), 0
        for i, crops in enumerate(sizes.tolist()):
            places[i] = torch.where(places[i] >= 0, places[i] - begin, places[i])
            begin += crops * pixels.shape[1]
        found[POOLED] = places
    else:  # InternVL: (all T, 3, H, W), equally many tokens each
        sizes = counts * len(pixels) // counts.sum()
    found["pixel_values"] = list(torch.split(pixels, sizes.tolist()))
    return found
