"""How much a token matters, by one of four measures; methods offer them as the option ``saliency``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .noise import hash_noise

if TYPE_CHECKING:
    from ..streams import Site, Stream

NEEDS: dict[str, frozenset[str]] = {
    "text": frozenset({"text_attention"}),
    "class": frozenset({"class_attention"}),
    "key-norm": frozenset({"keys"}),
    "random": frozenset(),
}


def saliency(kind: str, stream: Stream, site: Site, *, seed: int = 0) -> Tensor:
    """Score (B, N) of each token of a stream, higher is kept; padding scores whatever it does.

    ``"text"``: attention that the text's tokens pay it. ``"class"``: attention that the token which the head
    reads pays it. ``"key-norm"``: length of its head-mean key. ``"random"``: uniform noise, fresh in
    training, repeatable in evaluation.
    """
    if kind == "text":
        return stream.signals.text_attention
    if kind == "class":
        return stream.signals.class_attention
    if kind == "key-norm":
        norm: Tensor = torch.linalg.vector_norm(_float(stream.signals.keys), dim=-1)
        return norm
    return random_score(stream, site, seed)


def _float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def alternatives(provides: frozenset[str], guidable: bool = False) -> str:
    """The saliencies that a backbone can feed, as text for an error message."""
    guide = ", or saliency='text' with guide=text_features" if guidable else ""
    return "saliency=" + " or ".join(repr(kind) for kind, needs in NEEDS.items() if needs <= provides) + guide


def random_score(stream: Stream, site: Site, seed: int) -> Tensor:
    """Uniform noise (B, N): a function of seed, layer and place in evaluation, torch's generator in training."""
    batch, length = stream.tokens.x.shape[:2]
    device = stream.tokens.x.device
    if stream.training:
        return torch.rand(batch, length, device=device)
    return hash_noise(batch, length, seed=seed, layer=site.layer, device=device)


def guided(shared_space: Callable[[Tensor], Tensor], x: Tensor, guide: Tensor) -> Tensor:
    """Likeness (B, N) of image tokens to text features, as shares: softmax over the tokens of their cosine.

    Args:
        shared_space: takes tokens (B, N, C) to the space of the text features (B, N, D).
        x: (B, N, C).
        guide: (Q, D) for all samples or (B, Q, D); a token counts for the one of Q texts it is most like.
    """
    space = F.normalize(_float(shared_space(x)), dim=-1)
    texts = F.normalize(guide.to(space), dim=-1)
    cosine = space @ texts.transpose(-2, -1)
    return cosine.amax(dim=-1).softmax(dim=-1)
