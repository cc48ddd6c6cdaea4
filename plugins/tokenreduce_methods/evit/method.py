"""Token reorganisation by class attention. Axes: B batch, N tokens, K kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokenreduce.errors import OptionError
from tokenreduce.methods import (
    NEEDS,
    Backbone,
    BaseReducer,
    Budget,
    Reduction,
    Site,
    Streams,
    check_seed,
    saliency,
    saliency_on,
)
from tokenreduce.ops import others


class EViT(BaseReducer):
    """Keep the ``ceil(keep * n)`` tokens with the highest class attention, in falling order; fuse the others.

    The fused token is the sum of the dropped tokens weighted by their raw attention, as in the published
    code (not renormalised, as the paper's text has it). Later sites treat it as an ordinary token.

    Source: Liang et al., Not All Patches Are What You Need: Expediting Vision Transformers via Token
    Reorganizations, ICLR 2022, arXiv 2202.07800. Where this differs: every protected token stays (the
    published code protects the first alone); other measures of saliency; weights of ``"key-norm"`` and
    ``"random"`` are normalised to sum to one over the tokens.

    Args:
        keep: share of the unprotected tokens that stay at each site (float in (0, 1]) or their number (int), or a list
            with one per site; or a rule (``tokenreduce.Budget.energy(0.95, cap=64)``), by which each sample keeps a
            number of its own.
        fuse: put one token in place of the dropped ones.
        saliency: ``"class"`` (of the token that the head reads where there is no class token), ``"readout"``,
            ``"text"``, ``"key-norm"`` or ``"random"``.
        seed: for ``saliency="random"``.
    """

    keep: Any = 0.7
    fuse: bool = True
    saliency: str = "class"
    seed: int = 0

    by_sample = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.saliency not in NEEDS:
            raise OptionError(f"saliency must be one of {', '.join(map(repr, NEEDS))}, got {self.saliency!r}")
        if not isinstance(self.fuse, bool):
            raise OptionError(f"fuse must be True or False, got {self.fuse!r}")
        check_seed(self.seed)

    @property
    def needs(self) -> frozenset[str]:
        return NEEDS[self.saliency]

    @property
    def stochastic(self) -> bool:
        return self.saliency == "random"

    def budgets(self) -> dict[str, Budget]:
        return {"keep": Budget.of("keep", self.keep)}

    def bind(self, backbone: Backbone) -> EViT:
        return replace(self, saliency=saliency_on(backbone, self.saliency, "EViT"))

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        tokens = stream.tokens
        scores: list[Tensor] = []

        def score_once() -> Tensor:
            scores.append(saliency(self.saliency, stream, site, seed=self.seed))
            return scores[0]

        kept = self.keep_top(stream, site, score_once, order="score")
        if kept is None or not self.fuse:
            return {} if kept is None else {streams.main: kept}
        score, keep = scores[0], kept.keep
        if tokens.real is not None:
            score = score * tokens.real
        if self.saliency in ("key-norm", "random"):
            score = score / score[:, tokens.prefix :].sum(dim=1, keepdim=True).clamp(min=1e-12)
        valid = None
        if kept.valid is None and not ((self.ragged or tokens.ragged) and tokens.real is not None):
            keep = torch.cat([keep, torch.full_like(keep[:, :1], -1)], dim=1)
            dropped = others(kept.keep, tokens.count) if kept.rest is None else kept.rest
            target = torch.full_like(dropped, kept.count)
        else:  # how many are dropped differs: any token may be, and those that stay are folded into nothing
            place, end = torch.arange(kept.count + 1, device=keep.device), kept.counts()[:, None]
            keep = torch.where(place == end, -1, torch.cat([keep, keep[:, -1:]], dim=1))
            valid = place < end + (tokens.own_counts()[:, None] > end - tokens.prefix)
            dropped = torch.arange(tokens.prefix, tokens.count, device=keep.device).expand(keep.shape[0], -1)
            target = torch.where(kept.assignment()[:, tokens.prefix :] < 0, end, -1)
        if tokens.real is not None:  # padding goes for good
            target = torch.where(tokens.real.gather(1, dropped), target, -1)
        return {
            streams.main: Reduction(
                keep,
                dropped,
                target,
                length=tokens.count,
                weight=score.gather(1, dropped),
                mean=False,
                fresh=1,
                appended=valid is None,
                partial=tokens.real is not None or valid is not None,
                valid=valid,
            )
        }
