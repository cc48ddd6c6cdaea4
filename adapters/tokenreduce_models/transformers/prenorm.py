"""The pre-norm block that the vision towers of transformers share, whatever its parts are called.

Axes: B batch, N tokens, C width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tokenreduce.backbones import BlockView, Projected, current


@dataclass(frozen=True)
class Parts:
    """Names of the parts of one kind of block.

    Args:
        attention, norm1, norm2: attributes of the block; its MLP is ``mlp``.
        out, heads, scale, dropout, qkv: attributes of its attention; one name in ``qkv`` is a fused projection.
        after1, after2: attributes of the block, in the order in which they follow attention and MLP.
        chooses: whether the library's attention goes by ``attn_implementation``; where it does not, it is always eager.
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
    chooses: bool = True


class PreNormView(BlockView):
    """Norm, attention, what follows it, residual; the same for the MLP."""

    scale = current(lambda view: getattr(view.attn, view.parts.scale))
    dropout = current(lambda view: rate(getattr(view.attn, view.parts.dropout)))
    fused = current(lambda view: not (view.parts.chooses and eager(view.attn)))
    attention_parts = current(lambda view: [*view.linears(), getattr(view.attn, view.parts.out)])
    mlp_parts = current(lambda view: [view.block.mlp])

    def __init__(self, block: nn.Module, parts: Parts) -> None:
        layer: Any = block  # of any family, known by its parts
        self.block, self.parts = layer, parts

    @property
    def attn(self) -> Any:
        return getattr(self.block, self.parts.attention)

    def linears(self) -> list[Any]:
        """The projections to query, key and value, or one to all three."""
        attn = self.attn
        return [getattr(attn, name) for name in self.parts.qkv]

    def project(self, x: Tensor) -> Projected:
        x = getattr(self.block, self.parts.norm1)(x)
        linears, heads = self.linears(), getattr(self.attn, self.parts.heads)
        if len(linears) == 1:
            query, key, value = linears[0](x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            return Projected(query, key, value)
        return Projected(*(linear(x).unflatten(-1, (heads, -1)).transpose(1, 2) for linear in linears))

    def attend(self, x: Tensor, context: Tensor, projected: Projected) -> Tensor:
        return x + self._through(self.parts.after1, getattr(self.attn, self.parts.out)(context))

    def mlp(self, x: Tensor) -> Tensor:
        block, parts = self.block, self.parts
        return x + self._through(parts.after2, block.mlp(getattr(block, parts.norm2)(x)))

    def _through(self, names: Sequence[str], x: Tensor) -> Tensor:
        return through([getattr(self.block, name) for name in names], x)


def rate(dropout: Any) -> float:
    """A dropout rate: a module's, or the number itself."""
    return float(getattr(dropout, "p", dropout))


def eager(attention: Any) -> bool:
    """Whether ``attn_implementation="eager"`` was asked for."""
    return bool(attention.config._attn_implementation == "eager")


def through(steps: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Tokens through one step after another."""
    for step in steps:
        x = step(x)
    return x
