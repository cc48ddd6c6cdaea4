"""Prune and merge by class attention. Axes: B batch, N tokens, K left after pruning, m merged, D metric width."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenreduce.errors import OptionError
from tokenreduce.methods import (
    NEEDS,
    Backbone,
    BaseReducer,
    Budget,
    Reduction,
    Site,
    Streams,
    Tokens,
    check_seed,
    saliency,
    saliency_on,
)
from tokenreduce.ops import at_least_float

SIMILARITIES = ("features", "keys")


class DiffRate(BaseReducer):
    """Sort tokens by class attention, prune the least important ones, then merge the next into more important ones.

    Each of the m tokens that merge goes into the most similar of the tokens that are more important than all of them;
    merged values are means weighted by size. Tokens are in falling order of importance afterwards.

    Source: Chen et al., DiffRate: Differentiable Compression Rate for Efficient Vision Transformers, ICCV 2023, arXiv
    2305.17997, section 3. Where this differs: the rates are given, layer by layer, and not learned: the differentiable
    search for them, the contribution that names the method, is not here. Padding goes before any real token and merges
    with nothing; every protected token stays, and nothing merges into one; other measures of importance.

    Args:
        prune: what is pruned at each site: a share of the unprotected tokens that enter it (float in [0, 1], rounded
            half to even) or a number (int), or a list with one per site.
        merge: what is merged after that, likewise; at least one token has to be left to merge into.
        saliency: importance: ``"class"`` (of the token that the head reads where there is no class token),
            ``"readout"``, ``"text"``, ``"key-norm"`` or ``"random"``.
        similarity: of what, by cosine: ``"features"`` (of the tokens after the attention) or ``"keys"``.
        proportional_attention: let attention count a merged token by its size.
        seed: for ``saliency="random"``.
    """

    prune: Any = 0.03
    merge: Any = 0.05
    saliency: str = "class"
    similarity: str = "features"
    proportional_attention: bool = True
    seed: int = 0

    notes = ("DiffRate's rates are those given (prune, merge), one per layer; they are not learned here",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, valid in (("saliency", tuple(NEEDS)), ("similarity", SIMILARITIES)):
            if getattr(self, name) not in valid:
                raise OptionError(f"{name} must be one of {', '.join(map(repr, valid))}, got {getattr(self, name)!r}")
        if not isinstance(self.proportional_attention, bool):
            raise OptionError(f"proportional_attention must be True or False, got {self.proportional_attention!r}")
        check_seed(self.seed)

    @property
    def needs(self) -> Collection[str]:
        return NEEDS[self.saliency] | ({"keys"} if self.similarity == "keys" else frozenset())

    @property
    def stochastic(self) -> bool:
        return self.saliency == "random"

    def budgets(self) -> dict[str, Budget]:
        return {"prune": Budget.of("remove", self.prune), "merge": Budget.of("remove", self.merge)}

    def layers(self, backbone: Backbone) -> list[int]:
        return list(range(backbone.depth))

    def bind(self, backbone: Backbone) -> DiffRate:
        bound = replace(self, saliency=saliency_on(backbone, self.saliency, "DiffRate"))
        bound.check_needs(backbone)
        return bound

    def counts(self, site: Site, tokens: Tokens) -> tuple[int, int]:
        """How many tokens are pruned at a site, and how many of the others merge."""
        budgets = self.budgets()
        pruned = self.count(budgets["prune"], site, tokens)
        return pruned, max(min(self.count(budgets["merge"], site, tokens), tokens.removable - pruned - 1), 0)

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        tokens = stream.tokens
        pruned, merged = self.counts(site, tokens)
        if pruned + merged <= 0:
            return {}
        score = saliency(self.saliency, stream, site, seed=self.seed)
        first = tokens.keep_top(score, remove=pruned, order="score")
        if not merged:
            return {streams.main: first}
        metric = first.take(tokens.x if self.similarity == "features" else stream.signals.keys)
        real = None if tokens.real is None else first.take(tokens.real)
        size = first.take(tokens.sizes())
        return {streams.main: first.then(merge_last(metric, merged, size, prefix=tokens.prefix, real=real))}


def merge_last(metric: Tensor, merge: int, size: Tensor, *, prefix: int = 0, real: Tensor | None = None) -> Reduction:
    """Merge the last ``merge`` tokens, each into the most similar one of those before them, protected ones left out.

    Args:
        metric: (B, K, D), compared by cosine.
        merge: fewer than the K - prefix tokens that are not protected.
        size: (B, K), the weights.
        prefix: protected tokens at the front.
        real: (B, K) False for padding, which comes last and is dropped.
    """
    batch, length, _ = metric.shape
    left = length - merge
    place = torch.arange(length, device=metric.device).expand(batch, -1)
    with torch.no_grad():
        unit = F.normalize(at_least_float(metric), dim=-1)
        target = (unit[:, left:] @ unit[:, prefix:left].transpose(1, 2)).argmax(dim=-1) + prefix
    if real is not None:
        target = torch.where(real[:, left:], target, -1)
    return Reduction(
        place[:, :left],
        place[:, left:],
        target,
        length=length,
        keep_weight=size[:, :left],
        weight=size[:, left:],
        partial=real is not None,
    )
