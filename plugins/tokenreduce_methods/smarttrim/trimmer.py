"""What one trimmer computes, and how it decides. Axes: B batch, n tokens, C width, D of the guide, H heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

START = 5.0
"""Bias of a new trimmer: it keeps everything, and in training drops less than one in a hundred."""


class TokenTrimmer(nn.Module):
    """Scores tokens by what each is, and by how it fits a guide: a token of the other modality.

    Args:
        width: C.
        guide: D.
    """

    def __init__(self, width: int, guide: int) -> None:
        super().__init__()
        narrow = max(width // 4, 1)
        self.norm, self.read = nn.LayerNorm(width), nn.Linear(width, 2 * narrow)
        self.local = nn.Linear(narrow, 1)
        self.guide_norm, self.query = nn.LayerNorm(guide), nn.Linear(guide, narrow)
        start(self, self.local)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Logits (B, n) of keeping each token, in float32 at least.

        Args:
            x: (B, n, C).
            guide: (B, D).
        """
        own, key = self.read(self.norm(x)).chunk(2, dim=-1)
        local = wide(self.local(F.gelu(own)).squeeze(-1))
        query = self.query(self.guide_norm(guide)) * key.shape[-1] ** -0.5
        return local + wide((key @ query.unsqueeze(-1)).squeeze(-1))


class HeadTrimmer(nn.Module):
    """Scores the heads of one attention by the class tokens of every modality.

    Args:
        widths: of the class tokens.
        heads: H.
    """

    def __init__(self, widths: list[int], heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width) for width in widths])
        narrow = max(sum(widths) // 4, 1)
        self.read, self.local = nn.Linear(sum(widths), narrow), nn.Linear(narrow, heads)
        start(self, self.local)

    def forward(self, tokens: list[Tensor]) -> Tensor:
        """Logits (B, H) of keeping each head, in float32 at least, of tokens (B, D) of each modality."""
        normed = [norm(token) for norm, token in zip(self.norms, tokens, strict=True)]
        return wide(self.local(F.gelu(self.read(torch.cat(normed, dim=-1)))))


def start(module: nn.Module, last: nn.Linear) -> None:
    """Initial weights: small, and a bias of the last layer by which everything is kept."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
    nn.init.constant_(last.bias, START)


def wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def one_stays(kept: Tensor, logit: Tensor, left: Tensor) -> Tensor:
    """(B, n) which stay: of what was left, the one with the highest logit where all of a sample would go."""
    best = F.one_hot(logit.masked_fill(left.detach() < 0.5, float("-inf")).argmax(dim=1), logit.shape[1])
    return kept + best * (kept.detach().sum(dim=1, keepdim=True) < 0.5)


def draw(logit: Tensor, tau: float) -> Tensor:
    """1 for kept and 0 for dropped, drawn with the probability that a logit stands for.

    The gradient is that of the relaxed draw. The difference of two Gumbel variables is logistic, so this is the hard
    Gumbel-softmax of two classes (Jang et al., ICLR 2017, arXiv 1611.01144).

    Args:
        logit: of any shape, in float32 at least.
        tau: temperature of the relaxation.
    """
    uniform = torch.rand_like(logit).clamp(min=torch.finfo(logit.dtype).tiny, max=1 - torch.finfo(logit.dtype).eps)
    noisy = logit + uniform.logit()
    soft = (noisy / tau).sigmoid()
    return (noisy >= 0).to(logit.dtype) + (soft - soft.detach())
