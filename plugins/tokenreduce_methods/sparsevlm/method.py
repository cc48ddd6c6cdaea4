"""Text-guided dropping with recycling. Axes: B batch, N tokens, K kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokenreduce.errors import OptionError, UnfitReducerError
from tokenreduce.methods import (
    Backbone,
    BaseReducer,
    Budget,
    Reduction,
    Site,
    Streams,
    Tokens,
    check_ratio,
    layers_after,
)

from .raters import ranks, rated, score, telling
from .recycling import clusters, numbers

PUBLISHED = (300 / 576, 200 / 576, 110 / 576)
"""What stays of 576 tokens after layers 2, 6 and 15 of 32, for 192 on average."""


class SparseVLM(BaseReducer):
    """Keep the image tokens that telling words attend to; make a few new tokens of the best of the others.

    Telling words, the raters, are the tokens of the text behind the image that image tokens are like more than average:
    softmax over the text of the products of their embeddings, averaged over the image. The score of an image token is
    the raters' attention to it in the layer before the cut, averaged over heads and raters. Of the dropped tokens those
    with the highest scores, ``int(recycle * dropped) + 1``, are clustered by density peaks into one new token for every
    ``group`` of them, and one more: the mean of its members.

    Source: Zhang et al., SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference, ICML
    2025, arXiv 2410.04417, published code: after layers 2, 6 and 15 of 32. Version 1 numbers what is left anew and puts
    new tokens behind the others: ``positions="compact"``. Version 2.0 is ``recycle=0, heads=14/32`` with original
    positions, but for its division by what rotary positions do to vectors of ones. Where this differs: shares are of
    the tokens at first; nothing is forced to go; ties in place of noise: the earlier token counts as denser; with
    original positions a new token stands where the last of its members did; each sample by itself, a sample may hold
    several images.

    Args:
        keep: what stays after each site besides new tokens: shares of the tokens at first (float in (0, 1], rounded up)
            or numbers (int); one value for all sites, or a list with one per site. None for the published 300, 200 and
            110 of 576, or where ``scale`` is given.
        scale: in place of ``keep`` the general rule: each sample keeps ``int(rank * scale + bias)`` tokens, by the rank
            of its raters' attention to its image tokens.
        bias: see ``scale``.
        recycle: share of the dropped tokens that new ones are made of, 0 for none.
        group: tokens for each new one.
        heads: share of the heads that count, those in which raters attend to the image most; None for all.
    """

    keep: Any = None
    scale: float | None = None
    bias: float = 0.0
    recycle: float = 0.3
    group: int = 10
    heads: float | None = None

    needs = frozenset({"text_rows", "text_columns", "text_embeddings", "image_embeddings"})

    def __post_init__(self) -> None:
        if self.keep is not None and self.scale is not None:
            raise OptionError("give 'keep' or 'scale', not both")
        for name in ("scale", "bias"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0):
                raise OptionError(f"{name} must be a non-negative number, got {value!r}")
        check_ratio("recycle", self.recycle)
        if self.heads is not None:
            check_ratio("heads", self.heads, open_low=True)
        if not isinstance(self.group, int) or isinstance(self.group, bool) or self.group < 1:
            raise OptionError(f"group must be a whole number of at least 1, got {self.group!r}")
        super().__post_init__()

    @property
    def ragged(self) -> bool:
        return self.scale is not None

    def budgets(self) -> dict[str, Budget]:
        return {} if self.keep is None else {"keep": Budget.of("keep", self.keep)}

    def layers(self, backbone: Backbone) -> list[int]:
        return layers_after([3, 7, 16], backbone.depth)

    def shares(self, sites: int) -> Any:
        """What stays, as an option."""
        return [*PUBLISHED, *PUBLISHED[-1:] * sites][:sites] if self.keep is None else self.keep

    def scaled(self, factor: float, sites: int) -> SparseVLM:
        if factor == 1:
            return self
        if self.scale is not None:
            raise UnfitReducerError("SparseVLM's rule by rank has no budget to scale; give 'keep' in place of 'scale'")
        return replace(self, keep=Budget.of("keep", self.shares(sites)).scaled(factor, sites).option())

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        tokens, signals = stream.tokens, stream.signals
        budget = None if self.scale is not None else Budget.of("keep", self.shares(site.total))
        if budget is not None:
            initial = max(stream.initial or tokens.count, tokens.count) - tokens.prefix
            kept = initial - budget.at(site, initial)
            if kept >= tokens.removable:
                return {}
        real = signals.text_columns >= 0
        raters = telling(signals.image_embeddings, signals.text_embeddings, real)
        attention = rated(signals.text_rows, raters, self.heads)
        scores = score(attention, raters)
        if budget is not None:
            counts = [kept] * len(scores)
        else:
            assert self.scale is not None
            rule = [int(rank * self.scale + self.bias) for rank in ranks(attention, raters)]
            counts = [min(max(count, 1), tokens.removable) for count in rule]
            if min(counts) >= tokens.removable:
                return {}
        return {streams.main: self.reduction(tokens, scores, counts)}

    @torch.no_grad()
    def reduction(self, tokens: Tokens, scores: Tensor, counts: list[int]) -> Reduction:
        """Keep so many tokens of each sample by scores (B, N), and recycle."""
        plans = [numbers(tokens.removable - count, self.recycle, self.group) for count in counts]
        longest = tokens.prefix + max(count + new for count, (_, new) in zip(counts, plans, strict=True))
        most, equal = max(recycled for recycled, _ in plans), len(set(counts)) == 1
        device, shape = scores.device, (len(scores), longest)
        keep = torch.zeros(shape, dtype=torch.long, device=device)
        valid = torch.zeros(shape, dtype=torch.bool, device=device)
        source = torch.zeros(len(scores), most, dtype=torch.long, device=device)
        target = torch.full_like(source, -1)
        free = scores if tokens.real is None else scores.masked_fill(~tokens.real, float("-inf"))
        order = free[:, tokens.prefix :].argsort(dim=1, descending=True, stable=True) + tokens.prefix
        front = torch.arange(tokens.prefix, device=device)
        for b, (count, (recycled, new)) in enumerate(zip(counts, plans, strict=True)):
            end = tokens.prefix + count
            keep[b, :end] = torch.cat([front, order[b, :count].sort().values])
            keep[b, end : end + new], valid[b, : end + new] = -1, True
            members = order[b, count : count + recycled].sort().values
            source[b, :recycled] = members
            real = torch.ones_like(members, dtype=torch.bool) if tokens.real is None else tokens.real[b, members]
            if real.any():
                target[b, :recycled][real] = end + clusters(tokens.x[b, members[real]], new)
        return Reduction(
            keep,
            source,
            target,
            length=tokens.count,
            fresh=max(new for _, new in plans),
            partial=not equal or tokens.real is not None,
            valid=None if equal else valid,
        )
