"""What one pass of a language model with images did. Axes: B batch, q columns of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..record import SiteTokens, mean, spread
from .trace import PromptTrace


@dataclass(frozen=True)
class Pieces:
    """Counts of a batch whose images are of several tiles.

    Attributes:
        images, tiles: how many there are.
        before, after: image tokens at the start and after the last layer.
        separators: tokens between rows, which stay and are not counted as the image's.
    """

    images: int
    tiles: int
    before: int
    after: int
    separators: int = 0

    @property
    def per_image(self) -> float:
        """Tokens left of an image, over all its tiles."""
        return self.after / self.images

    @property
    def per_tile(self) -> float:
        """Tokens left of a tile, as several papers count."""
        return self.after / self.tiles

    def __str__(self) -> str:
        counts = " and ".join(
            f"{self.before / number:.4g} → {self.after / number:.4g} of {name}"
            for name, number in (("an image", self.images), ("a tile", self.tiles))
        )
        kept = f"; {self.separators / self.images:.4g} separators stay" if self.separators else ""
        return f"tokens {counts} ({self.tiles / self.images:.3g} tiles an image{kept})"


@dataclass
class CausalRecord:
    """What the last pass of a language model with new images did; passes that only decode leave it as it is.

    Numbers of tokens are means over the samples of the batch.

    Attributes:
        sites: image tokens before and after each site.
        initial: tokens of image and text at the start.
        counts: tokens of image and text after the last layer; (B,) where samples have different numbers.
        image_tokens: image tokens that each layer works on.
        macs: multiply-adds of the language model's layers in this pass for one sample, without and with reduction.
        macs_of_samples: (B,) or (1,) the second of them for each sample.
        tower_macs, projector_macs: of the vision tower and the projector, for one sample; 0 for a tower that is
            reduced, which has a record of its own.
        kv_bytes: of keys and values of one sample, with every token and as held; None without a cache.
        trace: where each token of the prompt went; None where none is kept.
        pieces: counts by image and by tile; None where images have no tiles.
        pictures: that the vision tower has seen for one sample: images, or their tiles.
    """

    sites: list[SiteTokens]
    initial: dict[str, float]
    counts: dict[str, int | Tensor]
    image_tokens: list[float]
    macs: tuple[int, int]
    macs_of_samples: Tensor
    tower_macs: int = 0
    projector_macs: int = 0
    kv_bytes: tuple[int, int] | None = None
    trace: PromptTrace | None = None
    pieces: Pieces | None = None
    pictures: float = 1.0
    losses: dict[str, Tensor] = field(default_factory=dict)
    gates: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[tuple[int, bool], Tensor] = field(default_factory=dict)
    mean_counts: dict[str, float | Tensor] = field(default_factory=dict)

    @property
    def tokens(self) -> dict[str, int | float]:
        """Tokens of image and text after the last layer, the mean over the samples (of images: over those with one)."""
        return {name: mean(count) for name, count in self.counts.items()}

    @property
    def spread(self) -> dict[str, float]:
        """Standard deviation over the samples of what is left; 0 where all have the same number."""
        return {name: spread(count) for name, count in self.counts.items()}

    @property
    def mean_image_tokens(self) -> float:
        """Image tokens of a layer on average, as papers state a budget."""
        return sum(self.image_tokens) / max(len(self.image_tokens), 1)

    @property
    def remarks(self) -> list[str]:
        """What a handle prints beside sites and multiply-adds."""
        lines = [f"  image tokens per layer: {runs(self.image_tokens)}; mean {self.mean_image_tokens:.4g}"]
        if self.pieces is not None:
            lines.append(f"  {self.pieces}")
        encoders = {"vision tower": self.tower_macs, "projector": self.projector_macs}
        named = [f"{name} {gmacs(macs)}" for name, macs in encoders.items() if macs]
        if named:
            lines.append(f"  {', '.join(named)} per sample")
        if self.kv_bytes is not None:
            before, after = (size / 2**20 for size in self.kv_bytes)
            lines.append(f"  keys and values: {before:.2f} → {after:.2f} MiB per sample")
        return lines


def runs(numbers: Sequence[float]) -> str:
    """Equal neighbours together: ``576 x 2, 288 x 30``."""
    groups: list[list[float]] = []
    for number in numbers:
        if groups and groups[-1][0] == number:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{group[0]:.4g} x {len(group)}" for group in groups)


def gmacs(macs: float) -> str:
    """Multiply-adds in a fitting unit."""
    return f"{macs / 1e9:.2f} GMACs" if macs >= 1e8 else f"{macs / 1e6:.2f} MMACs"
