"""The tokens of one stream at a site, as a reducer sees them. Axes: B batch, N tokens, C width, K kept."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .._torch import plain_size
from ..errors import UnsupportedCallError
from ..ops.selection import split, top_of_each
from .counts import batch_length
from .later import Later, read
from .reduction import Reduction


class Tokens:
    """Tokens of one stream.

    Attributes:
        x: (B, N, C) features, after this block's attention.
        real: (B, N) bool, False for padding; None when all are real.
        prefix: number of protected tokens at the front (class, distillation, register tokens).
        ragged: whether samples have different numbers of tokens by an earlier reduction; ``real`` is then False for
            what fills up the shorter ones.
    """

    def __init__(
        self,
        x: Tensor,
        size: Tensor | Later | None = None,
        real: Tensor | None = None,
        prefix: int = 0,
        *,
        ragged: bool = False,
    ) -> None:
        self.x, self.real, self.prefix, self.ragged = x, real, prefix, ragged
        self.given_size = size  # summed when read: most methods never ask

    @property
    def size(self) -> Tensor | None:
        """(B, N) number of input tokens each stands for, 0 for padding; None when all are 1."""
        return read(self.given_size)

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
        size = self.size
        if size is not None:
            return size
        ones = self.x.new_ones(self.x.shape[:2], dtype=_plain(self.x))
        return ones if self.real is None else ones * self.real

    def keep_top(
        self,
        score: Tensor,
        *,
        remove: int | None = None,
        counts: Tensor | None = None,
        cap: int | None = None,
        bucket: int | None = None,
        order: str = "original",
    ) -> Reduction:
        """Keep the tokens with the highest score: all but ``remove``, or of each sample as many as ``counts`` says.

        Protected tokens stay, padding goes first. With ``counts`` the host waits once, for the greatest of them,
        unless ``bucket`` is at least ``cap`` or the pass is compiled: then there are ``cap`` positions whatever the
        counts are.
        Shorter samples are filled up (:attr:`Reduction.valid`); where all keep the same number nothing is.

        Args:
            score: (B, N), higher stays.
            remove: number to drop, at most :attr:`removable`.
            counts: (B,) number of tokens to keep besides the protected ones; at least one stays, at most ``cap``.
            cap: most of them, known on the host; :attr:`removable` if left out.
            bucket: round the number of positions up to a multiple of this, at most ``cap``.
            order: ``"original"`` or ``"score"`` (falling) order of the kept tokens; what fills up comes last.

        Raises:
            UnsupportedCallError: ``remove``, ``counts`` or the shape of ``score`` does not fit the stream.
        """
        if counts is not None and remove is None:
            return self._keep_counts(score, counts, cap, bucket, order)
        if remove is None or counts is not None:
            raise UnsupportedCallError("keep_top takes remove=number or counts=(B,) numbers to keep; give one of them")
        if not 0 <= remove <= self.removable:
            raise UnsupportedCallError(f"remove must be 0 to {self.removable} of {self.count} tokens, got {remove}")
        if score.shape != self.x.shape[:2]:
            raise UnsupportedCallError(f"score must be {tuple(self.x.shape[:2])}, got {tuple(score.shape)}")
        keep, rest = split(score, self.count - remove, prefix=self.prefix, real=self.real, order=order)
        return Reduction(keep, length=self.count, rest=rest)

    def _keep_counts(self, score: Tensor, counts: Tensor, cap: int | None, bucket: int | None, order: str) -> Reduction:
        if score.shape != self.x.shape[:2] or counts.shape != self.x.shape[:1]:
            shapes = f"{tuple(self.x.shape[:2])} and {tuple(self.x.shape[:1])}"
            raise UnsupportedCallError(
                f"score and counts must be {shapes}, got {tuple(score.shape)} and {tuple(counts.shape)}"
            )
        most = self.removable if cap is None else min(cap, self.removable)
        counts = counts.clamp(max=self.own_counts()).clamp(min=min(1, most), max=most)
        each, length = batch_length(counts, most, bucket)
        if each is None and self.real is None:
            return self.keep_top(score, remove=self.removable - length, order=order)
        keep, valid = top_of_each(score, counts, length, prefix=self.prefix, real=self.real, order=order)
        return Reduction(keep, length=self.count, valid=None if each is None else valid)

    def own_counts(self) -> Tensor:
        """(B,) number of tokens of each sample that are neither protected nor padding."""
        if self.real is None:
            return torch.full(self.x.shape[:1], self.removable, device=self.x.device)
        return self.real[:, self.prefix :].sum(dim=1)

    def after(self, reduction: Reduction) -> Tokens:
        """The tokens that a reduction leaves; sizes are tracked from the first fold on."""
        size, real = self.given_size, self.real
        if size is not None or reduction.source is not None:
            size = Later(partial(sizes_after, size, real, _plain(self.x), reduction), self.x.device)
        if real is not None:
            real = reduction.add_up(real.to(torch.int32)) > 0
        elif reduction.valid is not None:
            real = reduction.valid
        ragged = self.ragged or reduction.valid is not None
        return Tokens(reduction.apply(self.x), size, real, self.prefix, ragged=ragged)

    def identity(self) -> Reduction:
        """Keep everything."""
        return Reduction.identity(self.x.shape[0], self.count, self.x.device)


def sizes_after(size: Tensor | Later | None, real: Tensor | None, dtype: torch.dtype, reduction: Reduction) -> Tensor:
    """(B, K) sizes of the tokens that a reduction leaves, from those before; no features are held for it."""
    before = read(size)
    if before is None:
        before = reduction.keep.new_ones((reduction.keep.shape[0], reduction.length), dtype=dtype)
        before = before if real is None else before * real
    return reduction.add_up(before)


def _plain(x: Tensor) -> torch.dtype:
    """float32, or float64 for a float64 model: sizes and weights are never kept in half precision."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
