"""How alike tokens are to texts. Axes: B batch, N tokens, C width, Q texts, D width of a shared space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import OptionError


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
    return text_cosines(shared_space, x, guide).amax(dim=-1).softmax(dim=-1)


def text_cosines(shared_space: Callable[[Tensor], Tensor], x: Tensor, guide: Tensor) -> Tensor:
    """Cosine (B, N, Q) of image tokens with text features; the arguments are those of :func:`text_similarity`.

    Raises:
        OptionError: the space that the function takes tokens to is not as wide as the text features.
    """
    made = shared_space(x)
    if made.shape != (*x.shape[:2], guide.shape[-1]):
        raise OptionError(
            f"tokens {tuple(x.shape)} must be taken to the space of the text features, "
            f"{(*x.shape[:2], guide.shape[-1])}, got {tuple(made.shape)}; give another space= or other text features"
        )
    space = F.normalize(at_least_float(made), dim=-1)
    texts = F.normalize(guide.to(space), dim=-1)
    return (space @ texts.transpose(-2, -1)).to(x.device)
