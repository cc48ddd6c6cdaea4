"""Which words tell, and what they attend to. Axes: B batch, N image tokens at first, n now, t text tokens, H heads."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreduce.ops import at_least_float


@torch.no_grad()
def telling(image: Tensor, text: Tensor, real: Tensor) -> Tensor:
    """(B, t) the text tokens that image tokens are like more than the average: the raters; all where none is.

    Args:
        image: (B, N, C) embeddings as they enter the language model.
        text: (B, t, C) likewise.
        real: (B, t) False for what fills up.
    """
    product = at_least_float(image) @ at_least_float(text).transpose(1, 2)
    product = product.masked_fill(~real[:, None], torch.finfo(product.dtype).min)
    share = product.softmax(dim=-1).mean(dim=1)
    mean = (share * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True).clamp(min=1)
    raters = real & (share > mean)
    return torch.where(raters.any(dim=1, keepdim=True), raters, real)


@torch.no_grad()
def rated(rows: Tensor, raters: Tensor, heads: float | None = None) -> Tensor:
    """(B, n, t) attention from the raters, averaged over heads; 0 for other text.

    Args:
        rows: (B, n, t, H).
        raters: (B, t).
        heads: share of the heads that count, those in which raters attend most to the image; None for all.
    """
    rows = at_least_float(rows) * raters[:, None, :, None]
    if heads is None:
        return rows.mean(dim=-1)
    count = max(round(heads * rows.shape[-1]), 1)
    best = rows.sum(dim=(1, 2)).argsort(dim=1, descending=True, stable=True)[:, :count]
    return rows.gather(3, best[:, None, None].expand(*rows.shape[:3], -1)).mean(dim=-1)


def score(rated: Tensor, raters: Tensor) -> Tensor:
    """(B, n) mean over the raters of their attention (B, n, t)."""
    return rated.sum(dim=2) / raters.sum(dim=1, keepdim=True).clamp(min=1)


@torch.no_grad()
def ranks(rated: Tensor, raters: Tensor) -> list[int]:
    """Rank of each sample's matrix of raters and image tokens, in the precision that the attention has."""
    return [int(torch.linalg.matrix_rank(one[:, who].transpose(0, 1))) for one, who in zip(rated, raters, strict=True)]
