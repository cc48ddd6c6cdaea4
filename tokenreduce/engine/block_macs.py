"""Multiply-adds of a block from its token counts alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from ..backbones.block import BlockView


def block_macs(
    view: BlockView,
    tokens_in: Any,
    tokens_out: Any,
    memory: Any = 0,
    heads: tuple[Any, Any] = (1, 1),
    rows: int | None = None,
) -> Any:
    """Multiply-adds of one block for one sample: attention on ``tokens_in``, MLP half on ``tokens_out``.

    Weight matrices times tokens, plus the two products of each attention (2 * tokens_in * keys * width; the width
    is the input of the output projection, the last linear layer of its part). ``memory`` is the number of
    tokens that a cross-attention has for keys. Each number may be (B,), one for each sample; so are the multiply-adds
    then. ``heads`` is the share of the heads that self- and cross-attention compute, whose projections count in full.
    Of the queries of the first ``rows`` tokens alone, every token still counts for the projections in front of
    attention.
    """
    if rows is not None:
        last, width = _output(view.attention_parts), _width(view.attention_parts)
        before = tokens_in * (_weights(view.attention_parts) - last)
        return before + rows * (last + 2 * tokens_in * width * heads[0] + _weights(view.mlp_parts))
    attention = tokens_in * (_weights(view.attention_parts) + 2 * tokens_in * _width(view.attention_parts) * heads[0])
    crossed = tokens_in * (_weights(view.cross_parts) + 2 * memory * _width(view.cross_parts) * heads[1])
    return attention + crossed + memory * _weights(view.memory_parts) + tokens_out * _weights(view.mlp_parts)


def _width(parts: Iterable[nn.Module]) -> int:
    linear = _linear(parts)
    return linear[-1].in_features if linear else 0


def _output(parts: Iterable[nn.Module]) -> int:
    """Weights of the output projection."""
    return _weights(_linear(parts)[-1:])


def _linear(parts: Iterable[nn.Module]) -> list[nn.Linear]:
    return [module for part in parts for module in part.modules() if isinstance(module, nn.Linear)]


def _weights(parts: Iterable[nn.Module]) -> int:
    return sum(p.numel() for part in parts for p in part.parameters() if p.ndim == 2)
