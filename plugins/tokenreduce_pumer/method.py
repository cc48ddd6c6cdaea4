"""PuMer's token reducer. Axes: B batch, N image tokens, T text tokens, K survivors."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch

from tokenreduce import OptionError, Reducer, Reduction, Site, Stream, Streams, UnfitReducerError
from tokenreduce.ops.match import bipartite
from tokenreduce.ops.saliency import NEEDS, alternatives, saliency
from tokenreduce.reducer import Backbone
from tokenreduce.schedule import check_ratio, check_seed, spaced


class PuMer(Reducer):
    """Prune image tokens by text attention, merge the survivors among themselves, merge text tokens likewise.

    All ratios are relative to the stream's length on entry to the site, class tokens counted; counts are
    rounded half to even. Survivors stand in falling order of saliency, the two merges are plain means
    (sizes are not carried into them), and the highest-scored survivor never merges, all as published.

    Source: Cao, Paranjape, Hajishirzi, PuMer: Pruning and Merging Tokens for Efficient Vision Language
    Models, ACL 2023, arXiv 2305.17530. Where this differs, on padded input only: padded text does not vote,
    padding is removed before real tokens and merges with nothing. Published code also skips a site without
    any merging where ``round(prune * N)`` is 0; so does this, but not for ``prune=0``.

    Args:
        prune: share of image tokens pruned at each site, in [0, 1).
        merge: share of image tokens merged at each site, in [0, 1].
        text_merge: share of text tokens merged at each site, in [0, 1].
        saliency: what pruning goes by: ``"text"`` (default where the backbone crosses modalities),
            ``"class"`` (default elsewhere), ``"key-norm"`` or ``"random"``.
        modality_aware: merge within each modality; False merges the same number of tokens over both together.
        seed: for ``saliency="random"``.
    """

    default_layers: ClassVar[tuple[int, ...]] = (2, 5, 8)

    def __init__(
        self,
        *,
        prune: float = 0.1,
        merge: float = 0.3,
        text_merge: float = 0.2,
        saliency: str | None = None,
        modality_aware: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(keep=1.0)
        if check_ratio("prune", prune) == 1:
            raise OptionError("prune must be a number in [0, 1), got 1")
        check_ratio("merge", merge)
        check_ratio("text_merge", text_merge)
        if saliency is not None and saliency not in NEEDS:
            raise OptionError(f"saliency must be one of {', '.join(map(repr, NEEDS))} or None, got {saliency!r}")
        if not isinstance(modality_aware, bool):
            raise OptionError(f"modality_aware must be True or False, got {modality_aware!r}")
        self.prune, self.merge, self.text_merge = prune, merge, text_merge
        self.saliency, self.modality_aware, self.seed = saliency, modality_aware, check_seed(seed)
        self._settle(saliency)

    def _settle(self, kind: str | None) -> None:
        self.measure = kind
        self.needs = {"keys"} | (NEEDS[kind] if kind and self.prune > 0 else frozenset())

    def layers(self, depth: int) -> list[int]:
        return spaced(self.default_layers, depth, last=True)

    def bind(self, backbone: Backbone) -> PuMer:
        settled = copy.copy(self)
        if self.saliency is None:
            fallback = [kind for kind in ("text", "class") if NEEDS[kind] <= backbone.provides]
            if not fallback and self.prune > 0:
                raise UnfitReducerError(
                    f"PuMer prunes by text or class attention, {backbone.model} provides neither in its stack "
                    f"{backbone.stack!r}; pass {alternatives(backbone.provides)}, or prune=0 to merge alone."
                )
            settled._settle(fallback[0] if fallback else None)
            if fallback == ["class"]:
                settled.notes = ("no text crosses this stack: PuMer prunes by class-token attention here",)
        if not self.modality_aware and not backbone.joint:
            raise UnfitReducerError(
                f"modality_aware=False needs text and image in one sequence, {backbone.model} has only "
                f"{', '.join(backbone.streams)} in its stack {backbone.stack!r}; leave it True."
            )
        Reducer.bind(settled, backbone)
        return settled

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        image = streams["image"].tokens
        length, prefix = image.count, image.prefix
        prune = min(round(self.prune * length), max(length - prefix - 1, 0))
        if self.prune > 0 and prune == 0:
            return {}
        kept = length - prune
        merge = merged_count(self.merge, length, kept, max(prefix, 1))
        text_merge = 0
        if "text" in streams:
            text = streams["text"].tokens
            text_merge = merged_count(self.text_merge, text.count, text.count, max(text.prefix, 1))
        if not self.modality_aware:
            total = merge + text_merge
            return self._joint(streams.joint(), site, prune, total) if prune or total else {}
        chosen = {}
        if prune or merge:
            chosen["image"] = self._image(streams["image"], site, prune, merge)
        if text_merge:
            chosen["text"] = merge_tokens(streams["text"], text_merge)
        return chosen

    def _image(self, stream: Stream, site: Site, prune: int, merge: int) -> Reduction:
        tokens, keys, real = stream.tokens, stream.signals.keys, stream.tokens.real
        if not prune:
            return merge_tokens(stream, merge)
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


def merged_count(ratio: float, length: int, kept: int, protected: int) -> int:
    """round(ratio * length), at most half of the unprotected survivors."""
    return min(round(ratio * length), max(kept - protected, 0) // 2)


def merge_tokens(stream: Stream, merge: int) -> Reduction:
    """Merge similar tokens of one stream in sequence order; the first is protected."""
    tokens = stream.tokens
    prefix = max(tokens.prefix, 1)
    keep, source, target = bipartite(stream.signals.keys, merge, prefix=prefix, real=tokens.real)
    return Reduction(keep, source, target, length=tokens.count, partial=tokens.real is not None)
