"""The tokens of one stream at a site, as a reducer sees them. Axes: B batch, N tokens, C width, K kept."""

from __future__ import annotations

import torch
from torch import Tensor

from .._torch import plain_size
from ..errors import UnsupportedCallError
from ..ops.selection import top
from .reduction import Reduction


class Tokens:
    """Tokens of one stream.

    Attributes:
        x: (B, N, C) features, after this block's attention.
        size: (B, N) number of input tokens each stands for, 0 for padding; None when all are 1.
        real: (B, N) bool, False for padding; None when all are real.
        prefix: number of protected tokens at the front (class, distillation, register tokens).
    """

    def __init__(self, x: Tensor, size: Tensor | None = None, real: Tensor | None = None, prefix: int = 0) -> None:
        self.x, self.size, self.real, self.prefix = x, size, real, prefix

    @property
    def count(self) -> int:
        """N, known on the host."""
        return plain_size(self.x.shape[1])

    @property
    def removable(self) -> int:
        """Number of tokens that are not protected."""
        return self.count - self.prefix

    def sizes(self) -> Tensor:
        """(B, N) sizes as a tensor, ones (0 for padding) where none are tracked yet."""
        if self.size is not None:
            return self.size
        ones = self.x.new_ones(self.x.shape[:2], dtype=_plain(self.x))
        return ones if self.real is None else ones * self.real

    def keep_top(self, score: Tensor, *, remove: int, order: str = "original") -> Reduction:
        """Drop the ``remove`` tokens with the lowest score; protected tokens stay, padding goes first.

        Args:
            score: (B, N), higher stays.
            remove: number to drop, at most :attr:`removable`.
            order: ``"original"`` or ``"score"`` (falling) order of the kept tokens.

        Raises:
            UnsupportedCallError: ``remove`` or the shape of ``score`` does not fit the stream.
        """
        if not 0 <= remove <= self.removable:
            raise UnsupportedCallError(f"remove must be 0 to {self.removable} of {self.count} tokens, got {remove}")
        if score.shape != self.x.shape[:2]:
            raise UnsupportedCallError(f"score must be {tuple(self.x.shape[:2])}, got {tuple(score.shape)}")
        keep = top(score, self.count - remove, prefix=self.prefix, real=self.real, order=order)
        return Reduction(keep, length=self.count)

    def after(self, reduction: Reduction) -> Tokens:
        """The tokens that a reduction leaves; sizes are tracked from the first fold on."""
        size, real = self.size, self.real
        if size is not None or reduction.source is not None:
            size = reduction.add_up(self.sizes())
        if real is not None:
            real = reduction.add_up(real.to(torch.int32)) > 0
        elif reduction.valid is not None:
            real = reduction.valid
        return Tokens(reduction.apply(self.x), size, real, self.prefix)

    def identity(self) -> Reduction:
        """Keep everything."""
        return Reduction.identity(self.x.shape[0], self.count, self.x.device)


def _plain(x: Tensor) -> torch.dtype:
    """float32, or float64 for a float64 model: sizes and weights are never kept in half precision."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
