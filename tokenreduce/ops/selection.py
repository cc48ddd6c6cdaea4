"""Choosing tokens by score. Axes: B batch, N tokens, K kept."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import OptionError


@torch.no_grad()
def top(score: Tensor, keep: int, *, prefix: int = 0, real: Tensor | None = None, order: str = "original") -> Tensor:
    """Indices (B, K) of the ``keep`` tokens with the highest score, prefix tokens first and always kept.

    Of equal scores the earlier token stays.

    Args:
        score: (B, N), higher stays. Scores of the prefix are ignored.
        keep: K, at least ``prefix``, at most N.
        prefix: number of protected tokens at the front.
        real: (B, N) bool, False for padding: padding goes before any real token.
        order: ``"original"`` (ascending index) or ``"score"`` (descending score).

    Raises:
        OptionError: another order.
    """
    return split(score, keep, prefix=prefix, real=real, order=order)[0]


@torch.no_grad()
def split(
    score: Tensor, keep: int, *, prefix: int = 0, real: Tensor | None = None, order: str = "original"
) -> tuple[Tensor, Tensor]:
    """As :func:`top`, and indices (B, N - K) of the others, in falling order of their scores."""
    if order not in ("original", "score"):
        raise OptionError(f"order must be 'original' or 'score', got {order!r}")
    score = score.detach() if score.is_floating_point() else score.float()
    if real is not None:
        score = score.masked_fill(~real, float("-inf"))
    ranked = score[:, prefix:].argsort(dim=1, descending=True, stable=True)
    ranked = ranked + prefix if prefix else ranked
    index, rest = ranked[:, : keep - prefix], ranked[:, keep - prefix :]
    if order == "original":
        index = index.sort(dim=1).values
    if not prefix:
        return index, rest
    return torch.cat([torch.arange(prefix, device=index.device).expand(index.shape[0], -1), index], dim=1), rest


@torch.no_grad()
def top_of_each(
    score: Tensor,
    counts: Tensor,
    length: int,
    *,
    prefix: int = 0,
    real: Tensor | None = None,
    order: str = "original",
) -> tuple[Tensor, Tensor]:
    """As :func:`top` for samples that keep different numbers: indices (B, prefix + length), and which are valid.

    Of equal scores the earlier token stays, however long the batch is. The invalid ones come last and point at tokens
    that are not kept. A sample that keeps all its tokens has them in their original order, as if nothing were done.

    Args:
        counts: (B,) number of tokens to keep besides the prefix, at most ``length``.
        length: of the batch.

    Raises:
        OptionError: another order.
    """
    if order not in ("original", "score"):
        raise OptionError(f"order must be 'original' or 'score', got {order!r}")
    score = score.detach() if score.is_floating_point() else score.float()
    if real is not None:
        score = score.masked_fill(~real, float("-inf"))
    index = score[:, prefix:].argsort(dim=1, descending=True, stable=True)[:, :length] + prefix
    place = torch.arange(prefix + length, device=index.device)
    valid = place < counts[:, None] + prefix
    rank, behind = place[prefix:], torch.where(valid[:, prefix:], index, index + score.shape[1])
    free = score.shape[1] - prefix if real is None else real[:, prefix:].sum(dim=1)
    key = behind if order == "original" else torch.where((counts >= free)[:, None], behind, rank)
    index = index.gather(1, key.argsort(dim=1))
    return torch.cat([place[:prefix].expand(index.shape[0], -1), index], dim=1), valid


@torch.no_grad()
def others(keep: Tensor, length: int) -> Tensor:
    """Indices (B, N - K) that are not in ``keep`` (B, K), ascending."""
    taken = torch.zeros(keep.shape[0], length, dtype=torch.int8, device=keep.device).scatter(1, keep, 1)
    return taken.argsort(dim=1, stable=True)[:, : length - keep.shape[1]]
