"""Multiply-adds of a block from its token counts alone."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ..adapter import BlockView


def block_macs(view: BlockView, tokens_in: int, tokens_out: int) -> int:
    """Multiply-adds of one block for one sample: attention half on ``tokens_in``, MLP half on ``tokens_out``.

    Weight matrices times tokens, plus the two attention products (2 * tokens_in^2 * attention width, taken
    from the output projection's input).
    """
    width = 0
    for part in view.attention_parts:
        for module in part.modules():
            if isinstance(module, nn.Linear):
                width = module.in_features  # the last linear layer of the half is the output projection
    products = 2 * tokens_in**2 * width
    return tokens_in * _weights(view.attention_parts) + products + tokens_out * _weights(view.mlp_parts)


def _weights(parts: Iterable[nn.Module]) -> int:
    return sum(p.numel() for part in parts for p in part.parameters() if p.ndim == 2)
