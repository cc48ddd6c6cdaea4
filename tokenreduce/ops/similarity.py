"""How alike tokens are to texts. Axes: B batch, N tokens, C width, Q texts, D width of a shared space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def at_least_float(x: Tensor) -> Tensor:
    """A tensor in float32, or as it is in float64."""
    return x if x.dtype == torch.float64 else x.float()


def text_similarity(shared_space: Callable[[Tensor], Tensor], x: Tensor, guide: Tensor) -> Tensor:
    """Likeness (B, N) of image tokens to text features, as shares: softmax over the tokens of their cosine.

    Args:
        shared_space: takes tokens (B, N, C) to the space of the text features (B, N, D).
        x: (B, N, C).
        guide: (Q, D) for all samples or (B, Q, D); a token counts for the one of Q texts it is most like.
    """
    space = F.normalize(at_least_float(shared_space(x)), dim=-1)
    texts = F.normalize(guide.to(space), dim=-1)
    cosine = space @ texts.transpose(-2, -1)
    return cosine.amax(dim=-1).softmax(dim=-1)
