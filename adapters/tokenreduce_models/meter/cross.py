"""METER's co-attention levels as a stack of two sequences.

In "parallel" order the image block of a level sees the text as it was before the level.

Axes: B batch, T text tokens, N image tokens, C width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tokenreduce.backbones import Pass
from tokenreduce_models.transformers.bert import CoAttention

from .published import Published

if TYPE_CHECKING:  # needs open_clip
    from .model import MeterEncoder


class CrossStack(CoAttention):
    """The levels of a METER model; users count levels."""

    def __init__(self, model: MeterEncoder | Published, sequential: bool) -> None:
        super().__init__(model.cross_modal_text_layers, model.cross_modal_image_layers)
        self.module = model
        self.sequential = sequential

    def checkpointer(self, block: nn.Module) -> Callable[..., Any] | None:
        if not (getattr(block, "gradient_checkpointing", False) and block.training):
            return None
        layer: Any = block  # a GradientCheckpointingLayer
        function: Callable[..., Any] = layer._gradient_checkpointing_func
        return function

    def run_levels(
        self, run: Pass, text: Tensor, image: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Text (B, T, C) and image (B, N, C) after all levels; ``attention_mask`` (B, T) is 0 for padding."""
        run.start(text, {"text": text.shape[1]}, None if attention_mask is None else attention_mask.bool())
        run.start(image, {"image": image.shape[1]})
        for text_block, image_block in self.levels:
            old = text
            text, image = run.block(text_block, text, image)
            seen = text if self.sequential else run.follow("text", old, since=text_block)
            image, seen = run.block(image_block, image, seen)
            text = seen if self.sequential else run.follow("text", text, since=image_block)
        return run.finish(text, image)
