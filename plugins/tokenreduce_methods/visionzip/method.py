"""Dominant tokens stay, contextual ones are merged. Axes: B batch, N tokens, n not protected, K kept, C width."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokenreduce.errors import OptionError, UnfitReducerError, UnsupportedCallError
from tokenreduce.methods import (
    Backbone,
    BoundReducer,
    Reducer,
    Reduction,
    Site,
    Stream,
    Streams,
    attention_of,
    attention_on,
    check_attention,
    check_ratio,
    free_real,
    read_layer,
)

from .merging import in_front, merged
from .zipping import zipped


class VisionZip(Reducer):
    """Keep the tokens that the class token attends to most; merge the others into a few, by likeness of keys.

    Of the K tokens that stay, a share is contextual. The others are dominant: those with the highest attention. Of the
    rest, in the order of the sequence, tokens at equal distances are targets, and every other one is added to the
    target with the most similar key: a contextual token is its target plus the mean of its members, as in the published
    code (a sum of both, not their mean).

    At the hand-over to a language model the merging happens on encoder features in front of the projector, as
    published, where there is one that takes tokens one by one (LLaVA); the layer is the one that is read. With
    ``positions="compact"`` of ``attach`` contextual tokens come last, as published; by default each stands where the
    last of its members did. In an encoder the site lies before the MLP of its block, and a merged token goes through
    that; the class token stays anyhow.

    Source: Yang et al., VisionZip: Longer is Better but Not Necessary in Vision Language Models, CVPR 2025, arXiv
    2412.04467, section 3 and the published code. Where this differs: a share of what stays is contextual, where the
    published code takes two numbers (54 + 10, 108 + 20 and 162 + 30 are what the default share gives for 64, 128 and
    192); fewer tokens than targets are no error; other attention where there is no class token.

    Args:
        keep: share of the removable tokens that stay (float, rounded up) or their number (int), or a list per site; or
            a rule. 1/9 where neither is given: 64 of 576.
        remove: what goes, likewise; or ``(r, inflection)``.
        contextual: share of the tokens that stay (float, rounded) or number (int) of contextual ones; one token at
            least is dominant.
        attention: ``"class"``, ``"received"``, ``"readout"`` or ``"text"``: whose attention makes a token dominant.
            None for the class token's; where there is none, what all patches pay; else that of the token that is read.
        class_token: whether one of the K is the encoder's class token, as published; at the hand-over only. None for
            where the encoder's class token can be had.
    """

    contextual: Any = 0.15625
    attention: str | None = None
    class_token: bool | None = None

    by_sample = True

    def __post_init__(self) -> None:
        if self.keep is None and self.remove is None:
            object.__setattr__(self, "keep", 1 / 9)
        super().__post_init__()
        check_attention(self.attention)
        if isinstance(self.contextual, float):
            check_ratio("contextual", self.contextual)
        elif not isinstance(self.contextual, int) or isinstance(self.contextual, bool) or self.contextual < 0:
            raise OptionError(
                f"contextual must be a share in [0, 1] or a non-negative integer, got {self.contextual!r}"
            )
        if self.class_token not in (None, True, False):
            raise OptionError(f"class_token must be True, False or None, got {self.class_token!r}")

    @property
    def needs(self) -> Collection[str]:
        return {f"{self.attention or 'class'}_attention", "keys"}

    def layers(self, backbone: Backbone) -> list[int]:
        return read_layer(backbone)

    def bind(self, backbone: Backbone) -> VisionZipped:
        attention = attention_on(backbone, self.attention, "VisionZip")
        merges = {"encoder_features", "projector"} <= backbone.provides
        has_class = merges and "class_features" in backbone.provides
        if self.class_token and not has_class:
            raise UnfitReducerError(
                f"class_token=True: {backbone.model} hands over no class token of its encoder in the stack "
                f"{backbone.stack!r}; leave class_token out"
            )
        class_token = has_class if self.class_token is None else self.class_token
        made = replace(self, attention=attention, class_token=class_token)
        made.check_needs(backbone)
        return VisionZipped(made, merges, backbone.stack == "handover")

    def contextual_of(self, counts: Tensor) -> Tensor:
        """(B,) how many of the tokens that stay are contextual."""
        wanted = (self.contextual * counts.double()).round().to(counts.dtype)
        if isinstance(self.contextual, int):
            wanted = torch.full_like(counts, self.contextual)
        return torch.minimum(wanted, counts - 1)


class VisionZipped(BoundReducer):
    """VisionZip on a stack.

    Args:
        reducer: whose options are in force.
        merges: whether encoder features are merged, in front of the projector.
        handover: whether contextual tokens are new ones.
    """

    def __init__(self, reducer: VisionZip, merges: bool, handover: bool) -> None:
        super().__init__(reducer)
        self.merges, self.handover = merges, handover

    @property
    def needs(self) -> Collection[str]:
        needs = set(self.reducer.needs)
        if self.merges:
            needs |= {"encoder_features", "projector"}
        return needs | {"class_features"} if self.reducer.class_token else needs

    @property
    def notes(self) -> tuple[str, ...]:
        if self.merges or not self.handover:
            return ()
        return (
            "tokens are merged behind the projector, which takes several patches to a token here; published is in "
            "front of it",
        )

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        reducer: VisionZip = self.reducer
        stream = streams[streams.main]
        tokens, budget, prefix = stream.tokens, reducer.budget, stream.tokens.prefix
        if reducer.removes_nothing(site, tokens):
            return {}
        score = attention_of(stream, reducer.attention or "class")
        if budget.rule is None and not tokens.ragged:
            most = tokens.removable - reducer.count(budget, site, tokens)
            counts = torch.full(tokens.x.shape[:1], most, device=tokens.x.device)
        else:
            counts = reducer.kept_counts(stream, site, score)
            counts = counts.clamp(max=budget.cap(site, tokens.removable)).clamp(min=1)
            most = int(counts.max())  # the host waits once
        contextual = reducer.contextual_of(counts)
        dominant = counts - contextual
        if reducer.class_token:
            contextual = torch.minimum(contextual, (counts - 2).clamp(min=0))
            dominant = counts - contextual - 1
        found = zipped(score[:, prefix:], stream.signals.keys[:, prefix:], dominant, contextual, free_real(stream))
        ragged, extra = budget.rule is not None or tokens.ragged, int(bool(reducer.class_token))
        reduction = merged(stream, found, most - extra, counts - extra if ragged else None, self.handover)
        return {streams.main: self._valued(stream, reduction) if self.merges else reduction}

    def _valued(self, stream: Stream, reduction: Reduction) -> Reduction:
        """The reduction with features of new tokens made in front of the projector, and the class token in front."""
        signals = stream.signals
        features = reduction.apply(signals.encoder_features)
        if self.reducer.class_token:
            own = signals.class_features
            if own.shape[1] > 1:
                raise UnsupportedCallError(
                    "VisionZip with class_token=True reduces images one by one, got several as one unit; leave "
                    "unit='sample' out, or pass class_token=False"
                )
            reduction = in_front(reduction)
            features = torch.cat([own.to(features.dtype), features], dim=1)
        reduction.values, reduction.given = signals.projector(features), reduction.keep < 0
        return reduction
