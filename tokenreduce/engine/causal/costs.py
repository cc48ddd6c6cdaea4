"""What a pass costs, from its token counts. Everything here is known on the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...backbones.causal import LanguageModel
from ...core.site import Site
from ..record import SiteTokens, spread
from .left import Left
from .record import CausalRecord, Pieces
from .trace import PromptTrace


class Costs:
    """Counts tokens and multiply-adds while a pass runs.

    Args:
        language: whose layers they are.
        left: what is left, changed by every cut.
    """

    def __init__(self, language: LanguageModel, left: Left) -> None:
        self.language, self.left = language, left
        self.first = left.tokens
        self.images = [sum(images) for images in left.lengths]
        self.sites: list[SiteTokens] = []
        self.image_tokens: list[float] = []
        self.before = self.after = [0] * left.batch

    def layer(self, index: int, past: int) -> None:
        """A layer runs on what is left; ``past`` tokens are in its cache (as many as there were, at most)."""
        weights, width = self.language.cost(index)
        self.before = added(self.before, [multiply_adds(n, n + past, weights, width) for n in self.first])
        self.after = added(self.after, [multiply_adds(n, n + past, weights, width) for n in self.left.tokens])
        self.image_tokens.append(self.mean([sum(images) for images in self.left.lengths]))

    def site(self, site: Site, before: Sequence[int], after: Sequence[int]) -> None:
        """Image tokens of each sample around a site."""
        means = round(self.mean(before)), round(self.mean(after))
        self.sites.append(SiteTokens(site.stack, site.layer, "image", *means, spread(same(self.seen(after)))))

    def seen(self, counts: Sequence[int]) -> list[int]:
        """Of the samples that have an image."""
        return [count for count, images in zip(counts, self.images, strict=True) if images]

    def mean(self, counts: Sequence[int]) -> float:
        """Over the samples that have an image."""
        return sum(self.seen(counts)) / max(len(self.seen(counts)), 1)

    def record(self, kv_bytes: tuple[int, int] | None, trace: PromptTrace | None) -> CausalRecord:
        """Of the whole pass."""
        batch = self.left.batch
        images = [sum(lengths) for lengths in self.left.lengths]
        tower, projector = self.language.tower_macs(self.left.prompt)
        if self.language.tower_reduced:  # its own record has them
            tower = 0
        return CausalRecord(
            self.sites,
            {"image": self.mean(self.images), "text": sum(self.left.text) / batch},
            {"image": same(self.seen(images)), "text": same(self.left.text)},
            self.image_tokens,
            (sum(self.before) // batch, sum(self.after) // batch),
            torch.tensor(self.after if len(set(self.after)) > 1 else self.after[:1]),
            tower // batch,
            projector // batch,
            None if kv_bytes is None else (kv_bytes[0] // batch, kv_bytes[1] // batch),
            trace,
            self.pieces(),
            self.left.prompt.passes() / batch,
        )

    def pieces(self) -> Pieces | None:
        """Counts by image and by tile, where images are tiled."""
        prompt = self.left.prompt
        if prompt.tiles is None or not sum(self.images):
            return None
        images = sum(len([n for n in lengths if n]) for lengths in prompt.lengths)
        separators = 0 if prompt.separators is None else int(prompt.separators.sum())
        return Pieces(images, prompt.passes(), sum(self.images), sum(map(sum, self.left.lengths)), separators)


def same(counts: Sequence[int]) -> int | Tensor:
    """The number that all have, or (B,) the number of each."""
    if len(set(counts)) > 1:
        return torch.tensor(counts)
    return counts[0] if counts else 0


def added(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Sums sample by sample."""
    return [a + b for a, b in zip(one, other, strict=True)]


def multiply_adds(tokens: int, keys: int, weights: int, width: int) -> int:
    """Of one layer for one sample: its matrices, and the two products of its attention."""
    return tokens * (weights + 2 * keys * width)
