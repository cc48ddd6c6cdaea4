"""Every k-th token. Axes: B batch, N tokens, n of them not protected."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreduce.methods import Reducer, Reduction, Site, Streams


class Uniform(Reducer):
    """Keep tokens at equal distances in the order of the sequence; what they hold does not matter.

    Of n tokens the K that stay are those at ``floor((i + 1/2) * n / K)`` for i = 0 to K - 1: the middle of each of K
    equal stretches. Padding is no token of the n.

    Args:
        keep: share of the removable tokens that stay at each site (float, rounded up) or their number (int), or a list;
            or a rule (``tokenreduce.Budget.energy(0.95, cap=64)``), by which each sample keeps a number of its own.
        remove: number (int) or share (float, rounded) that go at each site, a list, or ``(r, inflection)``.
    """

    by_sample = True

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        tokens, prefix = stream.tokens, stream.tokens.prefix
        if self.removes_nothing(site, tokens):
            return {}
        real = torch.ones_like(tokens.x[..., 0], dtype=torch.bool) if tokens.real is None else tokens.real
        there = tokens.own_counts()
        counts = torch.minimum(self.kept_counts(stream, site, real.float()), there)
        if self.budget.rule is not None or tokens.ragged:
            counts = counts.clamp(max=self.budget.cap(site, tokens.removable))
        hit = every(real[:, prefix:], counts, there)
        marked = torch.cat([hit.new_zeros(hit.shape[0], prefix), hit], dim=1).float()
        reduction = self.keep_top(stream, site, lambda: marked)
        return {} if reduction is None else {streams.main: reduction}


def every(real: Tensor, counts: Tensor, there: Tensor) -> Tensor:
    """(B, n) bool: which tokens stay.

    Args:
        real: (B, n) False for padding.
        counts: (B,) how many stay, at most ``there``.
        there: (B,) how many are real.
    """
    before, n, k = real.cumsum(dim=1) - real.int(), there[:, None], counts[:, None]

    def passed(ends: Tensor) -> Tensor:  # numbers i with (2 i + 1) * n < 2 * k * end
        whole: Tensor = (2 * k * ends + n - 1) // (2 * n).clamp(min=1)
        return whole

    return real & (passed(before + 1) > passed(before))
