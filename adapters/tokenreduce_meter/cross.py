"""METER's co-attention levels as a stack of two sequences.

A level is a text block with the image as memory, then an image block with the text as memory. In "parallel"
order the image block sees the text as it was before the level.

Axes: B batch, T text tokens, N image tokens, C width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce import BlockView, Role, Stack, UnsupportedModelError
from tokenreduce_transformers.bert import BertView, additive

PARTS = ("attention", "crossattention", "intermediate", "output")


class CrossStack(Stack):
    """The levels of a METER model; users count levels."""

    name = "cross"
    prefix = {"text": 1, "image": 1}
    sequences = (("text",), ("image",))
    reader = 0
    padded = True

    def __init__(self, model: nn.Module, sequential: bool) -> None:
        self.model = self.module = model
        pairs = zip(model.cross_modal_text_layers, model.cross_modal_image_layers, strict=True)
        self.blocks = [layer for pair in pairs for layer in pair]
        self.levels = [(2 * i, 2 * i + 1) for i in range(len(self.blocks) // 2)]
        self.sequential = sequential

    def role(self, index: int) -> Role:
        return Role("image", "text") if index % 2 else Role("text", "image")

    def view(self, block: nn.Module) -> BlockView:
        if not all(hasattr(block, part) for part in PARTS):
            raise UnsupportedModelError(f"{type(block).__name__} lacks one of {', '.join(PARTS)}; not METER's layer")
        return BertView(block)

    def reference(
        self,
        block: nn.Module,
        x: Tensor,
        real: Tensor | None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
    ) -> Tensor:
        everything = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        assert memory is not None
        mask = additive(everything if real is None else real, x)
        memory_mask = additive(everything[:, : memory.shape[1]] if memory_real is None else memory_real, x)
        return self.unpack(block.forward(x, memory, mask, memory_mask))

    def pack(self, x: Tensor) -> tuple[Tensor]:
        return (x,)

    def unpack(self, returned: Any) -> Tensor:
        return returned[0]

    def forward(self, run: Any, text: Tensor, image: Tensor, attention_mask: Tensor | None = None) -> Any:
        run.start(text, {"text": text.shape[1]}, None if attention_mask is None else attention_mask.bool())
        run.start(image, {"image": image.shape[1]})
        for text_block, image_block in self.levels:
            old = text
            text, image = run.block(text_block, text, image)
            seen = text if self.sequential else run.follow("text", old, since=text_block)
            image, seen = run.block(image_block, image, seen)
            text = seen if self.sequential else run.follow("text", text, since=image_block)
        return run.finish(text, image)
