"""Dropping in stages. Axes: B batch, N tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tokenreduce.methods import Backbone, BaseReducer, Budget, Reduction, Site, Streams, layers_after


class PyramidDrop(BaseReducer):
    """Keep fewer image tokens after each stage, by what the prompt's last token would attend to in the next layer.

    The score is computed ahead with the next layer's own norm, projections and positions, averaged over heads and
    normalised over the whole row. Shares are of the tokens that entered the first layer. Kept tokens stay in order;
    nothing merges.

    Source: Xing et al., PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy
    Reduction, CVPR 2025, arXiv 2410.17247: after 8, 16 and 24 of 32 layers 0.5, 0.25 and 0.125. The published code
    numbers what is left anew: ``positions="compact"``. Where this differs: a share is rounded up, not down; in training
    the row is that of the token before the first label, not the mean over several answers; a sample may hold several
    images.

    Args:
        keep: what is left after each site: shares of the tokens at first (float in (0, 1]) or numbers (int); one value
            for all sites, or a list with one per site. None halves what is left at each.
    """

    keep: Any = None

    needs = frozenset({"next_readout_attention"})

    def budgets(self) -> dict[str, Budget]:
        return {} if self.keep is None else {"keep": Budget.of("keep", self.keep)}

    def layers(self, backbone: Backbone) -> list[int]:
        return layers_after([8, 16, 24], backbone.depth)

    def scaled(self, factor: float, sites: int) -> PyramidDrop:
        budget = Budget.of("keep", self.halves(sites) if self.keep is None else self.keep)
        return self if factor == 1 else replace(self, keep=budget.scaled(factor, sites).option())

    @staticmethod
    def halves(sites: int) -> list[float]:
        """0.5, 0.25, 0.125, ..."""
        return [0.5 ** (index + 1) for index in range(sites)]

    def reduce_streams(self, streams: Streams, site: Site) -> dict[str, Reduction]:
        stream = streams[streams.main]
        tokens = stream.tokens
        initial = max(stream.initial or tokens.count, tokens.count) - tokens.prefix
        budget = Budget.of("keep", self.halves(site.total) if self.keep is None else self.keep)
        remove = tokens.removable - (initial - budget.at(site, initial))
        if remove <= 0:
            return {}
        return {streams.main: tokens.keep_top(stream.signals.next_readout_attention, remove=remove)}
