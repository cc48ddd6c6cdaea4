"""What a pass costs, from its token counts. Everything here is known on the host."""

from __future__ import annotations

from collections.abc import Sequence

from ...backbones.causal import LanguageModel
from ...core.site import Site
from ..record import SiteTokens
from .left import Left
from .record import CausalRecord
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
        self.before = self.after = 0

    def layer(self, index: int, past: int) -> None:
        """A layer runs on what is left; ``past`` tokens are in its cache (as many as there were, at most)."""
        weights, width = self.language.cost(index)
        self.before += sum(multiply_adds(n, n + past, weights, width) for n in self.first)
        self.after += sum(multiply_adds(n, n + past, weights, width) for n in self.left.tokens)
        self.image_tokens.append(self.mean([sum(images) for images in self.left.lengths]))

    def site(self, site: Site, before: Sequence[int], after: Sequence[int]) -> None:
        """Image tokens of each sample around a site."""
        self.sites.append(SiteTokens(site.stack, site.layer, "image", self.whole(before), self.whole(after)))

    def mean(self, counts: Sequence[int]) -> float:
        """Over the samples that have an image."""
        seen = [count for count, images in zip(counts, self.images, strict=True) if images]
        return sum(seen) / max(len(seen), 1)

    def whole(self, counts: Sequence[int]) -> int:
        """The mean as a whole number."""
        return round(self.mean(counts))

    def record(self, kv_bytes: tuple[int, int] | None, trace: PromptTrace | None) -> CausalRecord:
        """Of the whole pass."""
        batch = self.left.batch
        text = sum(self.left.text) / batch
        tower, projector = self.language.tower_macs(self.left.prompt)
        return CausalRecord(
            self.sites,
            {"image": self.mean(self.images), "text": text},
            {"image": self.mean([sum(images) for images in self.left.lengths]), "text": text},
            self.image_tokens,
            (self.before // batch, self.after // batch),
            tower // batch,
            projector // batch,
            None if kv_bytes is None else (kv_bytes[0] // batch, kv_bytes[1] // batch),
            trace,
        )


def multiply_adds(tokens: int, keys: int, weights: int, width: int) -> int:
    """Of one layer for one sample: its matrices, and the two products of its attention."""
    return tokens * (weights + 2 * keys * width)
