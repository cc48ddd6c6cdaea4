"""Dual encoders that score pictures against texts. Axes: B batch, K texts, D width of the shared space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OptionError


class ZeroShot(nn.Module):
    """A dual encoder and the texts that each picture is scored against.

    A subclass says how the model encodes. The texts are encoded once, by :meth:`learn`: they are the same for every
    picture, and nothing reduces them. Attach to this module: adapters find the tower of pictures inside.

    Args:
        model: the dual encoder.
    """

    model: Any
    texts: Tensor | None

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("texts", None, persistent=False)

    def image_features(self, pixels: Tensor) -> Tensor:
        """Pixels to (B, D)."""
        raise OptionError(f"{type(self).__name__} does not define image_features(pixels)")

    def text_features(self, **tokens: Tensor) -> Tensor:
        """Tokens to (K, D)."""
        raise OptionError(f"{type(self).__name__} does not define text_features(**tokens)")

    def scaled(self, cosines: Tensor) -> Tensor:
        """Cosines (B, K) to the logits of the model."""
        return cosines

    @torch.no_grad()
    def learn(self, parts: Iterable[Mapping[str, Tensor]]) -> None:
        """Encode and keep the texts, given as tokens in parts of any size."""
        self.texts = torch.cat([F.normalize(self.text_features(**tokens), dim=-1) for tokens in parts])

    def forward(self, pixel_values: Tensor, **tokens: Any) -> Tensor:
        """Logits (B, K) against the learnt texts, or against those of ``tokens`` if there are any."""
        image = F.normalize(self.image_features(pixel_values), dim=-1)
        texts = F.normalize(self.text_features(**tokens), dim=-1) if tokens else self.texts
        return image.new_zeros(len(image), 0) if texts is None else self.scaled(image @ texts.T)
