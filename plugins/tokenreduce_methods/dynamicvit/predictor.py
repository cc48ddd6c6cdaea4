"""The predictor of one stage. Axes: B batch, n tokens, C width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Predictor(nn.Module):
    """Scores tokens by what each is and by the mean of those that are left.

    Source: Rao et al., DynamicViT, NeurIPS 2021, arXiv 2106.02034, equations 1 to 5, with the published code's
    initialisation (normal, cut off, deviation 0.02). Where this differs: without a single token left the mean is 0,
    not 0 / 0.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        middle, narrow = max(width // 2, 1), max(width // 4, 1)
        self.rest = nn.Sequential(
            nn.Linear(width, middle), nn.GELU(), nn.Linear(middle, narrow), nn.GELU(), nn.Linear(narrow, 2)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, policy: Tensor) -> Tensor:
        """Log-probabilities (B, n, 2) of keeping (channel 0) and dropping each token, in float32 at least.

        Args:
            x: (B, n, C).
            policy: (B, n), 1 for the tokens that are left.
        """
        own, other = self.first(x).tensor_split([(x.shape[-1] + 1) // 2], dim=-1)
        weight = policy.to(other.dtype).unsqueeze(-1)
        mean = (other * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1e-6)
        logits = self.rest(torch.cat([own, mean.expand_as(other)], dim=-1))
        return F.log_softmax(logits, dim=-1, dtype=None if logits.dtype == torch.float64 else torch.float32)
