"""Soft removal: tokens that stay and count for less in attention.

Axes: B batch, n tokens of a stream, N of a sequence, M queries, H heads, d head width, C width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UnsupportedCallError

EPSILON = 1e-6  # of a key, where the gate is 0


class Gate:
    """How much each token of a stream counts from a site on: what a reducer may return in training.

    The tokens stay, all of them. In every attention from there on a key weighs as much as its gate:
    ``log(gate + 1e-6)`` is added to its logits, on top of padding and sizes, in the fused kernel. So a gradient
    reaches the gate, at 0 too (in float16 that one is too small to show unless the loss is scaled). A gate replaces
    the one that the stream had before: multiply by ``stream.gate``, so that what is gone stays gone. Protected tokens
    count as 1 whatever the gate says, padding as 0.

    Where a stack gives every token back at its end, a dropped one is given back as it was before the site that dropped
    it, as in evaluation; of a gate in between, so much of each.

    Source: Rao et al., DynamicViT, NeurIPS 2021, arXiv 2106.02034, equation 10. Where this differs: the published
    masked softmax also forces the diagonal to 1, so that a dropped token attends to itself. A kept token's diagonal
    is 1 anyway, and it reads dropped tokens at a weight of about 1e-6: what kept tokens compute is the same. The
    gradient differs by one key in n: here it also passes through what a token reads of itself.

    Args:
        values: (B, n) between 0 (dropped) and 1 (kept), with a gradient as a rule; hard ones pass it straight through.

    Raises:
        UnsupportedCallError: not a floating-point tensor of two axes.
    """

    def __init__(self, values: Tensor) -> None:
        if not isinstance(values, Tensor) or values.ndim != 2 or not values.is_floating_point():
            got = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise UnsupportedCallError(f"a Gate takes floating-point values (B, n) between 0 and 1, got {got}")
        self.values = values

    def on(self, device: torch.device) -> Gate:
        """The same on a device; itself where it is there already."""
        return self if self.values.device == device else Gate(self.values.to(device))

    def effective(self, prefix: int, real: Tensor | None) -> Tensor:
        """(B, n) in float32 at least: 1 for the ``prefix`` protected tokens, 0 for padding (``real`` is False)."""
        values = self.values if self.values.dtype == torch.float64 else self.values.float()
        if prefix:
            values = torch.cat([torch.ones_like(values[:, :prefix]), values[:, prefix:]], dim=1)
        return values if real is None else values * real


def share_left(before: Tensor | None, after: Tensor) -> Tensor:
    """(B, N): of what was left of each token before a site, the share that its new gate leaves; 1 where nothing was.

    Args:
        before: (B, N) gates before the site, None for 1.
        after: (B, N) gates after it.
    """
    if before is None:
        return after
    left = before > EPSILON
    return torch.where(left, after / torch.where(left, before, 1.0), 1.0)


def log_weight(gate: Tensor) -> Tensor:
    """(B, N): what a gate adds to the logits of its keys."""
    return (gate + EPSILON).log()


def as_channels(query: Tensor, key: Tensor, value: Tensor, gate: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Heads with eight more channels, in which query times key is what the gate adds to the logits.

    Fused kernels take a bias that asks for a gradient not at all (CPU), or make one as large as the attention matrix.
    In a channel of the keys the gradient is one number per key. Eight, because kernels want whole multiples.

    Args:
        query, key, value: (B, H, M, d) and twice (B, H, N, d).
        gate: (B, N).
        scale: that of the attention.

    Returns:
        The same with d + 8 channels; those of the value are zero.
    """
    weight = F.pad((log_weight(gate) / scale).to(key.dtype)[:, None, :, None], (0, 7))
    one = F.pad(torch.ones_like(query[..., :1]), (0, 7))
    key = torch.cat([key, weight.expand(-1, key.shape[1], -1, -1)], dim=-1)
    return torch.cat([query, one], dim=-1), key, F.pad(value, (0, 8))


def pool_as_kept(x: Tensor, gate: Tensor, prefix: int) -> Tensor:
    """Tokens (B, N, C) whose mean, protected ones left out, is the mean of the kept ones.

    For heads that pool over all tokens: a dropped token becomes the mean of the kept. (A head whose pooling is no
    plain mean sees that mean as often as tokens were dropped.)

    Args:
        gate: (B, N).
        prefix: number of protected tokens in front.
    """
    rest, share = x[:, prefix:], gate[:, prefix:, None].to(x.dtype)
    mean = (rest * share).sum(dim=1, keepdim=True) / share.sum(dim=1, keepdim=True).clamp(min=EPSILON)
    return torch.cat([x[:, :prefix], rest * share + mean * (1 - share)], dim=1)
