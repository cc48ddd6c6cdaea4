"""Blocks built like BERT's: post-norm attention, perhaps cross-attention, post-norm MLP.

Axes: B batch, N tokens, M memory tokens, C width, H heads, d head width.
"""

from __future__ import annotations

from torch import Tensor, nn

from tokenreduce import BlockView, Projected


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
