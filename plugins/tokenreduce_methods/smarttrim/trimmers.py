"""SmartTrim on one stack. Axes: B batch, N tokens of a stream, n of them not protected, C width, H heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenreduce.methods import Backbone, BoundReducer, Gate, Reduction, Site, Stream, Streams

from .trimmer import HeadTrimmer, TokenTrimmer, draw, one_stays


class Trimmers(BoundReducer, nn.Module):
    """The trimmers of each layer.

    Args:
        reducer: the options in force.
        backbone: what it acts on.
    """

    def __init__(self, reducer: Any, backbone: Backbone) -> None:
        super().__init__(reducer)
        self.names = tuple(name for name in backbone.streams if reducer.target(name) < 1)
        self.guides = {name: guide_of(name, backbone) for name in self.names}
        self.all_streams, widths = backbone.streams, backbone.widths
        self.tokens = nn.ModuleList(
            nn.ModuleDict({name: TokenTrimmer(widths[name], widths[self.guides[name]]) for name in self.names})
            for _ in range(backbone.sites)
        )
        wanted = backbone.heads if reducer.masks_heads and reducer.head_keep < 1 else {}
        self.attentions = [
            (sequence, cross) for sequence, counts in wanted.items() for cross in (False, True)[: len(counts)]
        ]
        self.heads = nn.ModuleList(
            nn.ModuleList(
                HeadTrimmer([widths[name] for name in backbone.streams], wanted[sequence][cross])
                for sequence, cross in self.attentions
            )
            for _ in range(backbone.sites)
        )

    def reduce_streams(self, streams: Streams, site: Site) -> Mapping[str, Reduction | Gate]:
        chosen: dict[str, Reduction | Gate] = {}
        for name in self.names:
            value = self._trim(streams, name, site)
            if value is not None:
                chosen[name] = value
        if self.attentions:
            self._mask(streams, site)
        return chosen

    def _trim(self, streams: Streams, name: str, site: Site) -> Reduction | Gate | None:
        stream, target = streams[name], self.reducer.target(name)
        tokens, prefix = stream.tokens, stream.tokens.prefix
        trims = target < 1 and (stream.training or self.reducer.odds > 0)
        if not tokens.removable or not (trims or stream.training):
            return None
        trimmer: Any = self.tokens[site.index]
        guide = summary(streams[self.guides[name]])
        logit: Tensor = trimmer[name](tokens.x[:, prefix:], guide)
        if not stream.training:
            return self._drop(stream, logit)
        real = torch.ones_like(logit) if tokens.real is None else tokens.real[:, prefix:].to(logit.dtype)
        if not trims:  # nothing to draw; the trimmer learns to keep all
            share = (logit.sigmoid() * real).sum() / real.sum().clamp(min=1)
            streams.add_loss("tokens", self.reducer.weight / site.total * (1 - share).square())
            return None
        left = real if stream.gate is None else real * stream.gate[:, prefix:].to(real.dtype)
        kept = one_stays(draw(logit, self.reducer.tau) * left, logit, left)
        if site.index == site.total - 1:
            past = [gate[:, prefix:] for gate in stream.past_gates]
            shares = [(gate * real).sum() / real.sum().clamp(min=1) for gate in (*past, kept)]
            self._hold(streams, "tokens", shares, target)
        return Gate(torch.cat([kept.new_ones(kept.shape[0], prefix), kept], dim=1))

    def _drop(self, stream: Stream, logit: Tensor) -> Reduction | None:
        """Of each sample as many tokens stay as have a logit that is high enough; these have the highest ones."""
        tokens, prefix = stream.tokens, stream.tokens.prefix
        high = logit >= math.log(self.reducer.odds)
        counts = (high if tokens.real is None else high & tokens.real[:, prefix:]).sum(dim=1)
        reduction = tokens.keep_top(F.pad(logit, (prefix, 0)), counts=counts)
        return None if reduction.count == tokens.count and reduction.valid is None else reduction

    def _mask(self, streams: Streams, site: Site) -> None:
        training = next(iter(streams.values())).training
        if not training and not (self.reducer.odds > 0 and self.reducer.head_keep < 1):
            return
        classes, given = [summary(streams[name]) for name in self.all_streams], list[Tensor]()
        trimmers: Any = self.heads[site.index]
        for (sequence, cross), trimmer in zip(self.attentions, trimmers, strict=True):
            logit: Tensor = trimmer(classes)
            if not training:
                high = logit >= math.log(self.reducer.odds)
                best = F.one_hot(logit.argmax(dim=1), logit.shape[1]).bool()  # one head stays
                streams.mask_heads(sequence, (high | best).to(logit.dtype), cross=cross)
                continue
            if self.reducer.head_keep < 1:
                given.append(one_stays(draw(logit, self.reducer.tau), logit, torch.ones_like(logit)))
                streams.mask_heads(sequence, given[-1], cross=cross)
                continue
            share = self.reducer.weight / (site.total * len(self.attentions)) * (1 - logit.sigmoid().mean()).square()
            streams.add_loss("heads", share)
        if given and site.index == site.total - 1:
            shares = [values.mean() for values in (*streams.past_heads, *given)]
            self._hold(streams, "heads", shares, self.reducer.head_keep)

    def _hold(self, streams: Streams, name: str, shares: list[Tensor], target: float) -> None:
        """Add to the loss how far the mean over layers is from the target, squared."""
        streams.add_loss(name, self.reducer.weight * (torch.stack(shares).mean() - target).square())


def guide_of(name: str, backbone: Backbone) -> str:
    """The stream whose class token guides the trimmers of a stream: another one that has one, else itself."""
    others = [other for other in backbone.streams if other != name and backbone.protected.get(other)]
    return others[0] if others else name


def summary(stream: Stream) -> Tensor:
    """(B, C): the first token of a stream where it is a protected one, else the mean of those that are left."""
    tokens = stream.tokens
    if tokens.prefix:
        return tokens.x[:, 0]
    weight = torch.ones_like(tokens.x[..., 0]) if tokens.real is None else tokens.real.to(tokens.x.dtype)
    if stream.gate is not None:
        weight = weight * stream.gate.to(weight.dtype)
    total = (tokens.x * weight.unsqueeze(-1)).sum(dim=1)
    return total / weight.sum(dim=1, keepdim=True).clamp(min=1e-6)
