"""Blocks built like BERT's (post-norm attention, perhaps cross-attention, post-norm MLP), and levels of them.

Axes: B batch, N tokens, M memory tokens, C width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce import BlockView, Projected, Role, Stack, UnsupportedModelError

PARTS = ("attention", "crossattention", "intermediate", "output")


class BertView(BlockView):
    """``attention``, ``crossattention`` where there is one, ``intermediate`` and ``output``; norms come last."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        attention = layer.attention.self
        self.dropout = attention.dropout.p
        self.attention_parts = [layer.attention]
        self.mlp_parts = [layer.intermediate, layer.output]
        crossed = getattr(layer, "crossattention", None)
        if crossed is not None:
            self.cross_parts = [crossed.self.query, crossed.output]
            self.memory_parts = [crossed.self.key, crossed.self.value]
            self.memory_width = crossed.self.key.in_features

    def project(self, x: Tensor) -> Projected:
        return project(self.layer.attention.self, x, x)

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        return self.layer.attention.output(context, x)

    def project_memory(self, x: Tensor, memory: Tensor) -> Projected:
        return project(self.layer.crossattention.self, x, memory)

    def attend_memory(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        return self.layer.crossattention.output(context, x)

    def mlp(self, x: Tensor) -> Tensor:
        return self.layer.output(self.layer.intermediate(x), x)


def project(attention: nn.Module, x: Tensor, memory: Tensor) -> Projected:
    """Query of tokens (B, N, C), key and value of a memory (B, M, C'), in heads."""
    shape = (attention.num_attention_heads, attention.attention_head_size)
    pairs = ((attention.query, x), (attention.key, memory), (attention.value, memory))
    return Projected(*(linear(tokens).unflatten(-1, shape).transpose(1, 2) for linear, tokens in pairs))


def additive(real: Tensor | None, like: Tensor) -> Tensor | None:
    """The mask ``real`` (B, N) as BERT's layers take it: (B, 1, 1, N), 0 where real and very low at padding."""
    if real is None:
        return None
    low = like.new_full((), -1e30)
    return like.new_zeros(real.shape).masked_fill(~real, low)[:, None, None]


class CoAttention(Stack):
    """Levels of a text block with the image as memory, then an image block with the text as memory.

    A subclass runs them; its blocks take (tokens, memory, mask, memory mask) and return a tuple, tokens first.
    """

    name = "cross"
    prefix = {"text": 1, "image": 1}
    sequences = (("text",), ("image",))
    reader = 0
    padded = True

    def __init__(self, text_blocks: Iterable[nn.Module], image_blocks: Iterable[nn.Module]) -> None:
        self.blocks = [block for pair in zip(text_blocks, image_blocks, strict=True) for block in pair]
        self.levels = [(2 * i, 2 * i + 1) for i in range(len(self.blocks) // 2)]

    def role(self, index: int) -> Role:
        return Role("image", "text") if index % 2 else Role("text", "image")

    def view(self, block: nn.Module) -> BlockView:
        missing = [part for part in PARTS if not hasattr(block, part)]
        if missing:
            raise UnsupportedModelError(f"{type(block).__name__} has no {', '.join(missing)}; not a co-attention block")
        return BertView(block)

    def reference(
        self,
        block: nn.Module,
        x: Tensor,
        real: Tensor | None,
        memory: Tensor | None = None,
        memory_real: Tensor | None = None,
    ) -> Tensor:
        masks = [
            additive(torch.ones(tokens.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask, x)
            for tokens, mask in ((x, real), (memory, memory_real))
            if tokens is not None
        ]
        return self.unpack(block.forward(x, memory, *masks))

    def pack(self, x: Tensor) -> tuple[Tensor]:
        return (x,)

    def unpack(self, returned: Any) -> Tensor:
        return returned[0]
