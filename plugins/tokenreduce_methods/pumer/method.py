"""PuMer's token reducer. Axes: B batch, N image tokens, T text tokens, K survivors."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenreduce import Reducer
from tokenreduce.errors import OptionError, UnfitReducerError
from tokenreduce.methods import (
    NEEDS,
    Backbone,
    Reduction,
    Site,
    Stream,
    Streams,
    Tokens,
    alternatives,
    check_ratio,
    check_seed,
    per_site,
    saliency,
    spaced,
)
from tokenreduce.ops import bipartite

Share = float | Sequence[float]  # everywhere, or one per site


@dataclass(frozen=True)
class Published:
    """A published setting: the three ratios, and the layers of how many it acts in."""

    prune: float
    merge: float
    text_merge: float
    layers: Sequence[int]
    depth: int
    last: bool  # whether layers are counted from the end of the layer when carried over to another depth


ONE_SEQUENCE = Published(0.1, 0.3, 0.2, (2, 5, 8), 12, True)  # ViLT, VQAv2
TWO_SEQUENCES = Published(0.2, 0.2, 0.2, (0, 1, 2, 3), 6, False)  # METER, VQAv2; published as layers 0, 2, 4, 6


class PuMer(Reducer):
    """Prune image tokens by text attention, merge the survivors among themselves, merge text tokens likewise.

    All ratios are relative to the stream's length on entry to the site, class tokens counted; counts are
    rounded half to even. Survivors stand in falling order of saliency, the two merges are plain means
    (sizes are not carried into them), and what stands first never merges, all as published: the
    highest-scored survivor, or the class token where one is protected.

    Source: Cao, Paranjape, Hajishirzi, PuMer: Pruning and Merging Tokens for Efficient Vision Language
    Models, ACL 2023, arXiv 2305.17530. Where this differs: on padded input, padded text does not vote, padding
    is removed before real tokens and merges with nothing. Published code for ViLT also skips a site without any
    merging where ``round(prune * N)`` is 0; so does this where all tokens stand in one sequence, but not for
    ``prune=0``. Published code for METER prunes nothing where ``merge`` is 0; this does. METER's head reads the
    image's class token, which published code lets go; see ``protect_class``.

    Where text and image stand in two sequences it acts in the block where text attends to the image: image keys
    and text attention are those of the cross-attention, text keys those of the text's self-attention.

    Args:
        prune: share of image tokens pruned at each site, in [0, 1), or a list with one per site (0 at sites beyond
            it). None for the published share: 0.1 where text and image stand in one sequence (and without text), 0.2
            where they stand in two.
        merge: share of image tokens merged at each site, in [0, 1], or a list likewise. None for the published
            share: 0.3 or 0.2.
        text_merge: share of text tokens merged at each site, in [0, 1], or a list likewise. None for the published
            share: 0.2.
        saliency: what pruning goes by: ``"text"`` (default where the backbone crosses modalities),
            ``"class"`` (default elsewhere), ``"key-norm"`` or ``"random"``.
        protect_class: keep the image's class token in front where the head reads it (METER, CLIP, ViT). False is
            the published behaviour: an ordinary token, and the head reads what stands first in PuMer's order.
        modality_aware: merge within each modality; False merges the same number of tokens over both together.
        seed: for ``saliency="random"``.
    """

    streams = ("text", "image")

    def __init__(
        self,
        *,
        prune: Share | None = None,
        merge: Share | None = None,
        text_merge: Share | None = None,
        saliency: str | None = None,
        protect_class: bool = True,
        modality_aware: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(keep=1.0)
        for name, value in (("prune", prune), ("merge", merge), ("text_merge", text_merge)):
            for one in value if isinstance(value, (list, tuple)) else () if value is None else (value,):
                if check_ratio(name, one) == 1 and name == "prune":
                    raise OptionError("prune must be a number in [0, 1), got 1")
        if saliency is not None and saliency not in NEEDS:
            raise OptionError(f"saliency must be one of {', '.join(map(repr, NEEDS))} or None, got {saliency!r}")
        for name, flag in (("modality_aware", modality_aware), ("protect_class", protect_class)):
            if not isinstance(flag, bool):
                raise OptionError(f"{name} must be True or False, got {flag!r}")
        self.prune, self.merge, self.text_merge = prune, merge, text_merge
        self.saliency, self.modality_aware, self.seed = saliency, modality_aware, check_seed(seed)
        self.protect_class = protect_class
        self.published = ONE_SEQUENCE
        self._settle(saliency)

    def _settle(self, kind: str | None) -> None:
        self.measure = kind
        self.stochastic = kind == "random"
        self.needs = {"keys"} | (NEEDS[kind] if kind and self.prune != 0 else frozenset())

    def layers(self, depth: int) -> list[int]:
        published = self.published
        return spaced(published.layers, depth, base=published.depth, last=published.last)

    def ratios(self) -> tuple[Share, Share, Share]:
        """``prune``, ``merge`` and ``text_merge`` in force, published ones where none were given."""
        given, published = (self.prune, self.merge, self.text_merge), self.published
        defaults = (published.prune, published.merge, published.text_merge)
        prune, merge, text_merge = (d if g is None else g for g, d in zip(given, defaults, strict=True))
        return prune, merge, text_merge

    def ratios_at(self, site: Site) -> tuple[float, float, float]:
        """The three ratios at a site."""
        prune, merge, text_merge = (per_site(ratio, site.total, "", 0.0)[site.index] for ratio in self.ratios())
        return prune, merge, text_merge

    def check_sites(self, sites: int) -> None:
        for name, value in (("prune", self.prune), ("merge", self.merge), ("text_merge", self.text_merge)):
            per_site(value, sites, name, 0.0)

    def bind(self, backbone: Backbone) -> PuMer:
        settled = copy.copy(self)
        settled.published = TWO_SEQUENCES if len(backbone.streams) > 1 and not backbone.joint else ONE_SEQUENCE
        settled.prune, settled.merge, settled.text_merge = settled.ratios()
        if self.saliency is None:
            fallback = [kind for kind in ("text", "class") if NEEDS[kind] <= backbone.provides]
            hint = alternatives(backbone.provides, backbone.guidable)
            if not fallback and settled.prune != 0:
                raise UnfitReducerError(
                    f"PuMer prunes by text or class attention, {backbone.model} provides neither in its stack "
                    f"{backbone.stack!r}; pass {hint}, or prune=0 to merge alone."
                )
            settled._settle(fallback[0] if fallback else None)
            if fallback == ["class"]:
                hint = "; handle.guide(text_features) lets a text say what matters" if backbone.guidable else ""
                settled.notes = (f"no text crosses this stack: PuMer prunes by class-token attention here{hint}",)
        if not self.modality_aware and not backbone.joint:
            raise UnfitReducerError(
                f"modality_aware=False needs text and image in one sequence, {backbone.model} has only "
                f"{', '.join(backbone.streams)} in its stack {backbone.stack!r}; leave it True."
            )
        Reducer.bind(settled, backbone)
        return settled

    def scaled(self, factor: float, sites: int) -> dict[str, Any]:
        """The three ratios in their proportion, each up to its limit."""
        prune, merge, text_merge = self.ratios()
        return {
            "prune": scaled_share(prune, factor, 0.99),
            "merge": scaled_share(merge, factor, 1.0),
            "text_merge": scaled_share(text_merge, factor, 1.0),
        }

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        share, merge_share, text_share = self.ratios_at(site)
        main = streams.main
        image = streams[main].tokens
        length, prefix = image.count, self._prefix(streams[main])
        prune = min(round(share * length), max(length - prefix - 1, 0))
        if share > 0 and prune == 0 and self.published == ONE_SEQUENCE:
            return {}
        kept = length - prune
        merge = merged_count(merge_share, length, kept, max(prefix, 1))
        text_merge = 0
        if "text" in streams and main != "text":
            text = streams["text"].tokens
            text_merge = merged_count(text_share, text.count, text.count, max(text.prefix, 1))
        if not self.modality_aware:
            total = merge + text_merge
            return self._joint(streams.joint(), site, prune, total) if prune or total else {}
        chosen = {}
        if prune or merge:
            chosen[main] = self._image(streams[main], site, prune, merge)
        if text_merge:
            chosen["text"] = merge_tokens(text, streams["text"].signals.keys, text_merge)
        return chosen

    def _prefix(self, stream: Stream) -> int:
        return stream.tokens.prefix if self.protect_class else 0

    def _image(self, stream: Stream, site: Site, prune: int, merge: int) -> Reduction:
        keys, whole, real = stream.signals.keys, stream.tokens, stream.tokens.real
        tokens = Tokens(whole.x, whole.size, real, self._prefix(stream))
        if not prune:
            return merge_tokens(tokens, keys, merge)
        assert self.measure is not None
        score = saliency(self.measure, stream, site, seed=self.seed)
        first = tokens.keep_top(score, remove=prune, order="score")
        if not merge:
            return first
        keep, source, target = bipartite(
            first.take(keys), merge, prefix=max(tokens.prefix, 1), real=None if real is None else first.take(real)
        )
        return first.then(Reduction(keep, source, target, length=first.count, partial=real is not None))

    def _joint(self, stream: Stream, site: Site, prune: int, merge: int) -> dict[str, Reduction]:
        """Prune image tokens, then merge over text and image as one set; text tokens stay in front."""
        tokens, keys, kind = stream.tokens, stream.signals.keys, stream.is_image
        assert kind is not None
        first = tokens.identity()
        if prune:
            assert self.measure is not None
            score = saliency(self.measure, stream, site, seed=self.seed)
            spared = ~kind if tokens.real is None else ~kind & tokens.real
            first = tokens.keep_top(score.masked_fill(spared, float("inf")), remove=prune)
        if not merge:
            return {"joint": first}
        real = None if tokens.real is None else first.take(tokens.real)
        prefix = max(tokens.prefix, 1)
        keep, source, target = bipartite(first.take(keys), merge, prefix=prefix, real=real)
        order = keep.argsort(dim=1)  # back to sequence order
        position = torch.arange(keep.shape[1], device=keep.device).expand_as(order)
        place = torch.empty_like(order).scatter(1, order, position)
        target = torch.where(target >= 0, place.gather(1, target.clamp(min=0)), -1)
        merged = Reduction(keep.gather(1, order), source, target, length=first.count, partial=real is not None)
        return {"joint": first.then(merged)}


def scaled_share(share: Share, factor: float, most: float) -> Share:
    """A share, or each one of a list, that many times as large."""
    if isinstance(share, (int, float)):
        return min(share * factor, most)
    return [min(one * factor, most) for one in share]


def merged_count(ratio: float, length: int, kept: int, protected: int) -> int:
    """round(ratio * length), at most half of the unprotected survivors."""
    return min(round(ratio * length), max(kept - protected, 0) // 2)


def merge_tokens(tokens: Tokens, keys: Tensor, merge: int) -> Reduction:
    """Merge similar tokens of one stream in sequence order by keys (B, N, d); the first is protected."""
    prefix = max(tokens.prefix, 1)
    keep, source, target = bipartite(keys, merge, prefix=prefix, real=tokens.real)
    return Reduction(keep, source, target, length=tokens.count, partial=tokens.real is not None)
