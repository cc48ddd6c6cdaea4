"""Adaptive token sampling. Axes: B batch, N tokens, K points to sample at."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from tokenreduce.errors import OptionError
from tokenreduce.methods import (
    NEEDS,
    Backbone,
    Reducer,
    Reduction,
    Site,
    Streams,
    check_seed,
    saliency,
    saliency_on,
)


class ATS(Reducer):
    """Keep the tokens that are hit when their significance is sampled at K evenly spaced points.

    A token's significance is the class token's attention to it times the norm of its value, over the sum of all. Its
    share of the cumulative distribution, in the order of the sequence, is as long as that, so a token with more than
    1 / K is hit for certain, and one with much more is hit several times and kept once. How many tokens stay, at most
    K, depends on the sample: few where few matter. Nothing merges and order is kept.

    Source: Fayyaz et al., Adaptive Token Sampling for Efficient Vision Transformers, ECCV 2022, arXiv 2111.15667,
    section 3: significance (equation 2), inverse transform sampling at (2 i - 1) / (2 K), i = 1 to K. Where this
    differs: norms are of the values of all heads side by side; a site where K is at least the number of tokens
    samples nothing; the attention of the block runs for all tokens and the kept rows are taken from its output, which
    are the same numbers and save the MLP only; every protected token stays; padding is never hit; other measures of
    saliency in place of the class token's attention.

    Args:
        keep: K at each site, the most that stays: a share of the removable tokens (float, rounded up) or a number
            (int), or a list per site; or a rule. 0.7 where neither is given.
        remove: what goes at least, likewise; or ``(r, inflection)``.
        saliency: ``"class"`` (of the token that the head reads where there is no class token), ``"readout"``,
            ``"text"``, ``"key-norm"`` or ``"random"``.
        seed: for ``saliency="random"``.
    """

    saliency: str = "class"
    seed: int = 0

    by_sample = True
    ragged = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.saliency not in NEEDS:
            raise OptionError(f"saliency must be one of {', '.join(map(repr, NEEDS))}, got {self.saliency!r}")
        check_seed(self.seed)

    @property
    def needs(self) -> Collection[str]:
        return NEEDS[self.saliency] | {"value_norms"}

    @property
    def stochastic(self) -> bool:
        return self.saliency == "random"

    def bind(self, backbone: Backbone) -> ATS:
        bound = replace(self, saliency=saliency_on(backbone, self.saliency, "ATS"))
        bound.check_needs(backbone)
        return bound

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        tokens, prefix = stream.tokens, stream.tokens.prefix
        if self.removes_nothing(site, tokens):
            return {}
        score = saliency(self.saliency, stream, site, seed=self.seed) * stream.signals.value_norms
        points = self.kept_counts(stream, site, score)
        hit = hits(score[:, prefix:], points, None if tokens.real is None else tokens.real[:, prefix:])
        whole = points >= tokens.own_counts()  # nothing to sample: all stay
        hit = torch.where(whole[:, None], torch.ones_like(hit), hit)
        counts = torch.where(whole, tokens.own_counts(), hit.sum(dim=1))
        marked = torch.cat([hit.new_zeros(hit.shape[0], prefix), hit], dim=1)
        reduction = tokens.keep_top(marked.float(), counts=counts, cap=self.budget.cap(site, tokens.removable))
        return {} if reduction.count == tokens.count and reduction.valid is None else {streams.main: reduction}


@torch.no_grad()
def hits(score: Tensor, points: Tensor, real: Tensor | None = None) -> Tensor:
    """(B, N) bool: which tokens are hit at ``points`` evenly spaced points of the cumulative distribution of ``score``.

    Args:
        score: (B, N), not negative.
        points: (B,) how many.
        real: (B, N) False for padding.
    """
    wide = score.double() if score.device.type != "mps" else score.float()
    wide = wide.clamp(min=0) if real is None else wide.clamp(min=0) * real
    share = wide.cumsum(dim=1)
    share = share / share[:, -1:].clamp(min=torch.finfo(share.dtype).tiny)
    passed = (points[:, None] * share + 0.5).floor()  # points at or before the end of a token's share
    return passed.diff(dim=1, prepend=torch.zeros_like(passed[:, :1])) > 0
