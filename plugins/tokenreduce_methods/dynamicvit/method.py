"""Dynamic token sparsification. Axes: B batch, N tokens of the stream, n of them not protected, C width."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenreduce.errors import OptionError
from tokenreduce.methods import (
    Backbone,
    BaseReducer,
    BoundReducer,
    Budget,
    Gate,
    Reduction,
    Site,
    Streams,
    check_ratio,
    spaced_layers,
)

from .predictor import Predictor


class DynamicViT(BaseReducer):
    """Before some blocks a learned predictor says of each token whether it stays.

    In training the tokens stay and count or do not count in attention: hard draws (Gumbel-softmax) that pass a
    gradient to the predictors, times those of the stage before. A loss, ``handle.last.losses["ratio"]``, holds the
    share of tokens kept after each stage to its target. In evaluation the ``int(n0 * share)`` tokens with the highest
    scores stay, in falling order behind the protected ones; n0 is the number of unprotected tokens at the start.

    Source: Rao et al., DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification, NeurIPS 2021,
    arXiv 2106.02034. The distillation losses of the recipe are the trainer's business. Where this differs: every
    protected token stays (published: the class token alone); padding is dropped before any real token, and counts
    neither in the means nor in the loss; at least one token stays; a stage with ``keep=1`` draws nothing, and its loss
    teaches the predictor to keep all.

    Args:
        keep: share of the tokens left that stays at each stage, in (0, 1], or a list with one per stage.
        tau: temperature of the draws.
        ratio_weight: weight of the loss (published: 2, and 5 for DeiT-B).
    """

    keep: Any = 0.7
    tau: float = 1.0
    ratio_weight: float = 2.0

    position = "before_block"
    notes = ("which tokens go is learned: until its predictors are trained with the model, or loaded, it is arbitrary",)

    def __post_init__(self) -> None:
        for value in self.keep if isinstance(self.keep, (list, tuple)) else [self.keep]:
            check_ratio("keep", value, open_low=True)
        for name, low in (("tau", 1e-6), ("ratio_weight", 0.0)):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < low:
                raise OptionError(f"{name} must be a {'positive' if low else 'non-negative'} number, got {value!r}")
        super().__post_init__()

    def budgets(self) -> dict[str, Budget]:
        keep = self.keep if isinstance(self.keep, (list, tuple)) else [self.keep]
        shares = [float(one) for one in keep]
        return {"keep": Budget(keep=shares if isinstance(self.keep, (list, tuple)) else shares[0])}

    def layers(self, backbone: Backbone) -> list[int]:
        return spaced_layers(self.default_layers, backbone.depth)

    def bind(self, backbone: Backbone) -> Stages:
        return Stages(self, backbone.width, backbone.sites)

    def shares(self, site: Site) -> tuple[float, float]:
        """The share of the tokens left that stays at this stage, and that of all tokens which is left after it."""
        if not isinstance(self.keep, (list, tuple)):
            return self.keep, self.keep ** (site.index + 1)
        each = [self.budget.value(replace(site, index=index)) for index in range(site.index + 1)]
        return each[-1], math.prod(each)


class Stages(BoundReducer, nn.Module):
    """A predictor for each stage.

    Args:
        reducer: the options in force.
        width: C.
        sites: number of stages.
    """

    def __init__(self, reducer: DynamicViT, width: int, sites: int) -> None:
        super().__init__(reducer)
        self.predictors = nn.ModuleList([Predictor(width) for _ in range(sites)])

    def reduce_streams(self, streams: Streams, site: Site) -> Mapping[str, Reduction | Gate]:
        stream = streams[streams.main]
        tokens, prefix = stream.tokens, stream.tokens.prefix
        keep, share = self.reducer.shares(site)
        count = tokens.removable
        if not count:
            return {}
        if not stream.training:
            start = count if stream.initial is None else stream.initial - prefix
            kept = max(int(start * share), 1)
            if keep == 1 or kept >= count:
                return {}
        x = tokens.x[:, prefix:]
        real = x.new_ones(x.shape[:2]) if tokens.real is None else tokens.real[:, prefix:].to(x.dtype)
        policy = real if stream.gate is None else stream.gate[:, prefix:]
        log_keep = self.predictors[site.index](x, policy)
        if not stream.training:
            score = F.pad(log_keep[..., 0], (prefix, 0))
            return {streams.main: tokens.keep_top(score, remove=count - kept, order="score")}
        real = real.to(log_keep.dtype)
        if keep == 1:  # nothing to draw, and nothing to drop
            self._hold(streams, log_keep[..., 0].exp() * real, real, 1.0, site)
            return {}
        drawn = F.gumbel_softmax(log_keep, tau=self.reducer.tau, hard=True)[..., 0] * policy.to(log_keep.dtype)
        self._hold(streams, drawn, real, share, site)
        return {streams.main: Gate(torch.cat([drawn.new_ones(drawn.shape[0], prefix), drawn], dim=1))}

    def _hold(self, streams: Streams, kept: Tensor, real: Tensor, share: float, site: Site) -> None:
        """Add this stage's part of the ratio loss: mean over the batch of (share kept - target)^2."""
        mean = kept.sum(dim=1) / real.sum(dim=1).clamp(min=1)
        streams.add_loss("ratio", self.reducer.ratio_weight / site.total * (mean - share).square().mean())
