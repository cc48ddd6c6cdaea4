"""What PuMer does at a site. Axes: B batch, N image tokens, T text tokens, K survivors."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreduce.methods import BaseReducer, BoundReducer, Reduction, Site, Stream, Streams, Tokens, saliency
from tokenreduce.ops import bipartite


class BoundPuMer(BoundReducer):
    """PuMer with its ratios and measure resolved for one model.

    Args:
        reducer: the options in force.
        one_sequence: whether the published code for ViLT is followed, which skips a site where nothing is pruned.
        notes: what is to be said of it.
    """

    def __init__(self, reducer: BaseReducer, one_sequence: bool, notes: tuple[str, ...]) -> None:
        super().__init__(reducer)
        self.one_sequence, self._notes = one_sequence, notes
        self._budgets = tuple(reducer.budgets().values())

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    def ratios_at(self, site: Site) -> tuple[float, float, float]:
        """The three ratios at a site."""
        prune, merge, text_merge = (float(budget.value(site)) for budget in self._budgets)
        return prune, merge, text_merge

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        share, merge_share, text_share = self.ratios_at(site)
        if not self.reducer.modality_aware:
            return self._whole(streams, site, share, merge_share, text_share)
        main = streams.main
        image = streams[main].tokens
        counts = self._counts(share, merge_share, image.count, self._prefix(streams[main]))
        if counts is None:
            return {}
        chosen = {}
        if any(counts):
            chosen[main] = self._image(streams[main], site, *counts)
        if "text" in streams and main != "text":
            text = streams["text"].tokens
            text_merge = merged_count(text_share, text.count, text.count, max(text.prefix, 1))
            if text_merge:
                chosen["text"] = merge_tokens(text, streams["text"].signals.keys, text_merge)
        return chosen

    def _counts(self, prune_share: float, merge_share: float, length: int, prefix: int) -> tuple[int, int] | None:
        """How many of ``length`` image tokens are pruned and merged; None where the site is skipped."""
        prune = min(round(prune_share * length), max(length - prefix - 1, 0))
        if prune_share > 0 and prune == 0 and self.one_sequence:
            return None
        return prune, merged_count(merge_share, length, length - prune, max(prefix, 1))

    def _prefix(self, stream: Stream) -> int:
        return stream.tokens.prefix if self.reducer.protect_class else 0

    def _image(self, stream: Stream, site: Site, prune: int, merge: int) -> Reduction:
        keys, whole, real = stream.signals.keys, stream.tokens, stream.tokens.real
        tokens = Tokens(whole.x, None, real, self._prefix(stream))
        if not prune:
            return merge_tokens(tokens, keys, merge)
        assert self.reducer.saliency is not None
        score = saliency(self.reducer.saliency, stream, site, seed=self.reducer.seed)
        first = tokens.keep_top(score, remove=prune, order="score")
        if not merge:
            return first
        keep, source, target = bipartite(
            first.take(keys), merge, prefix=max(tokens.prefix, 1), real=None if real is None else first.take(real)
        )
        return first.then(Reduction(keep, source, target, length=first.count, partial=real is not None))

    def _whole(
        self, streams: Streams, site: Site, share: float, merge_share: float, text_share: float
    ) -> dict[str, Reduction]:
        """Prune image tokens, then merge over text and image as one set; text tokens stay in front.

        Once both were merged together nobody knows how many tokens are of the image: all that went count as its own,
        as long as one is left.
        """
        name, stream = streams.sequence, streams.whole()
        tokens, keys = stream.tokens, stream.signals.keys
        assert name is not None and stream.kinds is not None
        removed = sum(streams.initial.values()) - tokens.count
        length = streams.initial["image"] - min(removed, streams.initial["image"] - 1)
        prefix = self._prefix(streams["image"]) if "image" in streams else 0
        counts = self._counts(share, merge_share, length, prefix)
        if counts is None:
            return {}
        text = tokens.count - length
        prune, merge = counts[0], counts[1] + merged_count(text_share, text, text, max(tokens.prefix, 1))
        if not prune and not merge:
            return {}
        first = tokens.identity()
        if prune:
            assert self.reducer.saliency is not None
            score = saliency(self.reducer.saliency, stream, site, seed=self.reducer.seed)
            spared = stream.kinds != streams.numbers.index("image")
            spared = spared if tokens.real is None else spared & tokens.real
            first = tokens.keep_top(score.masked_fill(spared, float("inf")), remove=prune)
        if not merge:
            return {name: first}
        real = None if tokens.real is None else first.take(tokens.real)
        keep, source, target = bipartite(first.take(keys), merge, prefix=max(tokens.prefix, 1), real=real)
        order = keep.argsort(dim=1)  # back to sequence order
        position = torch.arange(keep.shape[1], device=keep.device).expand_as(order)
        place = torch.empty_like(order).scatter(1, order, position)
        target = torch.where(target >= 0, place.gather(1, target.clamp(min=0)), -1)
        merged = Reduction(keep.gather(1, order), source, target, length=first.count, partial=real is not None)
        return {name: first.then(merged)}


def merged_count(ratio: float, length: int, kept: int, protected: int) -> int:
    """round(ratio * length), at most half of the unprotected survivors."""
    return min(round(ratio * length), max(kept - protected, 0) // 2)


def merge_tokens(tokens: Tokens, keys: Tensor, merge: int) -> Reduction:
    """Merge similar tokens of one stream in sequence order by keys (B, N, d); the first is protected."""
    prefix = max(tokens.prefix, 1)
    keep, source, target = bipartite(keys, merge, prefix=prefix, real=tokens.real)
    return Reduction(keep, source, target, length=tokens.count, partial=tokens.real is not None)
