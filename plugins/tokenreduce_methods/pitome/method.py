"""Merging that preserves the spectrum of the tokens' graph. Axes: B batch, N tokens, n of them not protected."""

from __future__ import annotations

from typing import Any

import torch

from tokenreduce.errors import OptionError
from tokenreduce.methods import Backbone, BaseReducer, Budget, Reduction, Site, Streams, Tokens

from .energy import cosines, energy, match_by_energy

STEEPEST = 0.9  # the margin in the first layer, as published; it falls to 0 after the last one


class PiToMe(BaseReducer):
    """Merge tokens that many others resemble, and protect those that stand alone.

    Each token has an energy: the mean of its similarities (cosine of keys) to the others, where those below a margin
    take away. Of n tokens, k = floor((1 - keep) * n) go: the 2k with the highest energy are paired, every second of
    them in falling order merging into the most similar one between, and the others stay as they are. Merged values are
    means weighted by size.

    Source: Tran et al., Accelerating Transformers with Spectrum-Preserving Token Merging, NeurIPS 2024, arXiv
    2405.16148, section 3. Where this differs: tokens that stay keep their order (published: protected tokens first,
    merged ones after them), which attention does not see; padding is removed before anything merges; any number of
    protected tokens in front, not only the class token.

    Args:
        keep: share of the unprotected tokens that stay at each site (float in (0, 1]) or their number (int), or a list
            with one per site. At most half go at one site.
        margin: cosine from which two tokens count as similar, in [-1, 1]. None for the published
            ``0.9 - 0.9 * layer / depth``.
        alpha: how much tokens below the margin take away from the energy.
        proportional_attention: let attention count a merged token by its size.
    """

    keep: Any = 0.9
    margin: float | None = None
    alpha: float = 1.0
    proportional_attention: bool = True

    needs = frozenset({"keys"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin is not None and not _within(self.margin, -1, 1):
            raise OptionError(f"margin must be a number in [-1, 1] or None, got {self.margin!r}")
        if not _within(self.alpha, 0, 1e6):
            raise OptionError(f"alpha must be a non-negative number, got {self.alpha!r}")
        if not isinstance(self.proportional_attention, bool):
            raise OptionError(f"proportional_attention must be True or False, got {self.proportional_attention!r}")

    def budgets(self) -> dict[str, Budget]:
        return {"keep": Budget.of("keep", self.keep)}

    def layers(self, backbone: Backbone) -> list[int]:
        return list(range(backbone.depth))

    def count(self, budget: Budget, site: Site, tokens: Tokens) -> int:
        return min(budget.at(site, tokens.removable), tokens.removable // 2)

    def margin_at(self, site: Site) -> float:
        """The margin in force in a layer."""
        return STEEPEST * (1 - site.layer / site.depth) if self.margin is None else self.margin

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        tokens, prefix = stream.tokens, stream.tokens.prefix
        remove = self.count(self.budget, site, tokens)
        if remove <= 0:
            return {}
        real = None if tokens.real is None else tokens.real[:, prefix:]
        cosine = cosines(stream.signals.keys[:, prefix:])
        ranked = energy(cosine, self.margin_at(site), self.alpha, real)
        keep, source, target = match_by_energy(ranked, cosine, remove, real)
        front = torch.arange(prefix, device=keep.device).expand(keep.shape[0], -1)
        keep, source = torch.cat([front, keep + prefix], dim=1), source + prefix
        return {
            streams.main: Reduction(
                keep,
                source,
                target + prefix if real is None else torch.where(target >= 0, target + prefix, -1),
                length=tokens.count,
                size=tokens.sizes(),
                partial=real is not None,
            )
        }


def _within(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
