"""The pre-norm block that the vision towers of transformers share, whatever its parts are called.

Axes: B batch, N tokens, C width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tokenreduce.backbones import BlockView, Projected


@dataclass(frozen=True)
class Parts:
    """Names of the parts of one kind of block.

    Args:
        attention, norm1, norm2: attributes of the block; its MLP is ``mlp``.
        out, heads, scale, dropout, qkv: attributes of its attention; one name in ``qkv`` is a fused projection.
        after1, after2: attributes of the block, in the order in which they follow attention and MLP.
    """

    attention: str
    norm1: str
    norm2: str
    out: str
    heads: str
    scale: str
    dropout: str
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    after1: tuple[str, ...] = ()
    after2: tuple[str, ...] = ()


class PreNormView(BlockView):
    """Norm, attention, what follows it, residual; the same for the MLP."""

    def __init__(self, block: nn.Module, parts: Parts) -> None:
        layer: Any = block  # of any family, known by its parts
        self.block, self.attn = layer, getattr(block, parts.attention)
        self.norm1, self.norm2 = getattr(block, parts.norm1), getattr(block, parts.norm2)
        self.linears = [getattr(self.attn, name) for name in parts.qkv]
        self.out, self.heads = getattr(self.attn, parts.out), getattr(self.attn, parts.heads)
        self.after1 = [getattr(block, name) for name in parts.after1]
        self.after2 = [getattr(block, name) for name in parts.after2]
        dropout = getattr(self.attn, parts.dropout)
        self.scale, self.dropout = getattr(self.attn, parts.scale), getattr(dropout, "p", dropout)
        self.attention_parts, self.mlp_parts = [*self.linears, self.out], [layer.mlp]

    def project(self, x: Tensor) -> Projected:
        x = self.norm1(x)
        if len(self.linears) == 1:
            query, key, value = self.linears[0](x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            return Projected(query, key, value)
        return Projected(*(linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear in self.linears))

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        return x + through(self.after1, self.out(context))

    def mlp(self, x: Tensor) -> Tensor:
        return x + through(self.after2, self.block.mlp(self.norm2(x)))


def through(steps: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Tokens through one step after another."""
    for step in steps:
        x = step(x)
    return x
