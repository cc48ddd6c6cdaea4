"""The tokens of a sequence between two blocks, all but their features. Axes: B batch, N tokens now, N0 at the start."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class State:
    """The tokens of one sequence between two blocks, all but their features.

    Attributes:
        lengths: tokens of each stream, in sequence order.
        size: (B, N) input tokens that each stands for, None while all are 1.
        real: (B, N) False for padding, None when all are real.
        assignment: (B, N0) position of each input token, None when nobody asks.
        is_image: (B, N) modality, only once text and image were merged together.
        drops: whether any input token may have been dropped so far.
        text: number of text tokens at the start of the pass.
    """

    def __init__(
        self,
        lengths: Mapping[str, int],
        size: Tensor | None,
        real: Tensor | None,
        assignment: Tensor | None,
        is_image: Tensor | None = None,
        drops: bool = False,
        text: int = 0,
    ) -> None:
        self.lengths, self.size, self.real = lengths, size, real
        self.assignment, self.is_image, self.drops, self.text = assignment, is_image, drops, text

    def bias(self, like: Tensor, proportional: bool) -> Tensor | None:
        """Additive attention bias (B, 1, 1, N): minus infinity at padding, log size where asked for."""
        bias = None
        if proportional and self.size is not None:
            bias = self.size.log()
        if self.real is not None:
            bias = torch.zeros_like(self.real, dtype=like.dtype) if bias is None else bias
            bias = bias.masked_fill(~self.real, float("-inf"))
        return None if bias is None else bias.to(like.dtype)[:, None, None]
